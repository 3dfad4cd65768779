"""HTTP as tests speak it to a process of ours."""

import http.client
import json
from contextlib import closing
from typing import Any


class Answer:
    """A response read whole."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.body[:300]!r}>"

    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """Mixed into what listens on `port` and knows `key`."""

    port: int
    key: str

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, key: str | None = ""
    ) -> Answer:
        """One request on a connection of its own, with the usual key if none is named, without any if that is None."""
        sent = {} if key is None else {"Authorization": f"Bearer {key or self.key}"}
        if body is not None and not isinstance(body, bytes | str):
            body = json.dumps(body)
            sent["Content-Type"] = "application/json"
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, {**sent, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def get(self, path: str, **options: Any) -> Answer:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return self.request("POST", path, body, **options)
