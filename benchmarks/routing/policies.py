"""Policies to compare: the product's two, others' published rules, and oracles that know the servers."""

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from random import Random
from statistics import median
from typing import Any

from benchmarks.routing.learner import Learner, Lengths, kind_of
from benchmarks.routing.oracle import expected_finish
from benchmarks.routing.server import Server
from benchmarks.routing.virtual import Request, View
from gateway.registry.schema import EngineState, Speeds
from gateway.routing import adaptive, balancer
from gateway.routing.expected_time import Demand, Row, parameters_of
from gateway.routing.loaded_models import LoadedModels, ModelLoad, Reporting
from metrics.learning.fit import typical_load

REFIT_SECONDS = 2.0
MIN_LOAD_SECONDS, KEPT_LOADS = 0.1, 9
POLL_SECONDS = 1.0  # between two looks at the models in memory, and at the savings of copies
NEW = Speeds(0.0, 0.0, 0.0, 0.0)


class Simple:
    """A policy that learns nothing from the requests that it has sent."""

    def __init__(self, seed: int = 1) -> None:
        self.random = Random(f"{seed} policy")

    def sent(self, request: Request, view: View, now: float) -> None:
        pass

    def ended(self, request: Request, view: View, now: float) -> None:
        pass

    def returned(self, view: View, now: float) -> None:
        pass

    def tick(self, now: float) -> None:
        pass


class Scored(Simple, ABC):
    """The lowest score among the endpoints that are not full."""

    @abstractmethod
    def score(self, request: Request, view: View, views: Sequence[View]) -> float:
        """Return the score of an endpoint for a request, beside the others. The lowest one is the best."""

    def choose(self, request: Request, views: Sequence[View], waiting: int, now: float) -> View | None:
        free = [
            view for view in views if view.rank < balancer.OPEN and (view.slots is None or view.in_flight < view.slots)
        ]
        if not free:
            return None
        draw = self.random.random
        return min(free, key=lambda view: (self.score(request, view, views), draw()))


class LeastInFlight(Simple):
    """RouterDash's `least_inflight`."""

    def choose(self, request: Request, views: Sequence[View], waiting: int, now: float) -> View | None:
        draw = self.random.random
        decision = balancer.pick(
            views, lambda view: view.in_flight, choose=lambda names: names[int(draw() * len(names))]
        )
        if decision is None or decision is balancer.FULL:
            return None
        return views[int(decision.endpoint_id[1:])]


class WeightedLeast(Scored):
    """Requests in flight divided by the throughput of a full batch, as an administrator would set the weights."""

    def score(self, request: Request, view: View, views: Sequence[View]) -> float:
        server = view.server
        batch = min(32, server.shape.slots)
        return (view.in_flight + 1) * (server.a + server.b * batch) / batch


class LoadedFirst(Scored):
    """The fewest requests in flight among those with the model in memory, then among the others."""

    def score(self, request: Request, view: View, views: Sequence[View]) -> float:
        server = view.server
        loaded = not server.shape.one_model or request.job.model == _last_model(server)
        return view.in_flight + (0 if loaded else 1000)


def _last_model(server: Server) -> str | None:
    """Return the model of the last request in the queue, or the one in memory."""
    return server.waiting[-1].model if server.waiting else server.model


