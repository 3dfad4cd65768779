"""Limits of API keys, users and everyone on the way of an inference request."""
