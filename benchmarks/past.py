"""A past for the demo: what a gateway would have served in the days before it, as a journal that control then reads.

So every figure, page and roll-up is made of it as of any other request; none is written past them.
"""

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway import balancer, record, snapshot
from gateway.journal import Writer
from gateway.kinds import CHAT, EMBEDDINGS
from gateway.record import Attempt, RequestRecord, uuid7

DAYS = 6
AN_HOUR = 500.0  # requests, at the busiest time of a day
LAST_HOUR = 6000.0  # as many a minute as the demo goes on with, nearly
CLIENTS = tuple(f"192.0.2.{number}" for number in (7, 17, 23, 42, 51))
FAILED, LEFT = 0.03, 0.02  # of all requests


@dataclass(frozen=True, slots=True)
class Speed:
    """Of an endpoint: seconds to the first token, and tokens a second from then on."""

    first_token: float
    tokens_per_second: float


def write(root: Path, known: snapshot.Snapshot, speeds: dict[str, Speed], now: float) -> int:
    """Journal the days before `now` (seconds since 1970) on the endpoints of these names; how many requests."""
    rng = random.Random(1)
    endpoints = [endpoint for endpoint in known.endpoints if endpoint.models]
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
    """When requests ended: few at night, most in the afternoon, and many in the last hour."""
    at = now - DAYS * 86_400
    while at < now:
        local = time.localtime(at)
        day = 0.5 - 0.5 * math.cos(2 * math.pi * (local.tm_hour + local.tm_min / 60 - 3) / 24)
        rate = LAST_HOUR if at > now - 3600 else AN_HOUR * (0.1 + 0.9 * day) * (0.4 if local.tm_wday > 4 else 1.0)
        at += rng.expovariate(rate / 3600)
        if at < now:
            yield at


def _request(
    rng: random.Random,
    ended: float,
    endpoint: snapshot.Endpoint,
    others: list[snapshot.Endpoint],
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
    scores = tuple((it.id, rng.randrange(3)) for it in others)
    error = None if ok else "the client left" if outcome == record.CANCELLED else "The endpoint failed: HTTP 500."
    attempt = Attempt(
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
