"""What one worker needs around its room: pulling, claims and heartbeats, rights to call, one image in its hands."""
