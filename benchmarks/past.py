"""History for the demo: requests of the days before it, as a journal that control then reads.

Every figure, page and roll-up includes them like any other request.
"""

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.published import Published
from gateway.base.request_kinds import CHAT, EMBEDDINGS
from gateway.ipc import record
from gateway.ipc.journal import Writer
from gateway.ipc.record import AttemptRecord, RequestRecord, uuid7
from gateway.registry import schema
from gateway.routing import balancer

DAYS = 6
AN_HOUR = 500.0  # requests a minute at the busiest time of a day
LAST_HOUR = 6000.0  # about the rate of the demo
CLIENTS = tuple(f"192.0.2.{number}" for number in (7, 17, 23, 42, 51))
FAILED, LEFT = 0.03, 0.02  # of all requests


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed of an endpoint: seconds to the first token, and tokens a second after it."""

    first_token: float
    tokens_per_second: float


def write(root: Path, known: Published, speeds: dict[str, Speed], now: float) -> int:
    """Write a journal of the days before `now` (seconds since 1970) for these endpoints. Returns its requests."""
    rng = random.Random(1)
    endpoints = [endpoint for endpoint in known.endpoints if endpoint.models and endpoint.name in speeds]
    keys: list[str | None] = [key.id for key in known.api_keys]
    count = 0
    writer = Writer(root, known.database_id)
    for ended in _moments(rng, now):
        endpoint = rng.choice(endpoints)
        count += writer.append(
            _request(rng, ended, endpoint, endpoints, speeds[endpoint.name], rng.choice(keys or [None]))
        )
    writer.close()
    return count


def _moments(rng: random.Random, now: float) -> Iterator[float]:
    """Times of ended requests: few at night, most in the afternoon, and many in the last hour."""
    moment = now - DAYS * 86_400
    while moment < now:
        local = time.localtime(moment)
        day = 0.5 - 0.5 * math.cos(2 * math.pi * (local.tm_hour + local.tm_min / 60 - 3) / 24)
        rate = LAST_HOUR if moment > now - 3600 else AN_HOUR * (0.1 + 0.9 * day) * (0.4 if local.tm_wday > 4 else 1.0)
        moment += rng.expovariate(rate / 3600)
        if moment < now:
            yield moment


def _request(
    rng: random.Random,
    ended: float,
    endpoint: schema.PublishedEndpoint,
    others: list[schema.PublishedEndpoint],
    speed: Speed,
    key: str | None,
) -> RequestRecord:
    embeds = rng.random() < 0.08
    streamed = not embeds and rng.random() < 0.8
    tokens = 0 if embeds else rng.randint(8, 400)
    first = speed.first_token * rng.lognormvariate(0, 0.4)
    seconds = first + tokens / (speed.tokens_per_second * rng.uniform(0.8, 1.1))
    chance = rng.random()
    outcome = record.FAILED if chance < FAILED else record.CANCELLED if chance < FAILED + LEFT else record.OK
    ok = outcome == record.OK
    status = 200 if ok else 0 if outcome == record.CANCELLED else 502
    scores = tuple((other.id, rng.randrange(3)) for other in others)
    error = None if ok else "the client left" if outcome == record.CANCELLED else "The endpoint failed: HTTP 500."
    attempt = AttemptRecord(
        endpoint.id, outcome, 200 if ok else 0 if status == 0 else 500, int(seconds * 1e6), error, 90,
        balancer.LEAST, scores,
    )  # fmt: skip
    return RequestRecord(
        id=uuid7(int(ended * 1e9)),
        completed_us=int(ended * 1e6),
        kind=EMBEDDINGS if embeds else CHAT,
        model=rng.choice(endpoint.models).id,
        outcome=outcome,
        status=status,
        duration_us=int(seconds * 1e6) + 90,
        first_token_us=int(first * 1e6) if streamed and ok else None,
        attempts=(attempt,),
        input_tokens=rng.randint(20, 2000) if ok else None,
        output_tokens=tokens if ok and tokens else None,
        streamed=streamed,
        api_key_id=key,
        client_ip=rng.choice(CLIENTS),
        error=error,
    )
