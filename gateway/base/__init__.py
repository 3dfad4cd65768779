"""Modules that every part of the gateway may use: configuration, errors, limits, addresses, files."""
