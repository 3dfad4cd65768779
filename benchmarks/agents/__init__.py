"""Coding agents from npm at real llama.cpp servers through RouterDash; see `__main__.py`."""
