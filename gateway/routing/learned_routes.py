"""What a gateway has learned about its routes and requests, as adaptive routing needs it for each request.

The facts are in the registry store, where control publishes them. Rows and lengths are kept until they change.
"""

import time
from collections.abc import Iterable, Sequence

from gateway.ipc.endpoint_notes import model_number
from gateway.ipc.live_page import EndpointWork, moment
from gateway.registry.reader import StoreUnreadable
from gateway.registry.schema import NOT_MEASURED, NOT_READ, UNKNOWN_LENGTHS, EngineState, Speeds, ref, speed_key
from gateway.routing.adaptive import (
    UNKNOWN_BYTES_PER_TOKEN,
    UNKNOWN_LOAD_SECONDS,
    UNKNOWN_OUTPUT,
    Counts,
    rows_of,
    slowest_read,
)
from gateway.routing.endpoint import Endpoint
from gateway.routing.loaded_models import LoadedModels
from gateway.routing.roster import Roster
from gateway.routing.routes import LearnedRoutes, Routes

CACHED_LENGTHS = 20_000  # of a model and an API key
OTHERS_SECONDS = 45.0  # after which requests of others, as control last read them, do not count any more
_UNKNOWN = UNKNOWN_OUTPUT, UNKNOWN_BYTES_PER_TOKEN, UNKNOWN_OUTPUT
FOLLOW_SECONDS = 5.0  # between two looks at the values of copies
HEARD_SECONDS = 10  # after which a load that another process noted is no news
UNKNOWN_MODEL = ""  # one that this process has never looked for


class _CachedLengths(dict[tuple[str, str | None], tuple[float, float, float]]):
    """By model and API key: the mean output tokens of a key, the bytes of a body for each prompt token, and the mean
    output tokens of all keys. What is missing is read.
    """

    def __init__(self, roster: Roster) -> None:
        super().__init__()
        self._roster = roster
        self._version = -1

    def update_version(self) -> None:
        """Forget all if the learned facts have changed."""
        if self._version != self._roster.learned_version:
            self._version = self._roster.learned_version
            self.clear()

    def __missing__(self, of: tuple[str, str | None]) -> tuple[float, float, float]:
        if len(self) >= CACHED_LENGTHS:
            self.clear()
        try:
            lengths = self._roster.reader.lengths(*of)
            typical = self._roster.reader.lengths(of[0], None).output
        except StoreUnreadable:  # requests continue with what is in memory
            lengths, typical = UNKNOWN_LENGTHS, None
        output = UNKNOWN_OUTPUT if lengths.output is None else lengths.output
        bytes_per_token = lengths.bytes_per_token or UNKNOWN_BYTES_PER_TOKEN
        filled_lengths = self[of] = output, bytes_per_token, output if typical is None else typical
        return filled_lengths


