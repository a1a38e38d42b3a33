"""A site's part in secure sums: its masks, its terms, and what it has helped to open."""
