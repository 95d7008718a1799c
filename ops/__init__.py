"""What people hold: the command line and the local servers for trying and testing."""
