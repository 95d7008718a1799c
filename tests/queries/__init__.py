"""Questions about batches, asked of the in-memory backend on virtual time."""
