"""Changes one place of the product at a time and runs the tests, which should notice."""
