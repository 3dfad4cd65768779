"""API keys with limits, and the counters of their subjects."""

import secrets
import threading
from collections.abc import Callable
from typing import Any

from gateway.ipc.counters.limit_use import limit_use
from gateway.registry.limits import KEY_LEVEL
from tests.gateway.process import GatewayProcess
from tests.http import Response


class LimitedKey:
    """A new API key of a running gateway, with these limits."""

    def __init__(self, gateway: GatewayProcess, *, owner_id: str = "", **limits: Any) -> None:
        self.gateway = gateway
        self.secret = gateway.add_key(f"sk_{secrets.token_hex(16)}", owner_id=owner_id)
        self.id = self.secret[3:11]
        gateway.publish()
        self.limit(**limits)

    def limit(self, **limits: Any) -> None:
        self.gateway.limit(KEY_LEVEL, self.id, **limits)

    def chat(self, model: str, gateway: GatewayProcess | None = None, **fields: Any) -> Response:
        return self.post("/v1/chat/completions", {"model": model, "messages": [], **fields}, gateway=gateway)

    def post(
        self, path: str, body: Any, gateway: GatewayProcess | None = None, headers: dict[str, str] | None = None
    ) -> Response:
        return (gateway or self.gateway).post(path, body, key=self.secret, headers=headers)

    def chat_bytes(self, model: str, **fields: Any) -> bytes:
        made = self.gateway.chat_bytes(model, **fields)
        return made.replace(self.gateway.key.encode(), self.secret.encode())

    def counted(self) -> tuple[int, int, int]:
        """Return the requests in flight, and requests and tokens of the last minute, over all gateways."""
        return counted(self.gateway, KEY_LEVEL, self.id)


def counted(gateway: GatewayProcess, level: str, subject_id: str) -> tuple[int, int, int]:
    """Return the requests in flight, and requests and tokens of the last minute, over all gateways."""
    return limit_use(gateway.page.counters, level, subject_id)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Return the results of these calls, which run at the same time."""
    results: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        results[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def limit_headers(given: Response) -> dict[str, str]:
    return {name: value for name, value in given.headers.items() if "ratelimit-" in name}
