"""Exports of the request history as downloads."""
