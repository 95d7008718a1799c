"""Handling bytes that others made, within limits: what kind they are, unpacking them, work in a subprocess."""
