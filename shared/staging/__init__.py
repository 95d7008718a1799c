"""The three agents (analyse, generate, verify) and the handling of pictures."""
