"""One run of recorded sessions through a policy and a fleet, in virtual time. Pure: no I/O, no clock."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from gateway.base.config import ADAPTIVE, LEAST_INFLIGHT
from gateway.routing import adaptive, balancer
from gateway.routing.adaptive import UNKNOWN_OUTPUT
from gateway.routing.expected_time import Demand, Row
from metrics.replay.nodes import Node, age_of
from metrics.replay.server import Played, ReplayedServer
from metrics.replay.traffic import Group, PastSession, Turn

POLICIES = (ADAPTIVE, LEAST_INFLIGHT)
LOOK_SECONDS = 0.5  # between two looks at the queue, besides those when a request ends
LOOKS = 25  # requests of the queue that are looked at
NO_TOKENS: Mapping[str, float] = {}
NOTHING_HAD: Mapping[int, int] = {}
ENDLESS = float("inf")

# What happens: a turn of a session arrives, a server has an event of this version, or the queue is looked at.
_What = PastSession | ReplayedServer | None


@dataclass(frozen=True, slots=True)
class RunSetting:
    """What a run is made of. `speed` multiplies all times of the fleet; `noise` draws from residuals of the fit."""

    nodes: Sequence[Node]
    lengths: Mapping[tuple[str, str], float]  # metrics.replay.traffic.means
    policy: str
    speed: float = 1.0
    seed: int = 1
    noise: bool = True
    queue: int = 1000  # places
    spill_after: float = adaptive.NEVER  # as in gateway.routing.adaptive.row


class ReplayRun:
    """The state of a run."""

    def __init__(self, setting: RunSetting) -> None:
        self.played: list[Played] = []
        self.refused = 0
        self._setting = setting
        nodes = [node.slower(setting.speed) for node in setting.nodes] if setting.speed != 1.0 else setting.nodes
        self._nodes = nodes
        self._servers = [ReplayedServer(number, node) for number, node in enumerate(nodes)]
        self._random = Random(f"{setting.seed} replay")  # noqa: S311
        self._events: list[tuple[float, int, _What, int]] = []
        self._number = 0
        self._queue: list[Played] = []
        self._by_id = {server.id: server for server in self._servers}
        self._of_group: dict[Group, list[ReplayedServer]] = {}
        self._rows: dict[Group, list[Row[ReplayedServer]]] = {}
        self._had: dict[str, dict[int, int]] = {}  # what an endpoint had read by then, by name of a prefix
        self._is_adaptive = setting.policy == ADAPTIVE
        self._looking = False

    def run(self, parts: Sequence[PastSession]) -> list[Played]:
        """Play sessions, and return their requests that were sent, by arrival."""
        begin = min((session.start for session in parts), default=0.0)
        for session in parts:
            self._push(session.start - begin, session, 0)
        events, pop = self._events, heapq.heappop
        while events:
            now, _, what, number = pop(events)
            if isinstance(what, ReplayedServer):
                if number == what.version:
                    self._step(what, now)
            elif what is None:
                self._looking = False
                self._look(now)
            else:
                self._arrive(what, number, now)
        return self.played

    def _push(self, moment: float, what: _What, number: int) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment, self._number, what, number))

    def _arrive(self, session: PastSession, number: int, now: float) -> None:
        one = Played(session, number, session.turns[number], now)
        server = self._choose(one, now, len(self._queue))
        if server is not None:
            self._send(one, server, now)
        elif len(self._queue) < self._setting.queue:
            self._queue.append(one)
            self._look_later(now)
        else:
            self.refused += 1
            return
        self.played.append(one)

    def _look_later(self, now: float) -> None:
        if self._queue and not self._looking:
            self._looking = True
            self._push(now + LOOK_SECONDS, None, 0)

    def _look(self, now: float) -> None:
        position = 0
        while position < min(len(self._queue), LOOKS):
            server = self._choose(self._queue[position], now, len(self._queue) - 1)
            if server is None:
                position += 1
            else:
                self._send(self._queue.pop(position), server, now)
        self._look_later(now)

    def _choose(self, one: Played, now: float, waiting: int) -> ReplayedServer | None:
        group = one.turn.group
        servers = self._of_group.get(group)
        if servers is None:
            servers = self._begin_group(group)
        draw = self._random.random
        if not self._is_adaptive:
            decision = balancer.pick(
                servers, lambda server: server.in_flight, choose=lambda names: names[int(draw() * len(names))]
            )
        else:
            demand = self._demand(one, servers, now)
            decision = adaptive.pick(self._rows[group], demand, None, (), waiting, draw)
        if decision is None or decision is balancer.FULL:
            return None
        return self._by_id[decision.endpoint_id]

    def _begin_group(self, group: Group) -> list[ReplayedServer]:
        numbers = [number for number, node in enumerate(self._nodes) if group in node.behaviours]
        servers = self._of_group[group] = [self._servers[number] for number in numbers]
        speeds = [self._nodes[number].behaviours[group].speeds for number in numbers]
        last = max((server.tier for server in servers), default=1)
        self._rows[group] = [
            adaptive.row(
                server,
                own,
                self._nodes[number].engine,
                speeds,
                weight=self._nodes[number].weight,
                spill_after=self._setting.spill_after if server.tier < last else adaptive.NEVER,
            )
            for number, server, own in zip(numbers, servers, speeds, strict=True)
        ]
        return servers

    def _demand(self, one: Played, servers: Sequence[ReplayedServer], now: float) -> Demand:
        turn, lengths = one.turn, self._setting.lengths
        output = typical = 0.0
        if turn.output:
            model = turn.group[0]
            typical = lengths.get((model, ""), UNKNOWN_OUTPUT)
            output = lengths.get((model, turn.key), typical)
        kept = {}
        for number, tokens in self._kept(turn).items():
            kept[self._servers[number].id] = tokens
        return Demand(turn.prompt, output, kept or NO_TOKENS, max(0.0, now - one.arrived), typical)

    def _kept(self, turn: Turn) -> dict[int, float]:
        """Return the tokens of a prompt that routing expects in the caches of endpoints."""
        tokens: dict[int, float] = {}
        if turn.system_tokens:
            for number, read in self._had.get(turn.system, NOTHING_HAD).items():
                tokens[number] = turn.system_tokens * self._share(turn, number, read)
        if turn.prefix > turn.system_tokens:
            for number, read in self._had.get(turn.conversation, NOTHING_HAD).items():
                tokens[number] = turn.prefix * self._share(turn, number, read)
        return tokens

    def _share(self, turn: Turn, number: int, read: int) -> float:
        behaviour = self._nodes[number].behaviours.get(turn.group)
        return behaviour.kept[age_of(self._servers[number].read - read)] if behaviour else 0.0

    def _send(self, one: Played, server: ReplayedServer, now: float) -> None:
        turn, number = one.turn, server.number
        one.node, one.sent = number, now
        if self._is_adaptive:
            one.pending = max(1, turn.prompt - int(self._kept(turn).get(number, 0.0)))
            server.pending += one.pending
            server.read += one.pending
            had = self._had
            if turn.system_tokens:
                had.setdefault(turn.system, {})[number] = server.read
            had.setdefault(turn.conversation, {})[number] = server.read
        server.in_flight += 1
        if self._setting.noise:
            residuals = self._nodes[number].behaviours[turn.group].residuals
            one.factor = residuals[int(self._random.random() * len(residuals))]
        server.submit(one, now)
        self._wake(server)

    def _wake(self, server: ReplayedServer) -> None:
        server.version += 1
        due = server.next_event()
        if due < ENDLESS:
            self._push(due, server, server.version)

    def _step(self, server: ReplayedServer, now: float) -> None:
        begun, ended = server.step(now)
        for one in begun:
            server.pending -= one.pending
        for one in ended:
            server.in_flight -= 1
            session, number = one.session, one.number + 1
            if number < len(session.turns):
                self._push(one.ended + session.turns[number].think, session, number)
        self._wake(server)
        if ended and self._queue:
            self._look(now)


def play(setting: RunSetting, parts: Sequence[PastSession]) -> list[Played]:
    """Run sessions under a setting."""
    return ReplayRun(setting).run(parts)
