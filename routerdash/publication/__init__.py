"""Publication: what the database contains, in the registry store that gateways read."""
