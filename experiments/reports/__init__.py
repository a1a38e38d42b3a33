"""Pages, tables and texts that people look at."""
