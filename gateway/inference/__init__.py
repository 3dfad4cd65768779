"""The life of one inference request."""
