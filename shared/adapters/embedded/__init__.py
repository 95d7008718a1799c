"""One machine, no server: SQLite for documents and messages, a directory for objects."""
