"""What is asked of batches, with typed answers. Every face (command line, API, page) renders the same answers.

Questions change nothing. Each names what it reads, because reads cost money in the cloud.
"""
