"""Changes of endpoints, keys and users: counters that processes poll, and a log that names what changed."""
