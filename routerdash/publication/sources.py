"""Where the objects of each published kind come from in the database, one line each: `SOURCES`.

A build of the registry store, the change log at a start and, for kinds that are replaced whole, the publisher, the
follower of the change log and the audit derive from these lines. Speeds, lengths and states of engines have no source:
the learner and the poller of engines publish them while control runs.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic

from access.directory import read_key_entries, read_users
from access.limits.reading import all_limits, read_limits
from access.limits.tables import BudgetRow
from access.models import User
from endpoints.changes.log import NO_CHANGES, ChangeBatch
from endpoints.changes.watched import ENDPOINT, KEY, LIMIT, NAME, USER
from endpoints.model_names.name_cache import read_names
from endpoints.registry import Entry, read_entries
from gateway.prices.rows import rows_of
from gateway.registry.kinds import ENDPOINTS, KEYS, LIMITS, MODEL_NAMES, MODELS, PRICES, Fact, FactKind, Id
from gateway.registry.limits import MONEY, LimitFacts, Subject
from gateway.registry.prices import PriceFacts
from gateway.registry.schema import EndpointFacts, Model, ModelName, PublishedKey
from metrics.costs.price_cache import price_cache
from routerdash.publication.facts import endpoint_facts, endpoint_models, published_key
from routerdash.publication.slots import Slots


class Reading:
    """One reading of the database: rows that several kinds need are read once. Attributes raise django.db.Error."""

    def __init__(self, slots: Slots, batch: ChangeBatch | None = None) -> None:
        """`batch`: the changes that are read; None: everything is."""
        self._slots = slots
        self._is_whole = batch is None
        self.batch = NO_CHANGES if batch is None else batch

    @cached_property
    def entries(self) -> Mapping[str, tuple[Entry, int]]:
        """The endpoints that have a slot by id, each with its slot."""
        entries = read_entries(None if self._is_whole else self.batch.of(ENDPOINT))
        slots = {entry.id: self._slots.of(entry.id, entry.name) for entry in entries.values()}
        return {each: (entry, slot) for each, entry in entries.items() if (slot := slots[each]) is not None}

    @cached_property
    def users(self) -> Mapping[str, User]:
        return read_users()

    @cached_property
    def limits(self) -> Mapping[Subject, LimitFacts]:
        """The limits of the subjects in the batch."""
        return read_limits(self.batch.of(LIMIT))


@dataclass(frozen=True, slots=True)
class Source(Generic[Id, Fact]):
    """Source of one kind. Its functions raise django.db.Error."""

    kind: FactKind[Id, Fact, Any]
    everything: Callable[[Reading], Iterable[tuple[Id, Fact]]]  # ids and objects; sorted by row is fastest
    # Objects that the batch names, None: deleted. Kinds that are replaced whole need it only for a rule of their own.
    changed: Callable[[Reading], Mapping[Id, Fact | None] | None] = lambda reading: None
    logged: str = ""  # kind of entry in the change log, which lets a kind that is replaced whole be read again
    objects: str = ""  # in log lines, if there may be a million

    def changes(self, reading: Reading) -> Mapping[Id, Fact | None] | None:
        """Return the objects that the batch of a reading names; None: it names none."""
        if self.kind.is_replaced_whole and reading.batch.of(self.logged):
            return dict(self.everything(reading))
        return self.changed(reading)


def _endpoints(reading: Reading) -> Iterator[tuple[str, EndpointFacts]]:
    return ((entry.id, endpoint_facts(entry, slot)) for entry, slot in reading.entries.values())


def _changed_endpoints(reading: Reading) -> Mapping[str, EndpointFacts | None]:
    return {**dict.fromkeys(reading.batch.of(ENDPOINT)), **dict(_endpoints(reading))}


def _models(reading: Reading) -> Iterator[tuple[str, tuple[Model, ...]]]:
    return ((entry.id, endpoint_models(entry)) for entry, _ in reading.entries.values())


def _changed_models(reading: Reading) -> Mapping[str, tuple[Model, ...]]:
    return dict(_models(reading))


def _keys(reading: Reading) -> Iterator[tuple[str, PublishedKey]]:
    return ((key.hash, published_key(key)) for key in read_key_entries(reading.users))


def _changed_keys(reading: Reading) -> Mapping[str, PublishedKey | None]:
    """Return the keys that have changed, and those of users that have."""
    hashes, user_ids = reading.batch.of(KEY), reading.batch.of(USER)
    keys = [
        *read_key_entries(reading.users, owner_ids=user_ids),
        *read_key_entries(reading.users, hashes=hashes),
    ]
    return {**dict.fromkeys(hashes), **{key.hash: published_key(key) for key in keys}}


def _model_names(reading: Reading) -> Iterator[tuple[str, ModelName]]:
    return ((each, facts) for each, entry in read_names().items() if (facts := entry.facts()) is not None)


def _changed_model_names(reading: Reading) -> Mapping[str, ModelName | None]:
    ids = reading.batch.of(NAME)
    names = read_names(ids) if ids else {}
    return {name_id: names[name_id].facts() if name_id in names else None for name_id in ids}


def _limits(reading: Reading) -> Iterator[tuple[Subject, LimitFacts]]:
    return all_limits()


def _changed_limits(reading: Reading) -> Mapping[Subject, LimitFacts | None]:
    return {subject: reading.limits.get(subject) for subject in reading.batch.of(LIMIT)}


def _prices(reading: Reading) -> Iterable[tuple[bytes, PriceFacts]]:
    """Return prices and rates. They are published while there is a budget of money, and cost nothing otherwise."""
    if not BudgetRow.objects.filter(unit=MONEY).exists():
        return ()
    rates = price_cache.rates()
    return rows_of(price_cache.book().rows, rates.reporting, rates.rates, time.time()).items()


def _changed_prices(reading: Reading) -> Mapping[bytes, PriceFacts | None] | None:
    """Return all if limits that need them have changed. Edits of prices themselves are not in the change log."""
    return dict(_prices(reading)) if any(map(needs_prices, reading.limits.values())) else None


def needs_prices(limits: LimitFacts | None) -> bool:
    """Return True if these limits have a budget of money."""
    return limits is not None and any(budget.unit == MONEY for budget in limits.budgets)


SOURCES: tuple[Source[Any, Any], ...] = (
    Source(ENDPOINTS, _endpoints, _changed_endpoints),
    Source(MODELS, _models, _changed_models),
    Source(KEYS, _keys, _changed_keys, objects="API keys"),
    Source(MODEL_NAMES, _model_names, _changed_model_names),
    Source(LIMITS, _limits, _changed_limits, objects="limits"),
    Source(PRICES, _prices, _changed_prices),
)
REPLACED_WHOLE = tuple(source for source in SOURCES if source.kind.is_replaced_whole)
