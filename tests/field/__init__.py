"""Inputs as people who do this job have reported them, and the servers that send such things."""