class LearnedFacts:
    """The learned facts of one gateway process."""

    def __init__(self, roster: Roster, spill_after: float) -> None:
        """`spill_after`: expected wait in seconds beyond which an endpoint without known slots counts as full, if there
        are others of worse tiers.
        """
        self._roster = roster
        self._spill_after = spill_after
        self._page = roster.page
        self._work = EndpointWork(roster.page)
        self.lengths = _CachedLengths(roster)
        self.loaded_models = LoadedModels(self._models_changed, announce=self._announce_load)
        self._loads_heard = roster.page.notes.loads
        self._last_loads: dict[str, tuple[int, int]] = {}  # by endpoint: notes of loads that are known
        # By endpoint and number of a model: its own id of the model, and the seconds of a load.
        self._loadable: dict[tuple[str, int], tuple[str, float]] = {}
        self._followed_at = 0.0  # time.monotonic()
        self.others: dict[str, tuple[int, float]] = {}  # requests of others by endpoint, and until when they count
        self.alone = False  # no other process has requests, so that an endpoint's own counts are those of all
        self.follow()

    def lengths_through(self, name: str, model: str, key_id: str | None) -> tuple[float, float, float]:
        """Return the lengths of requests for a model name, or those of the model while nothing is known of the name."""
        lengths = self.lengths[name, key_id]
        return self.lengths[model, key_id] if lengths == _UNKNOWN else lengths

    def routes(self, routes: Routes, kind: str) -> LearnedRoutes:
        """Read what was learned about these routes for a kind of request, and keep it as `routes.learned[kind]`.

        It is out of date if its version is not that of the roster.
        """
        self.lengths.update_version()
        speeds = [self._speeds(speed_key(route.endpoint.id, route.model.id, kind)) for route in routes]
        engines = [self._engine(route.endpoint.id) for route in routes]
        reporting = self._reporting(routes, speeds, engines)
        self._note_others(routes, engines)
        loads = [0.0] * len(routes)
        if reporting:
            load_seconds, none = self.loaded_models.load_seconds, (NOT_READ, "", 0.0)
            loads = [load_seconds(endpoint.id, *reporting.get(endpoint.id, none)) for endpoint in routes.endpoints]
        rows = rows_of(routes.endpoints, speeds, self._spill_after, loads)
        kept = {route.endpoint.id: measured.kept for route, measured in zip(routes, speeds, strict=True)}
        learned = LearnedRoutes(
            rows=rows,
            by_id={of.id: of for of in rows},
            kept=kept,
            version=self._roster.learned_version,
            engines=reporting,
            has_loads=any(loads),
            slowest_read=slowest_read(rows),
        )
        routes.learned[kind] = learned
        return learned

    def _reporting(
        self, routes: Routes, speeds: Sequence[Speeds], engines: Sequence[EngineState]
    ) -> dict[str, tuple[EngineState, str, float]]:
        """Return `LearnedRoutes.engines`. A load that was never seen should take as long as at other endpoints."""
        seen = sorted(measured.load for measured in speeds if measured.load)
        # The median. The module `statistics` takes 0.4 MiB.
        typical = (seen[(len(seen) - 1) // 2] + seen[len(seen) // 2]) / 2 if seen else UNKNOWN_LOAD_SECONDS
        reporting = {
            route.endpoint.id: (engine, route.model.id, measured.load or typical)
            for route, measured, engine in zip(routes, speeds, engines, strict=True)
            if engine.loaded is not None
        }
        if reporting:
            read = {endpoint_id: engine for endpoint_id, (engine, _, _) in reporting.items()}
            self.loaded_models.note(read, self._roster.endpoints)
        for endpoint_id, (_, model, seconds) in reporting.items():
            self._loadable[endpoint_id, model_number(model)] = model, seconds
        return reporting

    def _speeds(self, key: bytes) -> Speeds:
        try:
            return self._roster.reader.speeds(key)
        except StoreUnreadable:  # requests continue with what is in memory
            return NOT_MEASURED

    def _engine(self, endpoint_id: str) -> EngineState:
        try:
            return self._roster.reader.engine(ref(endpoint_id))
        except StoreUnreadable:
            return NOT_READ

    def _note_others(self, routes: Routes, engines: Iterable[EngineState]) -> None:
        for route, engine in zip(routes, engines, strict=True):
            if engine.others:
                self.others[route.endpoint.id] = engine.others, engine.read_at + OTHERS_SECONDS
            elif self.others:
                self.others.pop(route.endpoint.id, None)

    def _models_changed(self) -> None:
        """Have the rows made again: a model was loaded, or is being loaded."""
        self._roster.learned_version += 1

    def _announce_load(self, endpoint_id: str, model: str) -> None:
        """Let other processes know that an endpoint loads a model."""
        notes, now = self._page.notes, int(time.time())
        self._last_loads[endpoint_id] = now, model_number(model)
        notes.set_load(self._roster.endpoints[endpoint_id].facts.slot, endpoint_id, now, model)

    def _hear_loads(self) -> None:
        """Notice which models endpoints load for requests of other processes."""
        notes, now = self._page.notes, time.time()
        if self._loads_heard == notes.loads:
            return
        self._loads_heard = notes.loads
        for endpoint_id in self.loaded_models.endpoints:
            if (endpoint := self._roster.endpoints.get(endpoint_id)) is None:
                continue
            noted_at, number = note = notes.load(endpoint.facts.slot, endpoint_id)
            if now - noted_at > HEARD_SECONDS or self._last_loads.get(endpoint_id) == note:
                continue
            self._last_loads[endpoint_id] = note
            model, seconds = self._loadable.get((endpoint_id, number), (UNKNOWN_MODEL, UNKNOWN_LOAD_SECONDS))
            self.loaded_models.heard(endpoint_id, model, seconds)

    # What endpoints work on now

    def follow(self) -> None:
        """Notice other processes. Called several times a second."""
        self.alone = self._page.alone
        if self.loaded_models.has_engines:
            self.loaded_models.processes = max(1, self._page.rows)
            self._hear_loads()
            self.loaded_models.expire()
        now = time.monotonic()
        if self.loaded_models.loading or (self.loaded_models.has_engines and now - self._followed_at >= FOLLOW_SECONDS):
            self._followed_at = now
            self._models_changed()  # the rest of a load shrinks, and copies gain value

        if self.others:
            now = time.time()
            self.others = {
                endpoint_id: (count, until) for endpoint_id, (count, until) in self.others.items() if until > now
            }

    @property
    def counts(self) -> Counts[Endpoint] | None:
        """How the requests at an endpoint are counted; None: its own counts are all."""
        if self.others:
            return self._counts_with_others
        return None if self.alone else self.counts_of_all

    def _counts_with_others(self, endpoint: Endpoint) -> tuple[int, int]:
        """Return also the requests of other clients of the engine. They alone fill no endpoint, so that no request of
        ours waits here for them: the engine has a queue of its own.
        """
        if self.alone:
            in_flight, pending = endpoint.in_flight, endpoint.pending
        else:
            in_flight, pending = self.counts_of_all(endpoint)
        others, _ = self.others.get(endpoint.id, (0, 0.0))
        if others and endpoint.slots is not None:
            others = min(others, max(0, endpoint.slots - 1 - in_flight))
        return in_flight + others, pending

    def counts_of_all(self, endpoint: Endpoint) -> tuple[int, int]:
        """Return the requests in flight and the pending prompt tokens of an endpoint, over all processes."""
        slot = endpoint.facts.slot
        return self._page.in_flight(slot), self._work.pending(slot)

    def totals(self, endpoint: Endpoint) -> tuple[int, int, int, int]:
        """Return what `gateway.ipc.live_page.EndpointWork.totals` returns for now."""
        return self._work.totals(endpoint.facts.slot, moment())

    def work_until(self, endpoint: Endpoint, now: int) -> tuple[int, int]:
        """Return the prompt tokens sent so far to an endpoint, and the integral of the requests in flight there until
        the moment `now`, over all processes and modulo 2**32.
        """
        return self._work.totals(endpoint.facts.slot, now)[2:]
