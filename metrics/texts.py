"""Texts that both databases can store."""


def storable(text: str) -> str:
    """Return a text without NUL and lone surrogates, which PostgreSQL cannot store."""
    if "\0" in text or not text.isprintable():
        text = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return text
