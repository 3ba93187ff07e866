"""What a client talks to: its session, and a handler for each of its requests."""
