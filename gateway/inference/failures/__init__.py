"""Responses of endpoints that are no success."""
