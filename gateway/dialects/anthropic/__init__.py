"""Anthropic's Messages API, and its translation to and from chat completions."""
