"""What a request's head must look like beyond what the parser asks.

The parser is lenient where it would rather serve old clients: it knows methods of other protocols, targets with a host
or a fragment, versions without heads, codings in front of `chunked`, headers that come twice. Another server, before us
or behind us, may read such a request in another way, and then the two do not agree where the next one begins.
"""

import re

METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"))
_TARGET = re.compile(rb"/[!\"$-~]*")  # no fragment, nothing that must be escaped
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_SINGLE = frozenset((b"host", b"content-type", b"transfer-encoding", b"expect"))


_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)


class Malformed(Exception):
    """A request that another server might read in another way than we do, if it took it."""


def check_line(method: bytes, target: bytes, version: str) -> None:
    """Raises Malformed for a first line that is none of ours."""
    if method not in METHODS or not _TARGET.fullmatch(target) or version not in ("1.1", "1.0"):
        raise Malformed("the first line of a request")


def check_first_line(raw: bytes | bytearray, at: int, method: bytes, target: bytes, version: str) -> int:
    """The parser takes several blanks where one belongs. The line is in `raw`, not before `at`; where it ends.
    Raises Malformed.
    """
    line = b"%b %b HTTP/%b\r" % (method, target, version.encode())
    found = raw.find(line, at)
    if found < 0:
        raise Malformed("blanks in the first line of a request")
    return found + len(line)


def origin_form(
    target: bytes, headers: list[tuple[bytes, bytes]], version: str
) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The target and the header lines of a request whose target is a whole URL (RFC 9112, section 3.2.2): its host
    takes the place of the Host header's, which is checked as ever. Raises Malformed.
    """
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise Malformed("the target of a request")
    host, path = found[1], found[2] or b"/"
    others = [header for header in headers if header[0].lower() != b"host"]
    hosts = len(headers) - len(others)
    if hosts > 1:
        raise Malformed("host")
    if hosts or version == "1.0":
        others.append((b"host", host))
    return path if path.startswith(b"/") else b"/" + path, others


def check_headers(headers: list[tuple[bytes, bytes]]) -> None:
    """Names are lower case, and Content-Length is not among them. Raises Malformed."""
    singles: set[bytes] = set()
    for name, value in headers:
        if _CONTROL.search(value):
            raise Malformed("a value")
        if name in _SINGLE:
            if name in singles or (name == b"transfer-encoding" and value.lower() != b"chunked"):
                raise Malformed(name.decode())
            singles.add(name)
