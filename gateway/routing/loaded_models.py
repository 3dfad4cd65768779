"""Which models are in the memory of the endpoints' engines: what control has read, and what was sent there since.

An engine loads a model when a request needs it, and then often has no room for the one before. Control reads what is
loaded every few seconds, so that each process corrects it by its own requests: the model that was sent last is loaded,
or is being loaded. A request to a model that is being loaded waits for that load, which takes less time than another.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import msgspec

from gateway.registry.schema import EngineState
from gateway.routing.adaptive import FASTEST, LOADED, UNKNOWN_LOAD_SECONDS
from gateway.routing.balancer import Decision
from gateway.routing.copy_values import CopyValues, Option
from gateway.routing.expected_time import Row

SETTLED_SECONDS = 30.0  # without a request, after which only what control has read counts
LATE = 0.1  # share of a load that is still expected when it takes longer than ever before
# Seconds of requests that a load must save for each second that it takes: whether the past goes on is not certain, and
# meanwhile the endpoint serves nobody. With it, loads are fewer than 1.5 times those of a policy that loads each model
# once, and a p95 of simulated fleets is within 1.06 of the best (benchmarks/README.md). Each of several processes sees
# only its part of the requests, which makes the savings that it expects of all less certain: it hesitates more.
HESITATION = 7.0
# By id of the endpoint: its engine, its own id of the model, and the seconds of a load.
Reporting = Mapping[str, tuple[EngineState, str, float]]


class ModelLoad:
    """A load that requests wait for. It is over when a response begins, or when no request waits.

    Requests of this process, or those of another one, if `is_ours` is false; then it is also over after `seconds`.
    """

    __slots__ = ("_end", "_waiting", "began_at", "is_loaded", "is_ours", "is_over", "model", "seconds", "seconds_left")

    def __init__(
        self,
        model: str,
        began_at: float,
        seconds: float,
        end: Callable[["ModelLoad", bool], None],
        *,
        is_ours: bool = True,
    ) -> None:
        """`began_at`: seconds of the clock. `seconds`: expected duration. `end` is called once, with True if the model
        is in memory now. `is_ours`: the first request that waits has caused it.
        """
        self.model = model
        self.began_at = began_at
        self.seconds = seconds
        self.is_ours = is_ours
        self.seconds_left = 0.0  # expected seconds until it is over, when the last request was sent
        self._end = end
        self.is_over = self.is_loaded = False
        self._waiting = 0

    def wait(self) -> None:
        """Count a request that waits."""
        self._waiting += 1

    @property
    def has_none(self) -> bool:
        """True if no request of this process waits."""
        return not self._waiting

    @property
    def has_one(self) -> bool:
        """True if the only request that waits has caused it."""
        return self._waiting == 1 and self.is_ours

    def response_began(self) -> None:
        """The response to a request that waited has begun, so the model is in memory."""
        self._end_once(is_loaded=True)

    def left(self) -> None:
        """A request that waited has ended before its response began. The last one ends the load."""
        self._waiting -= 1
        if not self._waiting:
            self._end_once(is_loaded=False)

    def expire(self) -> None:
        """As long as the load was expected to take has passed."""
        self._end_once(is_loaded=True)

    def _end_once(self, *, is_loaded: bool) -> None:
        if not self.is_over:
            self.is_over, self.is_loaded = True, is_loaded
            self._end(self, is_loaded)


class _Belief:
    """What this process knows about one endpoint beyond what control has read."""

    __slots__ = ("at", "loads", "models")

    def __init__(self) -> None:
        self.models: list[str] = []  # least recently used first
        self.loads: dict[str, ModelLoad] = {}
        self.at = 0.0  # when a request was sent or a response began, in seconds of the clock


def _ignore(endpoint_id: str, model: str) -> None:
    pass


class LoadedModels:
    """The models in memory at the endpoints that report them."""

    def __init__(
        self,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.time,
        announce: Callable[[str, str], None] = _ignore,
    ) -> None:
        """`changed` is called when expected times of routes have changed. `clock`: seconds since 1970. `announce` is
        called with endpoint and model when a request of this process causes a load, so that other processes hear of it.
        """
        self._changed = changed
        self._clock = clock
        self._announce = announce
        self._beliefs: dict[str, _Belief] = {}  # by id of the endpoint
        self._engines: dict[str, EngineState] = {}  # likewise, as far as they were noted
        self._values = CopyValues()
        self.processes = 1  # that share the requests, so that each sees a part of the savings
        self.loading = 0  # loads that are not over

    @property
    def has_engines(self) -> bool:
        """True if an endpoint reports which models are in memory."""
        return bool(self._engines)

    @property
    def endpoints(self) -> Collection[str]:
        """Ids of the endpoints that report it."""
        return self._engines.keys()

    def note(self, engines: Mapping[str, EngineState], known: Collection[str]) -> None:
        """Take what control has read about endpoints. This comes before the calls about them.

        `known`: ids of all endpoints. What others had in memory is forgotten.
        """
        self._engines.update(engines)
        for gone in self._engines.keys() - known:
            del self._engines[gone]
            self._beliefs.pop(gone, None)
            self._values.forget(gone)

    def load_seconds(self, endpoint_id: str, engine: EngineState, model: str, learned: float) -> float:
        """Return the seconds that a load adds to the expected time; 0 if the model is in memory, or if the engine does
        not report that.

        `learned`: seconds of earlier loads, 0 for none. A load counts more than it takes, plus the savings of the model
        that must leave the memory, minus those that this one would have had.
        """
        if engine.loaded is None:
            return 0.0
        seconds = learned or UNKNOWN_LOAD_SECONDS
        models, loads = self._state(endpoint_id, engine)
        if model in models:
            return self._left_of(loads[model]) if model in loads else 0.0
        now = self._clock()
        if model in engine.loading:
            return max(seconds - (now - engine.read_at), LATE * seconds)
        value = self._values.of(endpoint_id, model, now)
        if len(models) >= engine.most_loaded:
            value -= self._values.of(endpoint_id, models[0], now)
        first = sum([self._left_of(load) for load in loads.values()])
        hesitation = HESITATION * math.sqrt(self.processes)
        return first + max(LATE * seconds, hesitation * seconds - value * self.processes)

    def chose(self, decision: Decision, rows: Mapping[str, Row[Any]], reporting: Reporting) -> None:
        """Learn the values of models in memory from a choice. `rows` by id of the endpoint."""
        options = []
        for seconds, name, _ in decision.expected_times:
            if (reported := reporting.get(name)) is None:
                options.append(Option(name, "", seconds, 0.0, is_there=True))
                continue
            of, (engine, model, learned) = rows[name], reported
            is_there = model in self._state(name, engine)[0] or model in engine.loading
            load = (learned or UNKNOWN_LOAD_SECONDS) * of.weight
            options.append(Option(name, model, seconds - of.load * of.weight, load, is_there, of.weight))
        if options:
            self._values.note(options, decision.endpoint_id, self._clock())

    def _left_of(self, load: ModelLoad) -> float:
        return max(load.seconds - (self._clock() - load.began_at), LATE * load.seconds)

    def _state(self, endpoint_id: str, engine: EngineState) -> tuple[list[str], dict[str, ModelLoad]]:
        """Return the models that are in memory or will be, least recently used first, and the loads under way."""
        belief, reported = self._beliefs.get(endpoint_id), list(engine.loaded or ())
        if belief is None:
            return reported, {}
        if belief.at > engine.read_at and (belief.loads or self._clock() - belief.at < SETTLED_SECONDS):
            return belief.models, belief.loads
        models = [*(model for model in reported if model not in belief.loads), *belief.loads]
        return models[-max(engine.most_loaded, len(belief.loads)) :], belief.loads

    def sent(self, endpoint_id: str, engine: EngineState, model: str, learned: float = 0.0) -> ModelLoad | None:
        """Note that a request is sent. Return the load that it waits for; None if the model is in memory.

        `learned`: seconds of earlier loads, 0 for none.
        """
        if engine.loaded is None:
            return None
        models, loads = self._state(endpoint_id, engine)
        load = loads.get(model)
        if load is None and model not in models:
            is_ours = model not in engine.loading
            load = self._begin(endpoint_id, model, learned or UNKNOWN_LOAD_SECONDS, is_ours=is_ours)
            if is_ours:
                self._announce(endpoint_id, model)
        self._used(endpoint_id, models, model, engine.most_loaded)
        if load is not None:
            load.wait()
            load.seconds_left = self._left_of(load)
        return load

    def heard(self, endpoint_id: str, model: str, seconds: float) -> None:
        """Note that another process has sent a request that causes a load, which should take so many seconds."""
        engine = self._engines.get(endpoint_id)
        if engine is None:
            return
        models, loads = self._state(endpoint_id, engine)
        if model not in loads:
            self._begin(endpoint_id, model, seconds, is_ours=False)
            # Its requests need this copy, whose savings for them are not known here. Without it, two processes would
            # replace each other's models in turn.
            value = HESITATION * seconds / self.processes
            self._values.raise_to(endpoint_id, model, value, self._clock())
        self._used(endpoint_id, models, model, engine.most_loaded)

    def _used(self, endpoint_id: str, models: list[str], model: str, most_loaded: int) -> None:
        belief = self._beliefs.setdefault(endpoint_id, _Belief())
        belief.models = [*(other for other in models if other != model), model][-most_loaded:]
        belief.at = self._clock()

    def _begin(self, endpoint_id: str, model: str, seconds: float, *, is_ours: bool) -> ModelLoad:
        belief = self._beliefs.setdefault(endpoint_id, _Belief())
        load = ModelLoad(model, self._clock(), seconds, partial(self._ended, belief), is_ours=is_ours)
        belief.loads[model] = load
        self.loading += 1
        for other, engine in self._engines.items():
            if other != endpoint_id and model not in self._state(other, engine)[0]:
                self._values.drop(other, model)
        self._changed()
        return load

    def expire(self) -> None:
        """End loads of other processes that should be over. Called several times a second while models load."""
        if not self.loading:
            return
        now = self._clock()
        for belief in self._beliefs.values():
            for load in list(belief.loads.values()):
                if not load.is_ours and load.has_none and now - load.began_at >= load.seconds:
                    load.expire()

    def _ended(self, belief: _Belief, load: ModelLoad, is_loaded: bool) -> None:
        del belief.loads[load.model]
        # After a failure, only the engine knows what it has loaded.
        belief.at = max(belief.at, self._clock()) if is_loaded else 0.0
        self.loading -= 1
        self._changed()


def with_reason(decision: Decision, rows: Mapping[str, Row[Any]]) -> Decision:
    """Return a decision with the reason LOADED if another endpoint would take less time, had it the model in memory.

    `rows` by id of the endpoint.
    """
    chosen = rows.get(decision.endpoint_id)
    if decision.reason != FASTEST or chosen is None or chosen.load:
        return decision
    times = {name: seconds for seconds, name, _ in decision.expected_times}
    least = times.pop(decision.endpoint_id, 0.0)
    if all(seconds - rows[name].load * rows[name].weight >= least for name, seconds in times.items()):
        return decision
    return msgspec.structs.replace(decision, reason=LOADED)
