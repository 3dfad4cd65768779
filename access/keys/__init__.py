"""API keys: their forms, restrictions, names, and the limit of their number."""
