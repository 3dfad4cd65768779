"""Traffic of servers with known parameters, as a replay reads it and as the journal has it."""

import random
from collections.abc import Sequence

import msgspec

from gateway.base.config import ADAPTIVE, LEAST_INFLIGHT
from gateway.base.request_kinds import CHAT
from gateway.ipc.record import AttemptRecord, RequestRecord
from gateway.routing.adaptive import FASTEST, NO_LIMIT
from gateway.routing.balancer import LEAST
from metrics.learning.fit import Parameters
from metrics.replay.nodes import ENDLESS, Behaviour, KnownEndpoint, Node
from metrics.replay.run import RunSetting, play
from metrics.replay.server import Played
from metrics.replay.traffic import Group, PastRequest, PastSession, Turn
from tests.metrics.records import KEY, A, B, request

GROUP: Group = ("tiny", CHAT)
FAST = Parameters(0.01, 0.0002, 0.008, 0.001)
SLOW = Parameters(0.02, 0.002, 0.05, 0.01)
REASONS = {ADAPTIVE: FASTEST, LEAST_INFLIGHT: LEAST}
LENGTHS = {("tiny", ""): 150.0}


def node(name: str = A, of: Parameters = FAST, *, slots: int | None = None, cache: float = ENDLESS) -> Node:
    behaviour = Behaviour(of, (1.0,) * 4, (1.0,), 100)
    return Node(name, name, "vllm", slots, slots or NO_LIMIT, cache, {GROUP: behaviour})


FLEET = (node(A, FAST), node(B, SLOW))


def turn(prompt: int = 100, output: int = 10, *, think: float = 0.0, prefix: int = 0, name: str = "c") -> Turn:
    return Turn(0, KEY, GROUP, prompt, output, think, name, "", 0, prefix)


def chats(count: int = 120, every: float = 2.0, *, seed: int = 1, start: float = 0.0) -> list[PastSession]:
    """Return conversations of one to five turns that begin at random."""
    rng = random.Random(seed)
    found, now = [], start
    for number in range(count):
        now += rng.expovariate(1 / every)
        turns, prompt = [], 0
        for at in range(rng.randint(1, 5)):
            prefix, prompt = prompt, prompt + rng.randint(30, 600)
            output = int(rng.lognormvariate(4.5, 0.6)) + 1
            turns.append(
                turn(prompt, output, think=rng.uniform(1, 20) if at else 0.0, prefix=prefix, name=f"c{number}")
            )
            prompt += output
        found.append(PastSession(now, KEY, tuple(turns)))
    return found


def happened(
    sessions: Sequence[PastSession] = (), nodes: Sequence[Node] = FLEET, policy: str = LEAST_INFLIGHT
) -> list[PastRequest]:
    """Return what is recorded of these sessions. The times begin at 0."""
    played = play(RunSetting(nodes, LENGTHS, policy, noise=False), sessions or chats())
    return sorted(past_request(it, nodes, policy) for it in played)


def past_request(it: Played, nodes: Sequence[Node], policy: str) -> PastRequest:
    of = it.turn
    return PastRequest(
        it.arrived, it.sent, it.first, it.ended, nodes[it.node].id, of.key, *of.group, of.prompt, of.output,
        conversation=of.conversation, balancer=policy,
    )  # fmt: skip


def known(nodes: Sequence[Node] = FLEET) -> list[KnownEndpoint]:
    return [KnownEndpoint(it.id, it.name, it.engine, it.slots) for it in nodes]


def records(requests: Sequence[PastRequest], end: float) -> list[RequestRecord]:
    """Return the records of requests, moved in time so that the last one ends at `end` (seconds since 1970)."""
    moved = end - max(it.ended for it in requests)
    return [_record(it, moved) for it in requests]


def _record(it: PastRequest, moved: float) -> RequestRecord:
    attempt = AttemptRecord(
        it.endpoint, "ok", 200, _us(it.ended - it.sent), at_us=_us(it.sent - it.arrived), reason=REASONS[it.balancer]
    )
    made = request(
        model=it.model, kind=it.kind, input_tokens=it.prompt, output_tokens=it.output, attempts=(attempt,),
        duration_us=_us(it.ended - it.arrived), first_token_us=_us(it.first - it.arrived) if it.first else None,
        api_key_id=it.key, conversation=it.conversation or None, streamed=True, body_bytes=4 * it.prompt,
    )  # fmt: skip
    return msgspec.structs.replace(made, completed_us=_us(it.ended + moved))


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
