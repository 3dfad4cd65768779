"""The parameters of a request that its endpoint does not receive, as the response names them."""

import re

HEADER = b"x-routerdash-dropped"
MAX_NAMES = 32
_TOKEN = re.compile(r"[A-Za-z*][A-Za-z0-9_.:/*-]{0,63}")


class Dropped:
    """Names of parameters that have no place at the endpoint, or another value there; in order, once each."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def add(self, name: str, sent: str = "") -> None:
        """Add a parameter, whose names within messages begin with `messages.`; `sent`: the value that is sent."""
        if not _TOKEN.fullmatch(name):
            name = "other"  # a name that cannot be part of a header
        if name in self._names or len(self._names) < MAX_NAMES:
            self._names[name] = sent

    def forget(self, name: str) -> None:
        """Remove a parameter that is sent as it was given after all."""
        self._names.pop(name, None)

    def line(self) -> bytes:
        """Return the header line, a list of structured fields (RFC 9651); empty without any name."""
        if not self._names:
            return b""
        names = (f"{name};sent={sent}" if sent else name for name, sent in self._names.items())
        return b"%b: %b\r\n" % (HEADER, ", ".join(names).encode())


def joined(first: bytes, second: bytes) -> bytes:
    """Return the header line with the names of two lines, which may be empty."""
    if not first or not second:
        return first or second
    return first.removesuffix(b"\r\n") + b", " + second.removeprefix(HEADER + b": ")
