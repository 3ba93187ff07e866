"""Orders from their placing to their end: the book, the desk, matching."""
