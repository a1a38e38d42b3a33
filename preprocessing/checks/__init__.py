"""The rules that a site's data must pass, and what looks for breaches."""
