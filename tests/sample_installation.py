"""A RouterDash with samples of all objects, and a ledger of the sent requests that is independent of the figures.

It has endpoints in every state, and requests with every outcome, of several keys, clients and days.
"""

import http.client
import json
import re
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from benchmarks.simulator import Endpoint, Simulator
from gateway.base.request_kinds import CHAT
from gateway.ipc import journal, record
from gateway.ipc.record import AttemptRecord, RequestRecord, uuid7
from tests.router import KEY, PASSWORD, RouterDash, free_port, published_completions, until

LARGE, JAPANESE, EMBED = "org/chat/large", "日本語モデル", "embedder"
FRAGILE, HELD, AWAY, PARKED, SHARED, DELETED = "fragile", "held", "llama3.3:70b", "parked", "shared", "gone-with-it"
BUSIEST = "東京ワークステーション"
HELD_TOKENS = 4  # until it hangs
CLIENTS = ("192.0.2.7", "198.51.100.20", "2001:db8::5", "2001:db8::6")
NETWORKS = {"2001:db8::5": "2001:db8::/64", "2001:db8::6": "2001:db8::/64"}  # the clients of the addresses
DAYS_AGO = (1, 1, 1, 3, 6, 20, 40, 100, 0)  # requests that another gateway served
MOVED = 4  # which of them had another endpoint than the others
CHAT_SESSION = "session"  # of each API key and model, the requests with it are one conversation
CONVERSATION = "00f4a7c0de91b35e"  # of the requests that another gateway served
ZONE = ZoneInfo("Asia/Kathmandu")  # offset with 45 minutes, often another date than UTC
ENVIRONMENT = {
    "ROUTERDASH_TIME_ZONE": ZONE.key,
    "ROUTERDASH_TRUSTED_PROXIES": "127.0.0.1",
    "ROUTERDASH_QUEUE_TIMEOUT_SECS": "3600",
    "ROUTERDASH_HISTORY_RETENTION_DAYS": "365",
    "ROUTERDASH_STORE_BODIES": "errors",
}
# Servers on this machine that are not endpoints, at ports of discovery.
BESIDE: dict[str, dict[str, Any]] = {
    "several": {"kind": "llamacpp", "models": ["qwen3:8b", "gemma3:27b", "phi-4", "tiny"], "slots": 4},
    "alone": {"kind": "vllm", "models": ["qwen3:8b"]},
    "locked": {"models": ["tiny"], "api_key": "sk-upstream"},
}
LIMITS = {"health_check_interval_secs": 3600, "inference_timeout_secs": 3600}


BROKEN_OFF = (record.TRUNCATED, record.CANCELLED)


@dataclass(frozen=True)
class Sent:
    """A request as its client sees it."""

    model: str
    outcome: str
    key: str  # its name
    client: str
    tokens: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Ended:
    """A request as a row of the history."""

    at: datetime  # in the server's zone
    model: str
    kind: str
    outcome: str
    endpoint_id: str
    key_id: str
    client: str
    tokens: tuple[int, int]
    duration_ms: float
    attempts: list[dict[str, Any]]


