"""Studies: their files, what runs them, and what comes of them."""
