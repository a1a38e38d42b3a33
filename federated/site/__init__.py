"""A site's loop, its journal, and its connection to the server."""
