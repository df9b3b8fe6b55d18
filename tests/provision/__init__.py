"""What the tests need from the machine: a PostgreSQL server, a browser, a served application."""
