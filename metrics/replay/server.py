"""An endpoint in virtual time, as far as the parameters of a fit describe it. Pure: the caller has the clock.

Prompts are read one after the other. While one is read, nothing is written; otherwise all requests that write advance
together, each token of a request in the time that gateway.routing.expected_time has for it beside the others.
"""

import heapq
from collections import deque
from dataclasses import dataclass

from gateway.registry.schema import ENABLED, ONLINE
from gateway.routing.balancer import rank
from gateway.routing.expected_time import Parameters, recent_mean
from metrics.replay.nodes import Node, PrefixCache
from metrics.replay.traffic import Group, PastSession, Turn

_NEVER = float("inf")
_TINY = 1e-9


@dataclass(eq=False, slots=True)
class Played:
    """A request of a replay. Times in seconds since its start; 0 before they are known."""

    session: PastSession
    number: int  # of its turn
    turn: Turn
    arrived: float
    node: int = -1
    sent: float = 0.0
    begun: float = 0.0  # at a server that serves a limited number at a time
    read: float = 0.0  # its prompt
    first: float = 0.0
    ended: float = 0.0
    pending: int = 0  # prompt tokens that routing expects to be read
    factor: float = 1.0  # by which it takes longer than the fit says
    setup: float = 0.0


class _Writers:
    """Requests with the same parameters, which write at the same speed. `clock` counts the tokens of each."""

    __slots__ = ("clock", "ends", "parameters")

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.clock = 0.0
        self.ends: list[tuple[float, int, Played]] = []


class ReplayedServer:
    """The server of a node, and the candidate that routing chooses (gateway.routing.expected_time.LoadedCandidate)."""

    __slots__ = (
        "_behaviours", "_left", "_number", "_places", "_reading", "_waiting", "_writers", "_writing", "at", "cache",
        "id", "in_flight", "number", "pending", "rank", "read", "recent_prompt", "slots", "tier", "version",
    )  # fmt: skip
    trial_due = 0.0

    def __init__(self, number: int, node: Node) -> None:
        self.id, self.number = node.id, number
        self.slots = node.slots
        self.tier = node.tier
        self.rank = rank(ONLINE, ENABLED, node.tier)
        self.in_flight = self.pending = 0
        self.recent_prompt = 0.0
        self.read = 0  # prompt tokens that were sent so far
        self.version = 0  # of its next event
        self.at = 0.0
        self.cache = PrefixCache(node.cache)
        self._places = node.places
        self._behaviours = node.behaviours
        self._writers: dict[Group, _Writers] = {}
        self._reading: deque[tuple[Played, float]] = deque()  # with the seconds that it takes
        self._left = 0.0  # of the first one
        self._waiting: deque[Played] = deque()
        self._writing = 0
        self._number = 0

    def submit(self, one: Played, now: float) -> None:
        self.advance(now)
        self.recent_prompt = recent_mean(self.recent_prompt, one.turn.prompt)
        if len(self._reading) + self._writing < self._places:
            self._begin(one)
        else:
            self._waiting.append(one)

    def _begin(self, one: Played) -> None:
        turn, parameters = one.turn, self._behaviours[one.turn.group].parameters
        unread = max(1, turn.prompt - self.cache.match(turn))
        seconds = one.factor * parameters.read * unread
        self.cache.keep(turn)
        one.begun = self.at
        one.setup = one.factor * parameters.setup
        if not self._reading:
            self._left = seconds
        self._reading.append((one, seconds))

    def next_event(self) -> float:
        """Return the moment of the next event if nothing is submitted before."""
        if self._reading:
            return self.at + self._left
        due, number = _NEVER, self._writing
        for group in self._writers.values():
            if group.ends:
                due = min(due, (group.ends[0][0] - group.clock) * group.parameters.token(number))
        return self.at + due

    def advance(self, now: float) -> None:
        """Work until `now`, which is no later than the next event."""
        elapsed, self.at = now - self.at, now
        if elapsed <= 0.0:
            return
        if self._reading:
            self._left -= elapsed
            return
        number = self._writing
        for group in self._writers.values():
            if group.ends:
                group.clock += elapsed / group.parameters.token(number)

    def step(self, now: float) -> tuple[list[Played], list[Played]]:
        """Advance to an event. Return the requests whose prompt was read with it, and those that ended."""
        self.advance(now)
        begun: list[Played] = []
        ended: list[Played] = []
        if self._reading:
            if self._left <= _TINY:
                one, _ = self._reading.popleft()
                begun.append(one)
                self._has_read(one, ended)
                if self._reading:
                    self._left = self._reading[0][1]
        else:
            for group in self._writers.values():
                while group.ends and group.ends[0][0] <= group.clock + _TINY * max(1.0, group.clock):
                    _, _, one = heapq.heappop(group.ends)
                    self._writing -= 1
                    one.ended = now + one.setup
                    ended.append(one)
        while self._waiting and len(self._reading) + self._writing < self._places:
            self._begin(self._waiting.popleft())
        return begun, ended

    def _has_read(self, one: Played, ended: list[Played]) -> None:
        now, output = self.at, one.turn.output
        one.read = now
        if not output:
            one.first = one.ended = now + one.setup
            ended.append(one)
            return
        group = self._writers.get(one.turn.group)
        if group is None:
            group = self._writers[one.turn.group] = _Writers(self._behaviours[one.turn.group].parameters)
        self._writing += 1
        one.first = now + one.setup + one.factor * group.parameters.token(self._writing)
        self._number += 1
        heapq.heappush(group.ends, (group.clock + one.factor * output, self._number, one))
