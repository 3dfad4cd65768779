"""Ollama's native API: its requests, its responses, and their translation to and from OpenAI's dialects. No I/O."""
