"""What a failure says, the outbox it waits in, and Apprise."""
