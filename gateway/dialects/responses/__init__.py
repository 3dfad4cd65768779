"""OpenAI's Responses API: its objects and events, and its translation to chat completions."""
