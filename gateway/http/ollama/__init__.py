"""Paths and connections of Ollama's own API."""
