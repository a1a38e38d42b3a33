"""The synthetic hospitals: anatomy, tumours, scanner, and the cohorts made of them."""
