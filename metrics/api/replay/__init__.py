"""/api/replays: predictions from recorded traffic."""
