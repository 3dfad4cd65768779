"""Parts of the lists of models: facts, access by API keys, keeping."""
