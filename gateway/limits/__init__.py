"""Limits of API keys, users and everyone, as gateways enforce them."""
