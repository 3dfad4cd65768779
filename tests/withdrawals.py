"""Changes that take something away from clients, each followed by requests that must not get it any more.

A round makes one change, waits for its acknowledgement, and sends ten requests at once. It raises AssertionError if one
of them was served. Other clients send requests all the time, and some of theirs wait in the queue.

If a gateway does not act by a change within a second, the response is 202 with the reason. Then the round waits until
the change is in effect, and raises Late.
"""

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.simulator import Endpoint, Simulator
from tests.http import Response
from tests.router import PASSWORD, RouterDash, until

AT_ONCE = 10


class Late(Exception):
    """A gateway did not confirm a change in time, and the response said so. The text is its reason."""


def acknowledged(given: tuple[int, Any], status: int, in_effect: Callable[[], bool]) -> None:
    """Check the response to a change: status and JSON. Raises Late after a 202, once the change is in effect."""
    if given[0] == 202:
        reason = given[1]["pending"]
        until(in_effect)
        raise Late(reason)
    assert given[0] == status


class OwnKeys:
    """The API keys of the administrator, over a session."""

    def __init__(self, router: RouterDash, timeout: float = 30.0) -> None:
        self._timeout = timeout
        self._url = f"{router.url}/api/me/api-keys"
        _status, self._browser = router.log_in("admin", PASSWORD)
        self._count = 0

    def call(self, method: str, path: str = "", body: object = None) -> tuple[int, Any]:
        handlers: list[Any] = self._browser.handlers  # type: ignore[attr-defined]  # the stubs lack it
        jar = next(handler.cookiejar for handler in handlers if hasattr(handler, "cookiejar"))
        token = next(cookie.value for cookie in jar if cookie.name == "routerdash_csrf")
        headers = {"Content-Type": "application/json", "X-CSRFToken": token or ""}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        with self._browser.open(request, timeout=self._timeout) as response:
            return response.status, json.loads(response.read() or b"null")

    def create(self) -> tuple[str, str]:
        """Return id and secret of a new key."""
        self._count += 1
        _status, created = self.call("POST", body={"name": f"key {self._count}", "permissions": ["openai.inference"]})
        return created["id"], created["key"]


class Traffic:
    """Clients that send chats again and again, until the block ends."""

    def __init__(self, send: Callable[[], Response], clients: int = 6) -> None:
        self._send = send
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def _run(self) -> None:
        while not self._stop.is_set():
            self._send()

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def at_once(send: Callable[[], Response]) -> list[int]:
    """Send ten requests at once; return their statuses."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [response.status for response in pool.map(lambda _: send(), range(AT_ONCE))]


def chat(router: RouterDash, key: str) -> Response:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Say hello."}]}
    return router.post("/v1/chat/completions", body, key=key)


def delete_key(router: RouterDash, keys: OwnKeys) -> None:
    """Create a key, use it, and delete it while it is used."""
    key_id, secret = keys.create()

    def statuses() -> set[int]:
        return set(at_once(lambda: chat(router, secret)))

    assert statuses() == {200}
    with Traffic(lambda: chat(router, secret)):
        acknowledged(keys.call("DELETE", f"/{key_id}"), 204, lambda: statuses() == {401})
        assert statuses() == {401}


def withdraw_endpoint(router: RouterDash, simulated: Endpoint, endpoint_id: str, how: str) -> None:
    """Disable or drain the only endpoint beside running traffic, and enable it again."""
    until(lambda: router.chat().status == 200)
    try:
        given = router.post(f"/api/endpoints/{endpoint_id}/{how}")
        acknowledged((given.status, given.json()), 200, lambda: set(at_once(router.chat)) == {503})
        _assert_no_request(router, simulated, 503)
    finally:
        router.post(f"/api/endpoints/{endpoint_id}/enable")


def delete_endpoint(router: RouterDash, simulator: Simulator, name: str) -> None:
    """Add an endpoint beside another one with the same model, and delete it under traffic."""
    deleted = simulator.add(ttft=0.005)
    endpoint_id = router.add(deleted, name)
    with Traffic(router.chat):
        until(lambda: deleted.seen.started > 3)
        given = router.request("DELETE", f"/api/endpoints/{endpoint_id}")
        acknowledged((given.status, given.json() if given.body else None), 204, lambda: _rests(deleted))
        _assert_no_request(router, deleted, 200)


class EditedName:
    """A model name that leads to one of two models in turn."""

    def __init__(self, router: RouterDash, simulator: Simulator) -> None:
        self._router = router
        self._models = ("edited-a", "edited-b")
        router.add(simulator.add(models=list(self._models)), "edited")
        until(lambda: {router.chat(model).status for model in self._models} == {200})
        created = router.post("/api/model-names", {"name": "edited", **self._steps(0)})
        assert created.status == 201
        self._path = f"/api/model-names/{created.json()['id']}"
        self.seconds: list[float] = []  # from each edit to its response, when every gateway has it

    def _steps(self, number: int) -> dict[str, object]:
        return {"steps": [{"targets": [{"model": self._models[number % 2]}]}]}

    def edit(self, number: int) -> None:
        """Change the target; ten requests at once must be served by the new one."""
        began = time.monotonic()
        given = self._router.request("PATCH", self._path, self._steps(number + 1))
        self.seconds.append(time.monotonic() - began)
        new = {(200, self._models[(number + 1) % 2])}
        acknowledged((given.status, given.json()), 200, lambda: self._served() == new)
        assert self._served() == new

    def _served(self) -> set[tuple[int, str | None]]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            given = list(pool.map(lambda _: self._router.chat("edited"), range(AT_ONCE)))
        return {(response.status, response.headers.get("x-routerdash-model")) for response in given}


def _rests(endpoint: Endpoint) -> bool:
    """Return True if the endpoint gets no request for a while, although clients send some."""
    received = endpoint.seen.started
    time.sleep(0.2)
    return endpoint.seen.started == received


def _assert_no_request(router: RouterDash, withdrawn: Endpoint, status: int) -> None:
    """Send ten requests after the acknowledgement: they get this status, and none arrives at the endpoint.

    The endpoint may read requests that were sent before a little later, so the ten are marked.
    """
    assert set(at_once(lambda: router.chat(user="after"))) == {status}
    assert [body for body in withdrawn.seen.bodies if body.get("user") == "after"] == []
    until(lambda: withdrawn.seen.running == 0)
    received = withdrawn.seen.started
    assert set(at_once(router.chat)) == {status}
    assert withdrawn.seen.started == received
