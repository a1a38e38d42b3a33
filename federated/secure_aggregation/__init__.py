"""Secure aggregation: the server learns the sum of the sites' updates but no single update."""
