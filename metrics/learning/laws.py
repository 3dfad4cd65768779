"""L7: what gateways know of speeds and lengths has the bits of a new computation from the stored samples.

It shares the fit with what it checks, because two fits would not have the same bits, and nothing else. What has changed
lately may not be published yet, and is left out.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from gateway.base.config import ADAPTIVE, Config
from gateway.registry import folders
from gateway.registry.kinds import ENDPOINTS, LENGTHS, MODELS, SPEEDS
from gateway.registry.schema import Damaged, Lengths, Speeds, length_key, ref, speed_key
from gateway.registry.store import RegistryStore
from metrics.learning import fit
from metrics.learning.fleet import Fleet, GroupKey, Offer, Target, group_of, merged, offer
from metrics.learning.samples import WINDOW, LengthSample, LoadSample, SpeedSample
from metrics.reconcile import live
from metrics.reconcile.comparison import FigureDifference, Query
from metrics.reconcile.slices import Compared
from metrics.storage import database

SETTLED_SECONDS = 30.0  # after the last sample, everything is published
AGAIN_SECONDS = 3.0  # a difference must last so long: an endpoint may have been edited at this moment
CLOCK_SLACK_SECONDS = 60.0

S = TypeVar("S", SpeedSample, LengthSample, LoadSample)
_decode_speeds = msgspec.msgpack.Decoder(list[SpeedSample]).decode
_decode_lengths = msgspec.msgpack.Decoder(list[LengthSample]).decode
_decode_loads = msgspec.msgpack.Decoder(list[LoadSample]).decode


@dataclass(slots=True)
class Expected:
    """What must be published. Models with requests that ended lately are left out."""

    speeds: dict[Target, Speeds] = field(default_factory=dict)
    lengths: dict[tuple[str, str], Lengths] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Window(Generic[S]):
    samples: list[S]
    newest: int  # µs since 1970

    @classmethod
    def of(cls, samples: list[S], now: float) -> "_Window[S]":
        horizon = round((now + CLOCK_SLACK_SECONDS) * 1e6)
        past = [sample for sample in samples if sample[0] <= horizon]
        return cls((past or samples)[-WINDOW:], samples[-1][0])


def compare(config: Config) -> Compared:
    """Return differences, and a note if the store cannot be read. Raises django.db.Error."""
    if config.balancer != ADAPTIVE or not live.is_running(config):
        return [], []
    try:
        differences = _compare(config)
        if differences:
            time.sleep(AGAIN_SECONDS)
            differences = [difference for difference in _compare(config) if difference in differences]
    except (OSError, Damaged) as error:
        return [], [f"the registry store cannot be read ({error}): what was learned was not compared"]
    return differences, []


def _compare(config: Config) -> list[FigureDifference]:
    with _opened(config) as store, database.read_moment():
        return list(_differences(store, _expected(store, time.time())))


@contextmanager
def _opened(config: Config) -> Iterator[RegistryStore]:
    store = RegistryStore(folders.folder(config.registry_dir, folders.current(config.registry_dir)))
    with closing(store), store.reading():
        yield store


def _differences(store: RegistryStore, expected: Expected) -> Iterator[FigureDifference]:
    for (endpoint_id, model, kind), speeds in sorted(expected.speeds.items()):
        published = store.get(SPEEDS, speed_key(endpoint_id, model, kind))
        if published != speeds:
            where = f"the registry store endpoint={endpoint_id} model={model} kind={kind}"
            yield FigureDifference("L7", "speeds", where, speeds, published)
    for (model, key_id), lengths in sorted(expected.lengths.items()):
        published_lengths = store.get(LENGTHS, length_key(model, key_id or None))
        if published_lengths != lengths:
            where = f"the registry store model={model} API key={key_id or 'any'}"
            yield FigureDifference("L7", "lengths", where, lengths, published_lengths)


def _expected(store: RegistryStore, now: float) -> Expected:
    expected = Expected()
    _add_speeds(expected, store, now)
    for model, key_id, packed in Query(_LENGTHS).rows():
        samples = _unpacked(_decode_lengths, packed)
        if samples and (window := _Window.of(samples, now)).newest <= _settled(now):
            expected.lengths[model, key_id] = fit.lengths(window.samples)
    return expected


def _add_speeds(expected: Expected, store: RegistryStore, now: float) -> None:
    groups: dict[Target, GroupKey] = {}
    windows: dict[Target, list[_Window[SpeedSample]]] = {}
    offers = _offers(store)
    for endpoint_id, name, kind, packed in Query(_SPEEDS).rows():
        offered = offers.get(str(endpoint_id))
        model = offered.model(name) if offered is not None else None
        if model is not None and (samples := _unpacked(_decode_speeds, packed)):
            target = (str(endpoint_id), model.id, kind)
            groups[target] = group_of(model, kind)
            windows.setdefault(target, []).append(_Window.of(samples, now))
    loads = _loads(offers, now)
    fleet, recent = Fleet(), set[GroupKey]()
    for target, of_target in windows.items():
        offered, group = offers[target[0]], groups[target]
        newest = [window.newest for window in of_target] + [window.newest for window in loads.get(target[:2], ())]
        if max(offered.since_us, *newest) > _settled(now):
            recent.add(group)
        samples = merged([window.samples for window in of_target])
        fleet.put(target, group, offered.engine, offered.since_us, samples)
    expected.speeds = {
        target: msgspec.structs.replace(
            speeds, load=fit.load_seconds(sample for window in loads.get(target[:2], ()) for sample in window.samples)
        )
        for target, speeds in fleet.take().items()
        if groups[target] not in recent
    }


def _loads(offers: Mapping[str, Offer], now: float) -> dict[tuple[str, str], list[_Window[LoadSample]]]:
    """Return the samples of loads by endpoint and its own id of the model."""
    loads: dict[tuple[str, str], list[_Window[LoadSample]]] = {}
    for endpoint_id, name, packed in Query("SELECT endpoint_id, model, samples FROM learning_loads").rows():
        offered = offers.get(str(endpoint_id))
        model = offered.model(name) if offered is not None else None
        if model is not None and (samples := _unpacked(_decode_loads, packed)):
            loads.setdefault((str(endpoint_id), model.id), []).append(_Window.of(samples, now))
    return loads


# Those of deleted API keys are not published.
_LENGTHS = (
    "SELECT model, api_key_id, samples FROM learning_lengths"
    " WHERE api_key_id = '' OR api_key_id IN (SELECT CAST(id AS text) FROM api_keys)"
)
_SPEEDS = "SELECT endpoint_id, model, kind, samples FROM learning_speeds"


def _settled(now: float) -> int:
    return round((now - SETTLED_SECONDS) * 1e6)


def _offers(store: RegistryStore) -> dict[str, Offer]:
    starts = {str(row[0]): row[1] for row in Query("SELECT endpoint_id, since_us FROM learning_starts").rows()}
    return {
        facts.id: offer(facts.kind, [model for _, model in store.rows(MODELS, ref(facts.id))], starts.get(facts.id, 0))
        for _, facts in store.rows(ENDPOINTS)
    }


def _unpacked(decode: Any, packed: Any) -> list[Any]:
    try:
        return list(decode(bytes(packed)))
    except msgspec.DecodeError:
        return []
