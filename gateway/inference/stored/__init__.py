"""Responses that endpoints store: their streams, and those in the background."""
