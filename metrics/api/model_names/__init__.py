"""JSON API of what model names lead to."""
