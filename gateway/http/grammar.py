"""Checks of a request's header block against request smuggling, beyond those of the parser.

The parser is lenient to serve old clients. It accepts methods of other protocols, targets with a host or a fragment,
versions without headers, transfer codings before `chunked`, and repeated headers. Another server, in front of the
gateway or behind it, may read such a request differently. Then the two disagree about where the next one begins.
"""

import re

METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"))
_TARGET = re.compile(rb"/[!\"$-~]*")  # no fragment, nothing that must be escaped
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LINE_ENDS = (b"\r", b"\n")
_SINGLE = frozenset((b"host", b"content-type", b"transfer-encoding", b"expect"))


_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)


class Malformed(Exception):
    """A request that another server might read differently."""


def check_line(method: bytes, target: bytes, version: str) -> None:
    """Check the parts of the first line. Raises Malformed."""
    if method not in METHODS or not _TARGET.fullmatch(target) or version not in ("1.1", "1.0"):
        raise Malformed("the first line of a request")


def check_first_line(raw: bytes | bytearray, start: int, method: bytes, target: bytes, version: str) -> int:
    """Check that the first line has single blanks: the parser accepts several. The line begins in `raw` at
    `start`, or behind empty lines there, which the parser skips. Return the offset of its end. Raises Malformed.
    """
    line = b"%b %b HTTP/%b\r" % (method, target, version.encode())
    if not raw.startswith(line, start):
        while raw[start : start + 1] in _LINE_ENDS:
            start += 1
        if not raw.startswith(line, start):
            raise Malformed("blanks in the first line of a request")
    return start + len(line)


def origin_form(
    target: bytes, headers: list[tuple[bytes, bytes]], version: str
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return path and headers of a request whose target is a whole URL (RFC 9112, section 3.2.2). The URL's host
    replaces the Host header, which is checked later like any other. Raises Malformed.
    """
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise Malformed("the target of a request")
    host, path = match[1], match[2] or b"/"
    others = [header for header in headers if header[0].lower() != b"host"]
    hosts = len(headers) - len(others)
    if hosts > 1:
        raise Malformed("host")
    if hosts or version == "1.0":
        others.append((b"host", host))
    return path if path.startswith(b"/") else b"/" + path, others


def check_headers(headers: list[tuple[bytes, bytes]]) -> None:
    """Check the headers but Content-Length. Names are in lower case. Raises Malformed."""
    singles: set[bytes] = set()
    for name, value in headers:
        if _CONTROL.search(value):
            raise Malformed("a value")
        if name in _SINGLE:
            if name in singles or (name == b"transfer-encoding" and value.lower() != b"chunked"):
                raise Malformed(name.decode())
            singles.add(name)
