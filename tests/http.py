"""An HTTP client of tests for a process of RouterDash."""

import http.client
import json
from contextlib import closing
from typing import Any


class Response:
    """A complete response."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.body[:300]!r}>"

    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """HTTP methods for a class that has the `port` of a server and an API `key`."""

    port: int
    key: str

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, key: str | None = ""
    ) -> Response:
        """Send a request on its own connection, with the default key if none is given, without a key if it is None."""
        sent = {} if key is None else {"Authorization": f"Bearer {key or self.key}"}
        if body is not None and not isinstance(body, bytes | str):
            body = json.dumps(body)
            sent["Content-Type"] = "application/json"
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, {**sent, **(headers or {})})
            response = connection.getresponse()
            return Response(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def get(self, path: str, **options: Any) -> Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Response:
        return self.request("POST", path, body, **options)
