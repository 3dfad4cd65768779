"""Answers of servers with known parameters: as samples, and as records that adaptive routing has made."""

import random
from typing import Any

import msgspec

from gateway.base.request_kinds import CHAT
from gateway.ipc.record import RequestRecord, Work
from gateway.routing.expected_time import Parameters
from metrics.learning.samples import UNKNOWN, SpeedSample
from tests.metrics.records import A, request

GPU = Parameters(0.03, 0.00004, 0.007, 0.00005)
DESKTOP = Parameters(0.05, 0.0015, 0.016, 0.005)
CPU = Parameters(0.02, 0.012, 0.025, 0.045)


def seconds(of: Parameters, read: float, output: float, beside: float) -> float:
    return of.setup + of.read * read + output * (of.write + of.share * beside)


def answers(count: int, of: Parameters, *, noise: float = 0.0, seed: int = 1, first: int = 1) -> list[SpeedSample]:
    """Return sorted samples of a server: up to six requests at a time, log-normal lengths, streams."""
    rng = random.Random(seed)
    samples = []
    for number in range(first, first + count):
        beside, output = rng.randint(1, 6), int(rng.lognormvariate(5, 0.7)) + 1
        read, meanwhile = int(rng.lognormvariate(6, 1)), rng.randint(0, 500)
        if beside == 1:
            meanwhile = 0
        duration_us = round(1e6 * seconds(of, read + meanwhile, output, beside) * rng.uniform(1 - noise, 1 + noise))
        first_us = round(1e6 * seconds(of, read, 1, 1)) if beside == 1 else UNKNOWN
        shared_us = duration_us * beside
        samples.append(
            SpeedSample(
                number * 1_000_000, number, duration_us, read, meanwhile, output, shared_us, first_us, 0, 0, UNKNOWN, 0
            )
        )
    return samples


def answered(
    endpoint: str = A, *, work: dict[str, Any] | None = None, reason: str = "", **fields: Any
) -> RequestRecord:
    """Return the record of a request that adaptive routing sent to an endpoint."""
    given: dict[str, Any] = {
        "prompt_tokens": 500, "output_tokens": 100, "prefix_tokens": 0, "prefix_age": 0, "expected_us": 1_500_000,
        "pending_tokens": 0, "read_tokens": 0, "shared_us": 2_000_000, "was_idle": True,
    }  # fmt: skip
    usual: dict[str, Any] = {"output_tokens": 100, "input_tokens": 400, "body_bytes": 1600, "kind": CHAT}
    made = request(endpoint=endpoint, **{**usual, **fields})
    last = msgspec.structs.replace(made.attempts[-1], work=Work(**{**given, **(work or {})}), reason=reason)
    return msgspec.structs.replace(made, attempts=(*made.attempts[:-1], last))
