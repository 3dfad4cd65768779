"""Access control: users, API keys, sessions and permissions."""
