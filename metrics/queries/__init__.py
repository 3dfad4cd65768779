"""Figures for pages and APIs, from memory and from the database."""
