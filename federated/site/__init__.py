"""A site: its loop, its journal, and its connection to the server."""
