"""Where a request would go now."""
