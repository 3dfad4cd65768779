"""APIs of requests that are translated between OpenAI's and Anthropic's dialects."""
