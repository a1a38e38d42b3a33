"""What the server keeps on disk: its database and its models."""
