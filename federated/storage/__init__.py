"""The server's data on disk: its database and its models."""
