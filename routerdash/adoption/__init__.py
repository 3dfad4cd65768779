"""Adoption of an llmlb database."""
