"""Read-only answers for the API, the page and the command line."""
