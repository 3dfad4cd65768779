"""One gateway and a fleet in virtual time: what a policy makes of a workload.

The gateway knows what the real one knows: requests in flight, prompt tokens whose responses have not begun, slots
that a server tells, and what it learns from responses. Responses arrive half a round trip later than they are sent.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from benchmarks.routing import workloads
from benchmarks.routing.fleets import Fleet
from benchmarks.routing.server import Job, Server
from gateway.routing.balancer import EXCLUDED
from gateway.routing.expected_time import recent_mean

WARM = 0.15  # share of the run at its beginning that is not measured
TICK = 0.5  # seconds between two looks at the queue
_TURN, _STEP, _TICK, _CHANGE, _STRANGER = range(5)
_LOOKS = 25  # requests of the queue that are looked at after a completion


class View:
    """What the gateway knows about an endpoint; a candidate of gateway.routing."""

    def __init__(self, number: int, server: Server) -> None:
        self.id, self.number, self.server = f"e{number}", number, server
        self.rank = 0
        self.tier = 1
        self.trial_due = 0.0
        self.slots = server.shape.slots if server.shape.tells_slots else None
        self.in_flight = 0
        self.pending = 0  # prompt tokens sent whose responses have not begun
        self.recent_prompt = 0.0  # see gateway.routing.expected_time.LoadedCandidate
        self.read = 0  # prompt tokens sent so far
        self.sent = self.completed = 0
        self.most = 0  # the most requests in flight beyond 2 * completions, since it returned
        self._returned_at = 0  # completions
        self._shared, self._touched = 0.0, 0.0

    def shared(self, now: float) -> float:
        """Return the integral of the requests in flight until now."""
        return self._shared + self.in_flight * (now - self._touched)

    def count(self, change: int, now: float) -> None:
        self._shared, self._touched = self.shared(now), now
        self.in_flight += change
        if change > 0:
            self.most = max(self.most, self.in_flight - 2 * (self.completed - self._returned_at))

    def returned(self) -> None:
        """Count completions from now on: it was away."""
        self._returned_at, self.most = self.completed, 0


@dataclass(eq=False)
class Request:
    session: workloads.Session
    job: Job
    turn: int
    arrived: float
    view: View | None = None
    sent: float = 0.0
    first: float = 0.0
    ended: float = 0.0
    # What the gateway expected and saw.
    unread: int = 0  # prompt tokens
    expected_prefix: float = 0.0
    age: int = -1
    pending_before: int = 0
    read_before: int = 0
    shared_before: float = 0.0
    was_idle: bool = False
    is_cold: bool = False


class Policy(Protocol):
    def choose(self, request: Request, views: Sequence[View], waiting: int, now: float) -> View | None:
        """Choose an endpoint, or None: wait."""

    def sent(self, request: Request, view: View, now: float) -> None: ...

    def ended(self, request: Request, view: View, now: float) -> None: ...

    def returned(self, view: View, now: float) -> None:
        """An endpoint is back that was away."""

    def tick(self, now: float) -> None: ...


@dataclass(frozen=True)
class Change:
    """Something that happens to a server: it is throttled, leaves, returns, or loses its prefix cache."""

    share: float  # of the run, before it happens
    server: int
    slowdown: float = 1.0
    rank: int = 0
    forgets: bool = False


@dataclass
class Result:
    fleet: str
    policy: str
    load: float
    requests: list[Request]  # measured ones that ended
    views: list[View]
    loads: int  # cold loads of models
    unfinished: int
    seconds: float
    ends: list[float]  # of all requests, sorted

    def per_token(self) -> list[float]:
        """Return the seconds of each request per output token, from its arrival on, sorted."""
        return sorted(
            (request.ended - request.arrived) / request.job.output for request in self.requests if request.job.output
        )

    def p95(self) -> float:
        return percentile(self.per_token(), 0.95)

    def first_p95(self) -> float:
        return percentile(
            sorted(request.first - request.arrived for request in self.requests if request.job.output), 0.95
        )

    def hits(self) -> float:
        """Return the share of prompt tokens that were in a prefix cache."""
        return sum(request.job.cached for request in self.requests) / max(
            1, sum(request.job.prompt for request in self.requests)
        )

    def busiest(self) -> float:
        counts = [0] * len(self.views)
        for request in self.requests:
            assert request.view is not None
            counts[request.view.number] += 1
        return max(counts) / max(1, sum(counts))

    def throughput(self) -> float:
        """Return the requests that ended per second, in the middle of the run."""
        ends = self.ends
        low, high = ends[len(ends) // 5], ends[4 * len(ends) // 5]
        return 0.6 * len(ends) / (high - low)


def percentile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


@dataclass
class Run:
    """`changes` happen at their time. `strangers`: share of the first server that other clients take."""

    fleet: Fleet
    policy: Policy
    name: str
    load: float
    requests: int = 3000
    seed: int = 1
    think: float = 1.0
    rate: float = 0.0  # requests per second; 0: `load` of the saturation
    changes: Iterable[Change] = ()
    strangers: float = 0.0
    views: list[View] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, int, object]] = []
        self._number = 0
        self._queue: list[Request] = []
        self._started: list[Request] = []
        self._of_job: dict[Job, Request] = {}
        self._random = Random(f"{self.seed} server")
        loads = {f"m{number}": float(seconds) for number, seconds in enumerate(self.fleet.loads)}
        for number, shape in enumerate(self.fleet.shapes):
            self.views.append(View(number, Server(shape, loads=loads, random=self._random.random)))
        self._versions = [0] * len(self.views)
        rate = self.rate or self.load * self.fleet.saturation
        self.sessions = workloads.sessions(self.fleet, rate, self.requests, self.seed, think=self.think)
        self.length = self.sessions[-1].start
        self._turns = {session.number: list(workloads.contexts(session)) for session in self.sessions}

    def _push(self, moment: float, kind: int, value: object) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment, self._number, kind, value))

    def run(self) -> Result:
        for session in self.sessions:
            self._push(session.start, _TURN, (session, 0))
        for change in self.changes:
            self._push(change.share * self.length, _CHANGE, change)
        if self.strangers:
            self._push(0.0, _STRANGER, None)
        self._push(TICK, _TICK, None)
        steps: dict[int, Callable[[Any], None]] = {
            _TURN: self._arrive,
            _STEP: self._step,
            _TICK: self._tick,
            _CHANGE: self._change,
            _STRANGER: self._stranger,
        }
        end = self.length * 6 + 2000
        while self._events and self.now < end:
            self.now, _, kind, value = heapq.heappop(self._events)
            steps[kind](value)
        return self._result()

    def answered(self) -> list[Request]:
        """Return the requests after the warm-up that ended before the last session began, as a history has them."""
        return [
            request
            for request in self._started
            if request.arrived >= WARM * self.length and 0 < request.ended <= self.length
        ]

    def _result(self) -> Result:
        ends = sorted(request.ended for request in self._started if request.ended)
        measured = [request for request in self._started if WARM * self.length <= request.arrived <= self.length]
        unfinished = [request for request in measured if not request.ended]
        for request in unfinished:
            request.view, request.ended, request.first = request.view or self.views[0], self.now, self.now
        loads = sum(view.server.loads for view in self.views)
        return Result(
            self.fleet.name, self.name, self.load, measured, self.views, loads, len(unfinished), self.length, ends
        )

    def _tick(self, _: object) -> None:
        self.policy.tick(self.now)
        self._look()
        if self._events:
            self._push(self.now + TICK, _TICK, None)

    def _arrive(self, arrival: tuple[workloads.Session, int]) -> None:
        session, number = arrival
        turn, history, prompt = self._turns[session.number][number]
        job = Job(
            prompt,
            turn.output,
            model=session.model,
            system=session.system,
            system_tokens=session.system_tokens,
            conversation=session.conversation,
            history=history,
        )
        request = Request(session, job, number, self.now)
        self._started.append(request)
        view = self.policy.choose(request, self.views, len(self._queue), self.now)
        if view is None:
            self._queue.append(request)
        else:
            self._send(request, view)

    def _look(self) -> None:
        """Look at the requests in the queue again."""
        position = 0
        while position < min(len(self._queue), _LOOKS):
            request = self._queue[position]
            view = self.policy.choose(request, self.views, len(self._queue) - 1, self.now)
            if view is None:
                position += 1
            else:
                del self._queue[position]
                self._send(request, view)

    def _send(self, request: Request, view: View) -> None:
        request.view, request.sent = view, self.now
        request.was_idle, request.unread = view.in_flight == 0, request.job.prompt
        self.policy.sent(request, view, self.now)
        request.pending_before = view.pending
        view.count(1, self.now)
        request.shared_before = view.shared(self.now)
        view.pending += request.unread
        if not view.server.shape.paged:
            view.recent_prompt = recent_mean(view.recent_prompt, request.job.prompt)
        view.read += request.unread
        request.read_before = view.read
        view.sent += 1
        self._of_job[request.job] = request
        self._wake(view, view.server.submit(request.job, self.now))

    def _wake(self, view: View, due: float | None) -> None:
        self._versions[view.number] += 1
        if due is not None:
            self._push(due, _STEP, (view, self._versions[view.number]))

    def _step(self, step: tuple[View, int]) -> None:
        view, version = step
        if version != self._versions[view.number]:
            return
        read = list(view.server.reading)
        ended = view.server.advance(self.now)
        later = self.now + view.server.shape.rtt / 1e3
        for job in read:
            if job.first_at is not None:
                self._begun(job, view, later)
        for job in ended:
            self._begun(job, view, later)
            self._ended(job, view, later)
        self._wake(view, view.server.begin(self.now))
        if ended and self._queue:
            self._look()

    def _begun(self, job: Job, view: View, later: float) -> None:
        request = self._of_job.get(job)
        if request is not None and not request.first:
            request.first = later
            view.pending -= request.unread

    def _ended(self, job: Job, view: View, later: float) -> None:
        request = self._of_job.pop(job, None)
        if request is None:
            return
        request.ended = later
        self.policy.ended(request, view, self.now)
        view.count(-1, self.now)
        view.completed += 1
        session, turn = request.session, request.turn + 1
        if turn < len(session.turns):
            self.begin(session, self.now + session.turns[turn].think, turn)

    def begin(self, session: workloads.Session, moment: float, turn: int = 0) -> None:
        """Let a turn of a session arrive at a moment."""
        self._push(moment, _TURN, (session, turn))

    def _change(self, change: Change) -> None:
        view = self.views[change.server]
        was_away = view.rank == EXCLUDED
        view.rank = change.rank
        if change.rank == EXCLUDED:
            return
        if was_away:
            view.returned()
            self.policy.returned(view, self.now)
        if change.forgets:
            view.server.cache.clear()
        due = view.server.set_slowdown(change.slowdown, self.now)
        self._wake(view, due)

    def _stranger(self, _: object) -> None:
        """Other clients use the first server: requests of 600 tokens that have 150 written."""
        view = self.views[0]
        server = view.server
        batch = min(8, server.shape.slots)
        each = 600 * server.p + 150 * (server.a + server.b * batch) / batch
        self._wake(view, server.submit(Job(600, 150, system="strangers", system_tokens=100), self.now))
        if self.now < self.length:
            self._push(self.now + self._random.expovariate(self.strangers / each), _STRANGER, None)
