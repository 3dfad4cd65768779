"""Learner: fits what adaptive routing needs to know to the stored samples, and publishes it, in a thread of control.

What it publishes depends on rows of the database alone (samples, slow starts, and averages of endpoints without
samples), and on the endpoints: a restart publishes the same bits. While no request ends and no endpoint changes, the
thread sleeps.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import NamedTuple

import msgspec
from django.db import Error, connection

from access.directory import KeyEntry, existing_keys
from endpoints.checks import assumed_slots
from endpoints.models import Kind, Status
from endpoints.registry import Entry, Models, registry
from gateway.base.request_kinds import GENERATING
from gateway.registry.schema import Lengths, Speeds
from metrics.learning import fit, window_rows
from metrics.learning.fleet import Fleet, Offer, Target, group_of, merged, offer
from metrics.learning.prefixes import PrefixShare
from metrics.learning.window_rows import ChangedWindows, LengthKey, Start, WindowKey
from metrics.memory.runtime import runtime
from routerdash.publication.facts import endpoint_models
from routerdash.publication.learned import Learned, LengthsOf
from routerdash.publication.load_times import LoadTimes
from routerdash.publication.publisher import Publisher

log = logging.getLogger(__name__)

PAUSE_SECONDS = 2.0  # between two steps
PAUSE_FACTOR = 5.0  # a longer pause follows a long step, so that fits of a large fleet leave time for the rest
ENDPOINTS_AT_ONCE, LENGTHS_AT_ONCE = 50, 500  # in a step


class _Seen(NamedTuple):
    """What of an endpoint matters here."""

    status: str
    base_url: str
    kind: str
    models: Models
    capabilities: tuple[str, ...]


def batches(entry: Entry) -> bool:
    """Return True for a server that runs any number of requests together, each of them slower: vLLM, SGLang, TGI."""
    if entry.kind == Kind.OPENAI_COMPATIBLE:  # SGLang and TGI are known by the gauges that they report
        reading = runtime.installation.engine(entry.id)
        return reading is not None and reading.others is not None
    return entry.kind == Kind.VLLM


class Learner:
    """Only `step` reads the database, in the thread of `run`. Any thread may call the other methods."""

    def __init__(
        self, publisher: Publisher, *, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._now = now  # seconds since 1970
        self._wake = threading.Event()
        self._lock = threading.Lock()  # of the following, which other threads set
        self._changed = ChangedWindows()
        self._changed_endpoints: set[str] = set()
        self._seen: dict[str, _Seen] = {}
        self._new_starts: dict[str, Start] = {}
        self._is_readable = False  # the database
        self._must_load = False
        self._has_deleted_keys = False
        self._has_new_store = False
        self._learned = Learned(publisher)  # the following belong to the thread
        self._fleet = Fleet()
        self._windows: dict[str, set[tuple[str, str]]] = {}  # requested models and kinds with samples, by endpoint
        self._loads = LoadTimes()
        self._averages: dict[str, dict[tuple[str, str], float]] = {}  # tokens per second, likewise
        self._starts: dict[str, Start] = {}
        self._endpoints: set[str] = set()  # to be fitted, with all their models
        self._lengths: set[LengthKey] = set()  # to be computed
        publisher.subscribe_to_rebuilds(self.store_replaced)

    @property
    def prefix_share(self) -> PrefixShare:
        """How many of the samples that routing learns from found their prefix."""
        return self._fleet.prefixes.total

    # Calls of other threads

    def read_again(self) -> None:
        """Read everything: the database can be read for the first time, or is another one than before."""
        with self._lock:
            self._is_readable = self._must_load = True
        self._wake.set()

    def samples_changed(self, changed: ChangedWindows) -> None:
        """Note committed samples. The writer calls this."""
        with self._lock:
            self._changed.add(changed)
        self._wake.set()

    def store_replaced(self) -> None:
        """Publish everything again, because the registry store may be a new one."""
        with self._lock:
            self._has_new_store = True
        self._wake.set()

    def keys_changed(self, keys: Mapping[str, KeyEntry | None]) -> None:
        """Note that API keys (by hash) were deleted: their lengths are to be removed from the registry store."""
        if None in keys.values():
            with self._lock:
                self._has_deleted_keys = True
            self._wake.set()

    def endpoints_changed(self, ids: Collection[str] | None) -> None:
        """Note what has changed, and slow starts: an endpoint has come back, or has another address."""
        entries = (
            {entry.id: entry for entry in registry.all()}
            if ids is None
            else {endpoint_id: registry.get(endpoint_id) for endpoint_id in ids}
        )
        with self._lock:
            gone = self._seen.keys() - entries.keys() if ids is None else set()
            changed = [endpoint_id for endpoint_id, entry in entries.items() if self._note(endpoint_id, entry)]
            for endpoint_id in gone:
                del self._seen[endpoint_id]
            self._changed_endpoints.update(changed, gone)
            has_news = bool(self._changed_endpoints)
        if has_news:
            self._wake.set()

    def _note(self, endpoint_id: str, entry: Entry | None) -> bool:
        """Return True if learning is affected by a change of an endpoint."""
        before = self._seen.get(endpoint_id)
        if entry is None:
            self._seen.pop(endpoint_id, None)
            return before is not None
        after = _Seen(entry.status, entry.base_url, entry.kind, entry.models, entry.capabilities)
        self._seen[endpoint_id] = after
        if before is None or before == after:
            return False  # a new endpoint has no samples
        has_returned = (before.status, after.status) == (Status.OFFLINE, Status.ONLINE)
        if has_returned or before.base_url != after.base_url:
            self._new_starts[endpoint_id] = (round(self._now() * 1e6), entry.base_url)
        return has_returned or before[1:] != after[1:]

    def stop(self) -> None:
        """Let `run` return, once its event is set."""
        self._wake.set()

    # The thread

    def run(self, stopping: threading.Event) -> None:
        """Learn until `stopping` is set."""
        due: float | None = None
        has_failed = False
        while True:
            self._wake.wait(due)
            if stopping.is_set():
                break
            self._wake.clear()
            started = self._clock()
            try:
                due = self.step()
                has_failed = False
            except Exception as error:  # noqa: BLE001  # requests go on with what gateways know
                if not has_failed:
                    log.warning("endpoints' speeds cannot be learned: %s; the old ones stay in use", error)
                has_failed, due = True, 0.0
                connection.close()
            if stopping.wait(max(PAUSE_SECONDS, PAUSE_FACTOR * (self._clock() - started))):
                break
        connection.close()

    def step(self) -> float | None:
        """Fit a part of what has changed, and publish; return the seconds until the next step is due, None: it is not.

        Raises django.db.Error; then the next step reads everything again.
        """
        if not self._is_readable:
            return None
        try:
            changed = self._take_changes()
            speeds = self._fit(changed)
            lengths = self._compute_lengths()
        except Error:
            self._must_load = True
            raise
        self._learned.update(speeds, lengths)
        due = self._learned.publish(self._clock())
        return 0.0 if self._endpoints or self._lengths else due

    def _take_changes(self) -> set[WindowKey]:
        """Return the keys of changed samples, after everything else is noted where it is needed."""
        with self._lock:
            changed, self._changed = self._changed, ChangedWindows()
            endpoints, self._changed_endpoints = self._changed_endpoints, set()
            starts, self._new_starts = self._new_starts, {}
            must_load, self._must_load = self._must_load, False
            is_new, self._has_new_store = self._has_new_store, False
            has_deleted_keys, self._has_deleted_keys = self._has_deleted_keys, False
        if is_new:
            self._learned.lose_published()
        if must_load:
            self._load()
        if has_deleted_keys:
            self._lengths |= self._lengths_of_deleted_keys()
        for endpoint_id, model, kind in changed.speeds:
            self._windows.setdefault(endpoint_id, set()).add((model, kind))
        for endpoint_id in {endpoint_id for endpoint_id, _ in changed.loads}:  # the model may have another name there
            changed.speeds.update((endpoint_id, *window) for window in self._windows.get(endpoint_id, ()))
        self._loads.add(changed.loads)
        self._lengths |= changed.lengths
        self._endpoints |= endpoints
        self._store_starts(starts, {key[0] for key in changed.speeds} | endpoints)
        return changed.speeds

    def _load(self) -> None:
        keys = window_rows.all_keys()
        self._starts = window_rows.starts()
        self._averages = window_rows.averages()
        self._windows = {}
        for endpoint_id, model, kind in keys.speeds:
            self._windows.setdefault(endpoint_id, set()).add((model, kind))
        self._loads.add(keys.loads)
        self._endpoints = {*self._windows, *self._averages, *(target[0] for target in self._fleet.targets())}
        self._lengths = keys.lengths | {(model, key_id or "") for model, key_id in self._learned.known_lengths()}
        self._store_starts({}, self._endpoints)

    def _store_starts(self, starts: dict[str, Start], endpoints: Iterable[str]) -> None:
        """Store slow starts before anything is published that depends on them.

        An address is stored with the first samples, so that a change while control is stopped is found.
        """
        for endpoint_id in endpoints:
            entry, known = registry.get(endpoint_id), self._starts.get(endpoint_id)
            if entry is None or endpoint_id in starts:
                continue
            if known is None:
                starts[endpoint_id] = (0, entry.base_url)
            elif known[1] != entry.base_url:
                starts[endpoint_id] = (round(self._now() * 1e6), entry.base_url)
        if starts:
            window_rows.write_starts(starts)
            self._starts |= starts

    # Speeds

    def _fit(self, changed: set[WindowKey]) -> dict[Target, Speeds | None]:
        """Fit the models of some endpoints, and those with new samples; return what may have changed."""
        whole = set(islice(self._endpoints, ENDPOINTS_AT_ONCE))
        by_target: dict[Target, Speeds | None] = {}
        for target in [target for target in self._fleet.targets() if target[0] in whole] if whole else ():
            self._fleet.drop(target)
            by_target[target] = None
        by_endpoint: dict[str, set[tuple[str, str]]] = {
            endpoint_id: self._windows.get(endpoint_id, set()) for endpoint_id in whole
        }
        for endpoint_id, model, kind in changed:
            if endpoint_id not in whole:
                by_endpoint.setdefault(endpoint_id, set()).add((model, kind))
        for endpoint_id, windows in by_endpoint.items():
            entry = registry.get(endpoint_id)
            if entry is None:
                continue
            since_us = self._starts.get(endpoint_id, (0, ""))[0]
            offered = offer(entry.kind, endpoint_models(entry), since_us)
            self._put(endpoint_id, offered, windows)
            if endpoint_id in whole:
                by_target |= self._guesses(endpoint_id, offered)
        self._endpoints -= whole
        loaded = {
            target: msgspec.structs.replace(speeds, load=self._loads.seconds(target))
            for target, speeds in self._fleet.take().items()
        }
        self._assume_slots(loaded)
        return by_target | loaded

    def _assume_slots(self, targets: Iterable[Target]) -> None:
        """Assume limits for endpoints without one, once the load is learned at which a token takes twice as long."""
        for target in targets:
            entry = registry.get(target[0])
            if entry is None or entry.slots is not None or target[2] not in GENERATING or not batches(entry):
                continue
            if (load := self._fleet.doubling_load(target)) is not None:
                assumed_slots.learn(entry.id, load)

    def _put(self, endpoint_id: str, offered: Offer, windows: Collection[tuple[str, str]]) -> None:
        """Read the samples of models of an endpoint, under all their names, and fit them."""
        models = {(model.id, kind): model for name, kind in windows if (model := offered.model(name)) is not None}
        keys: dict[tuple[str, str], list[WindowKey]] = {}
        for name, kind in sorted(self._windows.get(endpoint_id, ())):
            model = offered.model(name)
            if model is not None and (model.id, kind) in models:
                keys.setdefault((model.id, kind), []).append((endpoint_id, name, kind))
        read = window_rows.speed_windows([key for names in keys.values() for key in names])
        self._loads.read(endpoint_id, offered)
        for (model_id, kind), names in keys.items():
            samples = [read[key] for key in names if read.get(key)]
            if samples:
                group = group_of(models[model_id, kind], kind)
                target = (endpoint_id, model_id, kind)
                self._fleet.put(target, group, offered.engine, offered.since_us, merged(samples))

    def _guesses(self, endpoint_id: str, offered: Offer) -> dict[Target, Speeds | None]:
        """Return the speeds of models without samples, from their tokens per second."""
        guesses: dict[Target, Speeds | None] = {}
        for (name, kind), average in sorted(self._averages.get(endpoint_id, {}).items()):
            model = offered.model(name)
            if model is not None and (target := (endpoint_id, model.id, kind)) not in self._fleet:
                guesses[target] = fit.speeds_of_average(average, offered.engine)
        return guesses

    # Lengths

    def _lengths_of_deleted_keys(self) -> set[LengthKey]:
        of_keys = {(model, key_id) for model, key_id in self._learned.known_lengths() if key_id is not None}
        existing = existing_keys(key_id for _, key_id in of_keys)
        return {(model, key_id) for model, key_id in of_keys if key_id not in existing}

    def _compute_lengths(self) -> dict[LengthsOf, Lengths | None]:
        """Return lengths that may have changed; None: there are none any more, or their API key was deleted."""
        keys = sorted(islice(self._lengths, LENGTHS_AT_ONCE))
        existing = existing_keys(key_id for _, key_id in keys if key_id)
        read = window_rows.length_windows([key for key in keys if not key[1] or key[1] in existing])
        self._lengths -= set(keys)
        return {(key[0], key[1] or None): fit.lengths(read[key]) if read.get(key) else None for key in keys}
