"""The tools that people use: the command line, and the local servers for trying and testing."""
