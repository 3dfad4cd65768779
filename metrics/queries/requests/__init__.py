"""Requests of the history: pages, payloads, bodies."""