class GatewayExtension(Scored):
    """The scorers of the Gateway API Inference Extension: queue 2, KV cache 2, prefix 3, with exact values."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        self._seen: dict[str, set[str]] = defaultdict(set)

    def score(self, request: Request, view: View, views: Sequence[View]) -> float:
        longest = max(len(other.server.waiting) for other in views) or 1
        server, job = view.server, request.job
        used = server.memory_used if server.shape.paged else server.running / server.shape.slots
        return -(
            2 * (1 - len(server.waiting) / longest)
            + 2 * (1 - used)
            + 3 * _had(job.conversation, job.system, view, request, self._seen) / job.prompt
        )

    def sent(self, request: Request, view: View, now: float) -> None:
        self._seen[view.id].update((request.job.conversation, request.job.system))


def _had(conversation: str, system: str, view: View, request: Request, seen: dict[str, set[str]]) -> int:
    job = request.job
    if conversation in seen[view.id] and job.history:
        return job.system_tokens + job.history
    return job.system_tokens if system in seen[view.id] else 0


class Oracle(Simple):
    """It knows every server's state and parameters and all lengths: the earliest finish, and with `social` the least
    time of all requests together.
    """

    def __init__(self, seed: int = 1, *, social: bool) -> None:
        super().__init__(seed)
        self._social = social

    def choose(self, request: Request, views: Sequence[View], waiting: int, now: float) -> View | None:
        usable = [view for view in views if view.rank < balancer.OPEN]
        return min(usable, key=lambda view: self._cost(request, view, now))

    def _cost(self, request: Request, view: View, now: float) -> float:
        own, others = expected_finish(view.server, request.job, now)
        if not self._social:
            return own
        return own + others - expected_finish(view.server, None, now)[1]


class Adaptive:
    """The product's policy, with what the product learns. Requests go through one of several gateways."""

    def __init__(self, seed: int = 1, gateways: int = 1) -> None:
        self._draw = Random(f"{seed} policy").random
        self.learner = Learner()
        self._lengths = Lengths()
        self._rows: dict[tuple[LoadedModels, str, str], list[Row[View]]] = {}
        self._prefixes: dict[str, dict[View, int]] = defaultdict(dict)  # the tokens that it had read by then
        self._engines: dict[View, EngineState] = {}
        self._gateways = [self._gateway(number) for number in range(gateways)]
        self._gateway_of: dict[Request, LoadedModels] = {}
        for gateway in self._gateways:
            gateway.processes = gateways
        self._waits: dict[Request, tuple[ModelLoad, View]] = {}
        self._load_times: dict[tuple[str, str], list[float]] = defaultdict(list)  # by endpoint and model
        self._now = self._fitted = self._polled = 0.0

    def _gateway(self, number: int) -> LoadedModels:
        def announce(endpoint_id: str, model: str) -> None:
            for other in self._gateways:
                if other is not self._gateways[number]:
                    other.heard(endpoint_id, model, self._load_of(endpoint_id, model) or adaptive.UNKNOWN_LOAD_SECONDS)

        return LoadedModels(self._rows.clear, lambda: self._now, announce)

    def choose(self, request: Request, views: Sequence[View], waiting: int, now: float) -> View | None:
        job, kind = request.job, kind_of(request)
        self._now = now
        if request not in self._gateway_of:
            self._gateway_of[request] = self._gateways[request.session.number % len(self._gateways)]
        kept = {}
        for view, (tokens, age) in self._prefix(request).items():
            kept[view.id] = tokens * self._share(view, job.model, kind, age)
        output = typical = 0.0
        if job.output:
            output, typical = self._lengths.of(job.model, request.session.kind), self._lengths.of(job.model)
        demand = Demand(job.prompt, output, kept, max(0.0, now - request.arrived), typical)
        self._poll(views)
        gateway = self._gateway_of[request]
        rows = self._rows_of(gateway, job.model, kind, views)
        decision = adaptive.pick(rows, demand, None, (), waiting, self._draw)
        if decision is None or decision is balancer.FULL:
            return None
        if any(row.load for row in rows):
            gateway.chose(decision, {row.id: row for row in rows}, self._reporting(job.model))
        return views[int(decision.endpoint_id[1:])]

    def _share(self, view: View, model: str, kind: str, age: int) -> float:
        """Return the share of an expected prefix that was really in the cache."""
        speeds = self.learner.speeds.get((view.id, model, kind))
        return speeds.kept[age] if speeds else 1.0

    def _prefix(self, request: Request) -> dict[View, tuple[float, int]]:
        """Return the tokens that endpoints had of this prompt, with their age."""
        job = request.job
        prefixes = {}
        for view, read in self._prefixes[job.system].items():
            prefixes[view] = (float(job.system_tokens), _age(view.read - read))
        if job.history:
            for view, read in self._prefixes[job.conversation].items():
                prefixes[view] = (float(job.system_tokens + job.history), _age(view.read - read))
        return prefixes

    def _poll(self, views: Sequence[View]) -> None:
        """Read which models are in memory, as control does, and look again at what is left of loads."""
        for request in [request for request in self._waits if request.first]:
            self._response_began(request)
        if self._now - self._polled < POLL_SECONDS:
            return
        self._polled = self._now
        for gateway in self._gateways:
            gateway.expire()
        if self._engines:
            self._rows.clear()
        for view in views:
            if not view.server.shape.one_model:
                continue
            loaded = (view.server.model,) if view.server.model else ()
            if view not in self._engines or self._engines[view].loaded != loaded:
                self._engines[view] = EngineState(self._now, loaded)
                self._rows.clear()

    def _rows_of(self, gateway: LoadedModels, model: str, kind: str, views: Sequence[View]) -> list[Row[View]]:
        rows = self._rows.get((gateway, model, kind))
        if rows is None:
            engines = {view.id: engine for view, engine in self._engines.items()}
            gateway.note(engines, engines)
            speeds = [self.learner.speeds.get((view.id, model, kind), NEW) for view in views]
            rows = [
                adaptive.row(view, own, view.server.shape.kind, speeds, load=self._load_seconds(gateway, view, model))
                for view, own in zip(views, speeds, strict=True)
            ]
            self._rows[gateway, model, kind] = rows
        return rows

    def _load_seconds(self, gateway: LoadedModels, view: View, model: str) -> float:
        engine = self._engines.get(view)
        return 0.0 if engine is None else gateway.load_seconds(view.id, engine, model, self._load_of(view.id, model))

    def _reporting(self, model: str) -> Reporting:
        return {view.id: (engine, model, self._load_of(view.id, model)) for view, engine in self._engines.items()}

    def _load_of(self, endpoint_id: str, model: str) -> float:
        """Return the seconds of a load there, or elsewhere if none was seen there; 0 if none was seen at all."""
        if times := self._load_times.get((endpoint_id, model)):
            return typical_load(times)
        known = [typical_load(times) for (_, of), times in self._load_times.items() if of == model]
        return median(known) if known else 0.0

    def sent(self, request: Request, view: View, now: float) -> None:
        job = request.job
        self._now = now
        engine = self._engines.get(view)
        gateway, seconds = self._gateway_of[request], self._load_of(view.id, job.model)
        load = None if engine is None else gateway.sent(view.id, engine, job.model, seconds)
        request.is_cold = load is not None
        if load is not None:
            self._waits[request] = load, view
        tokens, age = self._prefix(request).get(view, (0.0, -1))
        if age >= 0:
            request.expected_prefix, request.age = tokens, age
            tokens *= self._share(view, job.model, kind_of(request), age)
        request.unread = max(1, job.prompt - int(tokens))
        self._prefixes[job.system][view] = view.read + request.unread
        if job.output:
            self._prefixes[job.conversation][view] = view.read + request.unread

    def ended(self, request: Request, view: View, now: float) -> None:
        job = request.job
        self._now = now
        self.learner.add(request, view, now)
        if request in self._waits:
            self._response_began(request)
        if job.output:
            self._lengths.add(job.model, request.session.kind, job.output)

    def returned(self, view: View, now: float) -> None:
        self.learner.returned(view, now)
        self._rows.clear()

    def _response_began(self, request: Request) -> None:
        load, view = self._waits.pop(request)
        if load.is_over:
            return
        load.response_began()
        if not load.is_ours:
            return
        job = request.job
        speeds = self.learner.speeds.get((view.id, job.model, kind_of(request)), adaptive.UNMEASURED)
        reading = parameters_of(speeds).prefill(job.prompt - job.cached)
        times = self._load_times[view.id, job.model]
        times.append(max(MIN_LOAD_SECONDS, request.first - request.sent - reading))
        del times[:-KEPT_LOADS]

    def tick(self, now: float) -> None:
        if now - self._fitted >= REFIT_SECONDS:
            self._fitted = now
            if self.learner.fit():
                self._rows.clear()


def _age(tokens: int) -> int:
    """Return how long ago it is that an endpoint had a prefix, by the prompt tokens that it has read since."""
    return 0 if tokens < 4_000 else min(3, 1 + int(math.log(tokens / 4_000, 4)))


POLICIES: dict[str, Callable[[int], Any]] = {
    "least_inflight": LeastInFlight,
    "weighted_least": WeightedLeast,
    "gie": GatewayExtension,
    "loaded_first": LoadedFirst,
    "oracle": lambda seed: Oracle(seed, social=False),
    "oracle_social": lambda seed: Oracle(seed, social=True),
    "adaptive": Adaptive,
    "adaptive_2": lambda seed: Adaptive(seed, gateways=2),
}
