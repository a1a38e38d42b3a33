"""Results for readers: Table 1's report, HTML pages, tables for the terminal, verification."""
