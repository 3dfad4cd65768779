"""Structure and language limits of the product, measured by `python -m tests.measures`."""