@dataclass
class Busy:
    router: RouterDash
    simulated: dict[str, Endpoint]  # by the name of the endpoint
    ids: dict[str, str]
    ledger: list[Sent] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)  # by reason
    keys: dict[str, str] = field(default_factory=dict)  # ids, by name
    secrets: dict[str, str] = field(default_factory=lambda: {"bootstrap": KEY})
    beside: dict[str, Endpoint] = field(default_factory=dict)  # by their names in BESIDE

    def __post_init__(self) -> None:
        status, self.browser = self.router.log_in("admin", PASSWORD)
        assert status == 200

    @cached_property
    def names(self) -> list[str]:
        """Return names and error texts of endpoints, which may have digits but are not figures; the longest first."""
        models = self.api("/api/dashboard/models")["data"]
        ended = self.api("/api/requests?limit=500")["requests"]
        names = {name for endpoint in self.beside.values() for name in endpoint.behaviour.models}
        names |= {*self.ids, *self.secrets, *(name for model in models for name in (model["id"], *model["aliases"]))}
        names |= {failed["error"] for row in ended for failed in (row, *row["attempts"]) if failed["error"]}
        return sorted(names, key=len, reverse=True)

    def history(self) -> list[Ended]:
        """Return all rows, by SQL alone."""
        columns = "completed_at, model, kind, outcome, endpoint_id, api_key_id, client_ip, input_tokens, output_tokens"
        return [
            Ended(
                local(ended), model, kind, outcome, str(endpoint_id), str(key_id), client, (into or 0, out or 0),
                us / 1000, json.loads(attempts) if isinstance(attempts, str) else attempts,
            )
            for ended, model, kind, outcome, endpoint_id, key_id, client, into, out, us, attempts in self.router.query(
                f"SELECT {columns}, duration_us, attempts FROM request_history"
            )
        ]  # fmt: skip

    def rejections(self) -> list[RequestRecord]:
        """Return rejections from the journal of the gateway: the history has none."""
        root = self.router.data_dir / "journal"
        (writer,) = journal.writers(root)
        entries = journal.read(root / writer, (journal.segments(root / writer)[0], 0), 10_000).entries
        return [entry for entry in entries if isinstance(entry, RequestRecord) and entry.outcome == record.REJECTED]

    # Requests as the administrator

    def page(self, path: str) -> str:
        with self.browser.open(f"{self.router.url}{path}", timeout=30) as response:
            text: str = response.read().decode()
        return text

    def api(self, path: str) -> Any:
        return json.loads(self.page(path))

    def change(self, method: str, path: str, body: Any = None) -> Any:
        return json.loads(self._send(method, path, json.dumps(body), "application/json") or "null")

    def submit(self, path: str, fields: Mapping[str, Any]) -> str:
        """Submit a form and return the page; a list is sent as several fields with its name."""
        return self._send("POST", path, urllib.parse.urlencode(fields, doseq=True), "application/x-www-form-urlencoded")

    def _send(self, method: str, path: str, body: str, kind: str) -> str:
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.page("/keys"))
        assert token is not None
        headers = {"Content-Type": kind, "X-CSRFToken": token[1]}
        http_request = urllib.request.Request(self.router.url + path, body.encode(), headers, method=method)
        with self.browser.open(http_request, timeout=30) as response:
            text: str = response.read().decode()
        return text

    def make_key(self, name: str) -> None:
        made = self.change("POST", "/api/me/api-keys", {"name": name, "permissions": ["openai.inference"]})
        self.keys[name], self.secrets[name] = made["id"], made["key"]

    def delete_key(self, name: str) -> None:
        """Delete an API key, which no later request uses."""
        self.change("DELETE", f"/api/me/api-keys/{self.keys[name]}")
        del self.secrets[name]

    # Requests as a client

    def send(
        self, model: str, outcome: str, tokens: tuple[int, int] = (5, 8), *, times: int = 1, **fields: Any
    ) -> None:
        """Send requests, each with the next key and from the next client. `tokens` are those that its endpoint will
        report.
        """
        for _ in range(times):
            status = self.complete(model, outcome, tokens, **fields)
            assert (status == 200) == (outcome in (record.OK, record.TRUNCATED)), (model, outcome, status)

    def complete(
        self, model: str, outcome: str, tokens: tuple[int, int], path: str = "/v1/chat/completions", **fields: Any
    ) -> int:
        number, names = len(self.ledger), list(self.secrets)
        name, client = names[number % len(names)], CLIENTS[number // 2 % len(CLIENTS)]
        body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], **fields}
        response = self.router.post(path, body, key=self.secrets[name], headers={"X-Forwarded-For": client})
        self.ledger.append(Sent(model, outcome, name, client, tokens))
        return response.status

    def reject(self, reason: str, body: Any, **options: Any) -> None:
        assert self.router.post("/v1/chat/completions", body, **options).status >= 400
        self.rejected[reason] += 1

    def leave(self, model: str) -> None:
        """Open a stream whose client disconnects when it has received everything that comes."""
        endpoint = self.simulated["holder"]
        with self.router.open_stream(model) as response:
            for _ in range(HELD_TOKENS):
                next(filter(_has_text, response))
        endpoint.wait_for(lambda seen: seen.cancelled == 1)
        self.ledger.append(Sent(model, record.CANCELLED, "bootstrap", "127.0.0.1", (0, HELD_TOKENS)))


def _has_text(line: bytes) -> bool:
    """Return True for an event with a piece of the response."""
    return line.startswith(b"data: ") and bool(json.loads(line[6:])["choices"][0]["delta"].get("content"))


def local(stored: Any) -> datetime:
    """Convert a time of the database to the server's zone."""
    return (datetime.fromisoformat(stored) if isinstance(stored, str) else stored).astimezone(ZONE)


