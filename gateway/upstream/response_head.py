"""Header blocks of responses: status and headers, and recognition of a header block that repeats."""

from gateway.fast.repeated_header_block import HeaderBlockTemplate

EVENT_STREAM = b"text/event-stream"
LINES = b"application/x-ndjson"  # a stream of JSON objects, one a line
MAX_BODY_BYTES = 64 << 20  # of a response that is read as a whole
IDLE_SECONDS = 30.0  # an idle connection is closed after this time
REMEMBER_SECONDS = 0.01  # between two header blocks that are remembered: a server may never repeat any


class ResponseHead:
    """Status and headers of a response, and properties derived from them.

    Servers repeat themselves: complete responses with the same header block share this object. It then has no
    Content-Length.
    """

    __slots__ = ("content_type", "headers", "is_json", "is_stream", "kept", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Store the headers, whose names are in lower case."""
        self.status = status
        self.headers = headers
        self.content_type = self.header(b"content-type").lower()
        self.is_stream = self.content_type.startswith(EVENT_STREAM)  # of server-sent events
        self.is_json = b"json" in self.content_type
        # Cache of the header lines that a client receives, by whether it has limits of RouterDash.
        self.kept: dict[bool, bytes] = {}

    def header(self, name: bytes) -> bytes:
        """Return the value of the first header with this lower-case name; empty if there is none."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""

    @property
    def is_lines(self) -> bool:
        """Return True for a stream of JSON objects, one a line."""
        return self.content_type.startswith(LINES)

    @property
    def is_huge(self) -> bool:
        """Return True if the Content-Length exceeds the size of a body that is read as a whole."""
        length = self.header(b"content-length")
        return length.isdigit() and int(length[:20]) > MAX_BODY_BYTES

    @property
    def ends_with_connection(self) -> bool:
        """Return True if no header gives the length of the body: the end of the connection is the end of the body."""
        return not any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    def idle_seconds(self) -> float:
        """Return how long the connection may be idle. The header `keep-alive: timeout=5` of the server shortens it;
        one second of that is left for the next request to arrive.
        """
        for part in self.header(b"keep-alive").split(b","):
            name, _, value = part.strip().partition(b"=")
            if name.lower() == b"timeout" and value.isdigit():
                return min(IDLE_SECONDS, max(0.0, int(value) - 1.0))
        return IDLE_SECONDS


NO_RESPONSE = ResponseHead(0, [])


class RepeatedResponse:
    """The header block of a recent complete response from one address. A response that repeats it skips the parser."""

    __slots__ = ("head", "remembered_at", "template")

    def __init__(self) -> None:
        self.template: HeaderBlockTemplate | None = None
        self.head = NO_RESPONSE
        self.remembered_at = 0.0  # time.monotonic()

    def remember(self, data: bytes, head: ResponseHead, length: int, now: float) -> None:
        """Remember the header block of a complete response that was parsed from `data`; `length` is its body's."""
        if now - self.remembered_at <= REMEMBER_SECONDS or not length:
            return
        template = HeaderBlockTemplate.from_message(data, length)
        # The sizes add up only without an interim response before, without bytes behind, and with a body (not HEAD).
        if template is not None and (sizes := template.match(data)) and sum(sizes) == len(data):
            self.template = template
            self.head = ResponseHead(head.status, [header for header in head.headers if header[0] != b"content-length"])
            self.remembered_at = now
