"""Questions about batches, with typed answers that every interface (command line, API, page) renders.

Questions change nothing. Each says what it reads, because reads cost money in the cloud.
"""
