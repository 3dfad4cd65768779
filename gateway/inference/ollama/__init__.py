"""Ollama's native API at the gateway: inference, and the lists that its clients read."""
