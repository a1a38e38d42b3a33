"""What a server keeps on disk: its database, its models, and which files it has verified recently."""