def start(router: RouterDash, simulator: Simulator, stack: ExitStack) -> Busy:
    """Run discovery with an added server, the other ones, and a closed port."""
    beside = {name: simulator.add(**behaviour) for name, behaviour in BESIDE.items()}
    parked = simulator.add(models=[PARKED])
    ports = (*(urlsplit(endpoint.url).port for endpoint in (parked, *beside.values())), free_port(), free_port())
    router.environment["ROUTERDASH_DISCOVER_PORTS"] = ",".join(map(str, ports))
    return _build(router.start(), simulator, parked, beside, stack)


def _build(
    router: RouterDash, simulator: Simulator, parked: Endpoint, beside: dict[str, Endpoint], stack: ExitStack
) -> Busy:
    simulated = {
        BUSIEST: simulator.add(models=[LARGE, JAPANESE, EMBED], ttft=0.01),
        "fragile & <old>": simulator.add(models=[FRAGILE, SHARED], ttft=0.005),
        "holder": simulator.add(models=[HELD], fault="mid_hang"),
        "gone": simulator.add(models=[AWAY, SHARED], kind="vllm"),
        "parked": parked,
        "drained": simulator.add(models=[SHARED, LARGE]),
        "deleted": simulator.add(models=[DELETED]),
    }
    limits: dict[str, Any] = {"holder": {"max_concurrency": 1}, "parked": {"max_concurrency": 12, "tags": ["basement"]}}
    ids = {
        name: router.register(endpoint, name, **LIMITS, **limits.get(name, {})) for name, endpoint in simulated.items()
    }
    for name, endpoint in simulated.items():
        until(lambda name=name, endpoint=endpoint: router.lists(ids[name], len(endpoint.behaviour.models)), 20)
    busy = Busy(router, simulated, ids, beside=beside)
    (bootstrap,) = busy.api("/api/me/api-keys")["api_keys"]
    busy.keys[bootstrap["name"]] = bootstrap["id"]
    for name in ("laptop", "バッチ", "lost"):
        busy.make_key(name)
    _price(busy)
    _serve(busy)
    _fail(busy)
    _of_before(busy)
    _quiet(busy, stack)
    return busy


# Amounts per million tokens (or thousand requests), by pattern: dollars, euros with a rate, francs without one.
PRICES: dict[str, dict[str, str]] = {
    LARGE: {"currency": "USD", "input": "0.25", "cached": "0.025", "output": "2.000000001"},
    SHARED: {"currency": "EUR", "input": "3", "output": "15", "request": "0.011"},
    JAPANESE: {"currency": "CHF", "input": "0.1"},  # in part: no amount for output
}
EURO = "1.085000001"  # dollars


def _price(busy: Busy) -> None:
    for pattern, amounts in PRICES.items():
        busy.change("POST", "/api/prices", {"pattern": pattern, "valid_from": "2020-01-01T00:00:00Z", **amounts})
    rate = {"currency": "EUR", "valid_from": "2020-01-01T00:00:00Z", "rate": EURO}
    busy.change("POST", "/api/currency-rates", rate)


def _serve(busy: Busy) -> None:
    busy.send(LARGE, record.OK, times=7)
    busy.send(LARGE, record.OK, times=5, stream=True, prompt_cache_key=CHAT_SESSION)
    busy.send(JAPANESE, record.OK, times=3, stream=True)
    busy.send(JAPANESE, record.OK, (5, 3), max_tokens=3)
    busy.send(EMBED, record.OK, (5, 0), times=4, path="/v1/embeddings", input="hello")
    busy.send(PARKED, record.OK, times=2)
    busy.send(SHARED, record.OK, times=6, prompt_cache_key=CHAT_SESSION)
    busy.send(DELETED, record.OK, times=2)
    router = busy.router
    assert router.request("DELETE", f"/api/endpoints/{busy.ids.pop('deleted')}").status == 204
    busy.delete_key("lost")


def _fail(busy: Busy) -> None:
    fragile, gone = busy.simulated["fragile & <old>"], busy.simulated["gone"]
    fragile.set(fault="400")
    busy.send(FRAGILE, record.REFUSED, (0, 0), times=3)
    fragile.set(fault="cut")
    busy.send(FRAGILE, record.TRUNCATED, (0, 4), stream=True)
    fragile.set(fault="die")
    busy.send(FRAGILE, record.TRUNCATED, (0, 4), stream=True)
    fragile.set(fault="500")
    busy.send(FRAGILE, record.FAILED, (0, 0), times=2, prompt_cache_key=CHAT_SESSION)
    busy.send(SHARED, record.OK, times=6, prompt_cache_key=CHAT_SESSION)  # the other one responds in any case
    fragile.set(fault="reset")
    busy.send(FRAGILE, record.FAILED, (0, 0))
    fragile.set(fault="500")  # the simulator counts connections that it resets, health checks too
    gone.set(fault="refuse")
    busy.send(AWAY, record.FAILED, (0, 0))
    busy.leave(HELD)
    hello = {"model": LARGE, "messages": []}
    for _ in range(3):
        busy.reject("invalid_api_key", hello, key="sk_nobody")
    busy.reject("model_not_found", {"model": "nobody-has-it", "messages": []})
    busy.reject("invalid_request", "no JSON")


