"""Generate documents from the code: schemas, examples, the settings page. A test compares the files with the code."""
