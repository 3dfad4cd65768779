"""Traffic of servers with known parameters, as a replay reads it and as the journal has it."""

import random
from collections.abc import Sequence

import msgspec

from gateway.base.config import ADAPTIVE, LEAST_INFLIGHT
from gateway.base.request_kinds import CHAT
from gateway.ipc.record import AttemptRecord, RequestRecord
from gateway.routing.adaptive import FASTEST, NO_LIMIT
from gateway.routing.balancer import LEAST
from gateway.routing.expected_time import Parameters
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
    sessions, now = [], start
    for number in range(count):
        now += rng.expovariate(1 / every)
        turns, prompt = [], 0
        for position in range(rng.randint(1, 5)):
            prefix, prompt = prompt, prompt + rng.randint(30, 600)
            output = int(rng.lognormvariate(4.5, 0.6)) + 1
            turns.append(
                turn(prompt, output, think=rng.uniform(1, 20) if position else 0.0, prefix=prefix, name=f"c{number}")
            )
            prompt += output
        sessions.append(PastSession(now, KEY, tuple(turns)))
    return sessions


def happened(
    sessions: Sequence[PastSession] = (), nodes: Sequence[Node] = FLEET, policy: str = LEAST_INFLIGHT
) -> list[PastRequest]:
    """Return what is recorded of these sessions. The times begin at 0."""
    played = play(RunSetting(nodes, LENGTHS, policy, noise=False), sessions or chats())
    return sorted(past_request(played_request, nodes, policy) for played_request in played)


def past_request(played_request: Played, nodes: Sequence[Node], policy: str) -> PastRequest:
    of = played_request.turn
    return PastRequest(
        played_request.arrived, played_request.sent, played_request.first, played_request.ended,
        nodes[played_request.node].id, of.key, *of.group, of.prompt, of.output,
        conversation=of.conversation, balancer=policy,
    )  # fmt: skip


def known(nodes: Sequence[Node] = FLEET) -> list[KnownEndpoint]:
    return [KnownEndpoint(server.id, server.name, server.engine, server.slots) for server in nodes]


def records(requests: Sequence[PastRequest], end: float) -> list[RequestRecord]:
    """Return the records of requests, moved in time so that the last one ends at `end` (seconds since 1970)."""
    moved = end - max(recorded.ended for recorded in requests)
    return [_record(recorded, moved) for recorded in requests]


def _record(recorded: PastRequest, moved: float) -> RequestRecord:
    attempt = AttemptRecord(
        recorded.endpoint,
        "ok",
        200,
        _us(recorded.ended - recorded.sent),
        at_us=_us(recorded.sent - recorded.arrived),
        reason=REASONS[recorded.balancer],
    )
    made = request(
        model=recorded.model, kind=recorded.kind, input_tokens=recorded.prompt, output_tokens=recorded.output,
        attempts=(attempt,), duration_us=_us(recorded.ended - recorded.arrived),
        first_token_us=_us(recorded.first - recorded.arrived) if recorded.first else None,
        api_key_id=recorded.key, conversation=recorded.conversation or None, streamed=True,
        body_bytes=4 * recorded.prompt,
    )  # fmt: skip
    return msgspec.structs.replace(made, completed_us=_us(recorded.ended + moved))


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
