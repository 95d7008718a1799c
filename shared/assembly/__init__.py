"""Where ports and backends meet: the only package that doors and ops start from."""
