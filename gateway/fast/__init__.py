"""Devices that exist for speed alone: each has a switch, and general code that does the same without it.

docs/architecture/fast-paths.md has their conditions and gains.
"""
