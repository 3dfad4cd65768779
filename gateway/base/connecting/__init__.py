"""Ways to endpoints: proxies, and why a connection fails."""
