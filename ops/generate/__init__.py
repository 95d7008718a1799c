"""Documents made from the code: schemas, examples, the page of settings. A test compares them with it."""
