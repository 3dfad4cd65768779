"""Which models are in the memory of the endpoints' engines: what control has read, and what was sent there since.

An engine loads a model when a request needs it, and then often has no room for the one before. Control reads what is
loaded every few seconds, so that each process corrects it by its own requests: the model that was sent last is loaded,
or is being loaded. A request to a model that is being loaded waits for that load, which costs less than another one.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import msgspec

from gateway.registry.schema import EngineState
from gateway.routing.adaptive import EVICTION, FASTEST, LOADED, UNKNOWN_LOAD_SECONDS, Row
from gateway.routing.balancer import Decision

SETTLED_SECONDS = 30.0  # without a request, after which only what control has read counts
UNUSED_SECONDS = 60.0  # after which a model at an idle endpoint may leave the memory as if nobody needed it
UNDER_WAY = 10.0  # further factor of an eviction for a model that another endpoint is loading already
LATE = 0.1  # share of a load that is still expected when it takes longer than ever before


class ModelLoad:
    """A load that requests of this process wait for. It is over when a response begins, or when no request waits."""

    __slots__ = ("_end", "_waiting", "began_at", "is_loaded", "is_ours", "is_over", "model", "seconds_left")

    def __init__(
        self, model: str, began_at: float, end: Callable[["ModelLoad", bool], None], *, is_ours: bool = True
    ) -> None:
        """`began_at`: seconds of the clock. `end` is called once, with True if the model is in memory now. `is_ours`:
        the first request that waits has caused it.
        """
        self.model = model
        self.began_at = began_at
        self.is_ours = is_ours
        self.seconds_left = 0.0  # expected seconds until it is over, when the last request was sent
        self._end = end
        self.is_over = self.is_loaded = False
        self._waiting = 0

    def wait(self) -> None:
        """Count a request that waits."""
        self._waiting += 1

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

    def _end_once(self, *, is_loaded: bool) -> None:
        if not self.is_over:
            self.is_over, self.is_loaded = True, is_loaded
            self._end(self, is_loaded)


class _Belief:
    """What this process knows about one endpoint beyond what control has read."""

    __slots__ = ("at", "loads", "models", "used_at")

    def __init__(self) -> None:
        self.models: list[str] = []  # least recently used first
        self.loads: dict[str, ModelLoad] = {}
        self.at = 0.0  # when a request was sent or a response began, in seconds of the clock
        self.used_at: dict[str, float] = {}  # when a request was last sent, by model


class LoadedModels:
    """The models in memory at the endpoints that report them."""

    def __init__(self, changed: Callable[[], None], clock: Callable[[], float] = time.time) -> None:
        """`changed` is called when the costs of routes have changed. `clock`: seconds since 1970."""
        self._changed = changed
        self._clock = clock
        self._beliefs: dict[str, _Belief] = {}  # by id of the endpoint
        self._engines: dict[str, EngineState] = {}  # likewise, as far as they were noted
        self._under_way: set[str] = set()  # models that are being loaded
        self._copies: Counter[str] = Counter()  # endpoints that have each model in memory, or will have
        self.loading = 0  # loads that are not over

    @property
    def has_engines(self) -> bool:
        """True if an endpoint reports which models are in memory."""
        return bool(self._engines)

    def note(self, engines: Mapping[str, EngineState], known: Collection[str]) -> None:
        """Take what control has read about endpoints. This comes before the calls about them.

        `known`: ids of all endpoints. What others had in memory is forgotten.
        """
        self._engines.update(engines)
        for gone in self._engines.keys() - known:
            del self._engines[gone]
            self._beliefs.pop(gone, None)
        self._under_way = {model for belief in self._beliefs.values() for model in belief.loads}
        self._copies = Counter(model for it, engine in self._engines.items() for model in self._state(it, engine)[0])

    def load_seconds(
        self, endpoint_id: str, engine: EngineState, model: str, learned: float, *, is_idle: bool = False
    ) -> float:
        """Return the seconds until a model is in memory; 0 if it is, or if the engine does not report that.

        `learned`: seconds of earlier loads, 0 for none. It costs more where a model must leave the memory that no other
        endpoint has, and that was used lately. `is_idle`: no request runs at the endpoint.
        """
        if engine.loaded is None:
            return 0.0
        seconds = learned or UNKNOWN_LOAD_SECONDS
        models, loads = self._state(endpoint_id, engine)
        if model in models:
            return self._left_of(seconds, loads[model].began_at) if model in loads else 0.0
        if model in engine.loading:
            return self._left_of(seconds, engine.read_at)
        if len(models) < engine.most_loaded:
            return seconds
        if self._is_spare(endpoint_id, engine, models[0], is_idle=is_idle):
            return seconds
        return seconds * EVICTION * (UNDER_WAY if model in self._under_way else 1.0)

    def _is_spare(self, endpoint_id: str, engine: EngineState, model: str, *, is_idle: bool) -> bool:
        """Return True if a model in memory can be missed there."""
        if self._copies[model] > 1:
            return True
        belief = self._beliefs.get(endpoint_id)
        used_at = engine.read_at if belief is None else belief.used_at.get(model, engine.read_at)
        return is_idle and self._clock() - used_at >= UNUSED_SECONDS

    def _left_of(self, seconds: float, began_at: float) -> float:
        return max(seconds - (self._clock() - began_at), LATE * seconds)

    def _state(self, endpoint_id: str, engine: EngineState) -> tuple[list[str], dict[str, ModelLoad]]:
        """Return the models that are in memory or will be, least recently used first, and the loads under way."""
        belief, reported = self._beliefs.get(endpoint_id), list(engine.loaded or ())
        if belief is None:
            return reported, {}
        if belief.at > engine.read_at and (belief.loads or self._clock() - belief.at < SETTLED_SECONDS):
            return belief.models, belief.loads
        models = [*(it for it in reported if it not in belief.loads), *belief.loads]
        return models[-max(engine.most_loaded, len(belief.loads)) :], belief.loads

    def sent(self, endpoint_id: str, engine: EngineState, model: str, learned: float = 0.0) -> ModelLoad | None:
        """Note that a request is sent. Return the load that it waits for; None if the model is in memory.

        `learned`: seconds of earlier loads, 0 for none.
        """
        if engine.loaded is None:
            return None
        now = self._clock()
        models, loads = self._state(endpoint_id, engine)
        belief = self._beliefs.setdefault(endpoint_id, _Belief())
        load = loads.get(model)
        if load is None and model not in models:
            load = ModelLoad(model, now, partial(self._ended, belief), is_ours=model not in engine.loading)
            belief.loads[model] = load
            self.loading += 1
            self._changed()
        belief.models = [*(it for it in models if it != model), model][-engine.most_loaded :]
        belief.at = belief.used_at[model] = now
        if load is not None:
            load.wait()
            load.seconds_left = self._left_of(learned or UNKNOWN_LOAD_SECONDS, load.began_at)
        return load

    def _ended(self, belief: _Belief, load: ModelLoad, is_loaded: bool) -> None:
        del belief.loads[load.model]
        # After a failure, only the engine knows what it has loaded.
        belief.at = max(belief.at, self._clock()) if is_loaded else 0.0
        self.loading -= 1
        self._changed()


def with_reason(decision: Decision, rows: Mapping[str, Row[Any]]) -> Decision:
    """Return a decision with the reason LOADED if another endpoint would cost less, had it the model in memory.

    `rows` by id of the endpoint.
    """
    chosen = rows.get(decision.endpoint_id)
    if decision.reason != FASTEST or chosen is None or chosen.load:
        return decision
    costs = dict(decision.costs)
    least = costs.get(decision.endpoint_id, 0)
    if all(cost - 1000 * rows[it].load >= least for it, cost in costs.items() if it != decision.endpoint_id):
        return decision
    return msgspec.structs.replace(decision, reason=LOADED)
