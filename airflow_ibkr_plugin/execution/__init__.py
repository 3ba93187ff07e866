"""The order path: from a request to a booked fill, exactly once. One path for tasks, CLI, UI and service."""
