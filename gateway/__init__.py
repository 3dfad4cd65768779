"""The data plane: everything between a client's request and an inference server. Imports nothing of Django."""
