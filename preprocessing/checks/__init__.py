"""The rules that a site's data must pass, and the code that checks them."""