def _of_before(busy: Busy) -> None:
    """Journal requests that a gateway served on other days, which control has not read yet."""
    root = busy.router.data_dir / "journal"
    head = journal.head(root / journal.writers(root)[0])
    assert head is not None
    writer = journal.Writer(root, head.database_id)
    for number, days in enumerate(DAYS_AGO):
        ended = time.time_ns() - (days * 86_400 + 3600 + number) * 1_000_000_000
        outcome = record.FAILED if number == 1 else record.OK
        tokens = (0, 0) if number == 1 else (100 * days, 1000 * days) if days else (5_213_009, 61_803_398)
        endpoint_id = busy.ids["drained" if number == MOVED else BUSIEST]
        attempt = AttemptRecord(endpoint_id, outcome, 500 if number == 1 else 200, 900_000 + 1000 * number)
        written = writer.append(
            RequestRecord(
                uuid7(ended), ended // 1000, CHAT, LARGE, outcome, 502 if number == 1 else 200,
                1_000_000 + 1000 * number, None if number % 2 else 300_000, (attempt,), *tokens,
                streamed=not number % 2, api_key_id=busy.keys["laptop"], client_ip=CLIENTS[0],
                queue_us=50_000 if number == 0 else None, conversation=CONVERSATION,
                cached_tokens=None if number % 2 else tokens[0] // 2,
            )
        )  # fmt: skip
        assert written
        busy.ledger.append(Sent(LARGE, outcome, "laptop", CLIENTS[0], tokens))
    writer.close()


def _quiet(busy: Busy, stack: ExitStack) -> None:
    """Let all activity end: one request hangs and another waits for it; endpoints stay in their states."""
    router = busy.router
    for _ in range(3):
        router.post(f"/api/endpoints/{busy.ids[BUSIEST]}/test")
    router.post(f"/api/endpoints/{busy.ids['parked']}/disable")
    router.post(f"/api/endpoints/{busy.ids['drained']}/drain", {})
    until(lambda: router.endpoint(busy.ids["gone"])["status"] != "online")  # traffic has reported it
    router.post(f"/api/endpoints/{busy.ids['gone']}/test")
    until(lambda: router.endpoint(busy.ids["gone"])["status"] == "offline")
    while busy.complete(PARKED, record.OK, (5, 8)) == 200:
        pass  # the gateway does not have the change yet
    busy.ledger[-1] = replace(busy.ledger[-1], outcome=record.NO_ENDPOINT, tokens=(0, 0))
    stack.enter_context(router.open_stream(HELD))
    waiting = http.client.HTTPConnection("127.0.0.1", router.port, timeout=60)
    stack.callback(waiting.close)
    body = json.dumps({"model": HELD, "messages": []})
    waiting.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {KEY}"})
    until(lambda: router.stats()["queued_requests"] == 1)
    until(lambda: sum(router.stats()[f"{name}_requests"] for name in ("total", "cancelled")) == len(busy.ledger))
    until(lambda: router.stats()["records_waiting"] == 0)
    until(lambda: published_completions(router) == _learned_from(busy), 30)
    _add_expected_prompts(busy)


def _learned_from(busy: Busy) -> int:
    """Return the responses from which routing has learned, by the API; gateways get it seconds later."""
    return sum(
        row["samples"] for endpoint_id in busy.ids.values() for row in busy.api(f"/api/endpoints/{endpoint_id}/learned")
    )


def _add_expected_prompts(busy: Busy) -> None:
    """Add the prompts of responses that broke off, which no server has reported: RouterDash expects them by the size of
    the body, some 60 to 100 bytes.
    """
    rows = sorted((ended for ended in busy.history() if ended.outcome in BROKEN_OFF), key=lambda row: row.at)
    numbers = [number for number, sent_request in enumerate(busy.ledger) if sent_request.outcome in BROKEN_OFF]
    for number, row in zip(numbers, rows, strict=True):
        sent, (prompt, _) = busy.ledger[number], row.tokens
        assert 0 < prompt <= 100
        busy.ledger[number] = replace(sent, tokens=(prompt, sent.tokens[1]))
