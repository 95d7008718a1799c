"""What lies in the results bucket, and how it is written: names, fenced objects, reports, status.json."""
