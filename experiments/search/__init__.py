"""An architecture search: what it trains and scores, in which order, and how it resumes."""
