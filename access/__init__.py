"""Who may do what: users, API keys, sessions, permissions."""
