"""Cloud providers: where their APIs are, how they take keys, and what their errors and quota headers mean."""
