"""A server of tables: files, folders and stores, over HTTP and Arrow Flight.

`settings` says what is allowed, `catalogue` which tables there are, `http` and `flight` offer them, `queries` runs SQL
within limits. Needs the `serve` extra for HTTP.
"""
