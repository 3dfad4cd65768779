"""Cache of all model names in the memory of a process, as endpoints.registry is for endpoints."""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType

import msgspec
from django.db import Error, transaction

from endpoints.endpoint_fields import words
from endpoints.model_names.tables import MAX_WEIGHT, NamedModel, NameStep, NameTarget
from gateway.registry.schema import ModelName, Step, Target

log = logging.getLogger(__name__)

Parameters = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class NameEntry:
    """One model name. `steps` are those that gateways get: without a target, a step is left out."""

    id: str
    name: str
    enabled: bool = True
    echo_served: bool = False
    external: bool = False
    same_vectors: bool = False
    note: str = ""
    defaults: Parameters = field(default_factory=dict)
    overrides: Parameters = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    created_at: datetime | None = None

    def facts(self) -> ModelName | None:
        """Return the name for gateways; None if it is disabled or leads nowhere."""
        if not self.enabled or not self.steps:
            return None
        return ModelName(
            id=self.id,
            name=self.name,
            steps=self.steps,
            echo_served=self.echo_served,
            external=self.external,
            same_vectors=self.same_vectors,
            defaults=_packed(self.defaults),
            overrides=_packed(self.overrides),
            dropped=self.dropped,
            created=self.created_at.timestamp() if self.created_at else 0.0,
        )


def entry_of(facts: ModelName) -> NameEntry:
    """Return the entry of a published name, which has no note."""
    return NameEntry(
        id=facts.id,
        name=facts.name,
        echo_served=facts.echo_served,
        external=facts.external,
        same_vectors=facts.same_vectors,
        defaults=_unpacked(facts.defaults),
        overrides=_unpacked(facts.overrides),
        dropped=facts.dropped,
        steps=facts.steps,
        created_at=datetime.fromtimestamp(facts.created, UTC) if facts.created else None,
    )


Listener = Callable[[Collection[str] | None], object]


class NameRegistry:
    """Cache of model names in a process. Readers get one immutable mapping and need no lock."""

    def __init__(self) -> None:
        self._entries: Mapping[str, NameEntry] | None = None  # None: not loaded yet
        self._writing = threading.RLock()
        self._listeners: list[Listener] = []
        self.version = 0  # counts the changes
        self.outdated = False  # an edit could not be read again
        self.failed_reads = 0  # counts such edits

    def all(self) -> tuple[NameEntry, ...]:
        """Return all model names, sorted by name. The first call reads the database."""
        return tuple(self._loaded().values())

    def get(self, name_id: str) -> NameEntry | None:
        return self._loaded().get(name_id)

    def named(self, name: str) -> NameEntry | None:
        """Return the model name that is written so."""
        return next((entry for entry in self._loaded().values() if entry.name == name), None)

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` after each change, in its thread, with the ids of the names; None: any of them."""
        self._listeners.append(listener)

    def reload(self) -> None:
        """Read all model names again. Raises django.db.Error, after which the old ones stay."""
        with self._writing:
            self._swap(read_names())
        self.outdated = False
        self._notify(None)

    def refresh(self, *ids: str) -> None:
        """Read model names again on commit of their edit. A database error is logged, and the old ones stay."""
        try:
            self.read_again(ids)
        except Error as error:
            self.outdated, self.failed_reads = True, self.failed_reads + 1
            log.warning("model name %s could not be read again: %s", ", ".join(ids), error)

    def read_again(self, ids: Collection[str]) -> None:
        """Read model names again, in a process that has read all before. Raises django.db.Error."""
        if self._entries is None or not ids:
            return
        with self._writing:
            found = read_names(ids)
            changed = [name_id for name_id in ids if found.get(name_id) != self._entries.get(name_id)]
            if changed:
                kept = {name_id: entry for name_id, entry in self._entries.items() if name_id not in changed}
                self._swap(kept | {name_id: found[name_id] for name_id in changed if name_id in found})
        if changed:
            self._notify(changed)

    def fill(self, entries: Collection[NameEntry]) -> None:
        """Use these entries while there is no database."""
        with self._writing:
            self._swap({entry.id: entry for entry in entries})

    def forget(self) -> None:
        """Reset to the state before the first load; for tests."""
        self._entries = None

    def _loaded(self) -> Mapping[str, NameEntry]:
        if self._entries is None:
            with self._writing:
                self._swap(read_names())
        assert self._entries is not None
        return self._entries

    def _swap(self, entries: Mapping[str, NameEntry]) -> None:
        in_order = sorted(entries.values(), key=lambda entry: entry.name)
        self._entries = MappingProxyType({entry.id: entry for entry in in_order})
        self.version += 1

    def _notify(self, changed: Collection[str] | None) -> None:
        for listener in self._listeners:
            listener(changed)


model_names = NameRegistry()


def changed(name_id: object) -> None:
    """Announce an edit of a name, its steps or its targets. Call this inside the transaction of the edit."""
    transaction.on_commit(partial(model_names.refresh, str(name_id)))


def read_names(ids: Collection[str] | None = None) -> dict[str, NameEntry]:
    """Read model names by id, or all. Raises django.db.Error."""
    rows, steps, targets = NamedModel.objects.all(), NameStep.objects.all(), NameTarget.objects.all()
    if ids is not None:
        rows = rows.filter(pk__in=ids)
        steps, targets = steps.filter(named__pk__in=ids), targets.filter(named__pk__in=ids)
    steps_of: dict[str, list[NameStep]] = {}
    for step in steps:
        steps_of.setdefault(str(step.named_id), []).append(step)
    targets_of: dict[str, list[NameTarget]] = {}
    for target in targets:
        targets_of.setdefault(str(target.named_id), []).append(target)
    return {
        name_id: _entry(row, steps_of.get(name_id, []), targets_of.get(name_id, []))
        for row in rows
        if (name_id := str(row.pk))
    }


def read_name_ids() -> set[str]:
    """Return the ids of all model names in the database. Raises django.db.Error."""
    return {str(name_id) for name_id in NamedModel.objects.values_list("pk", flat=True)}


def _entry(row: NamedModel, steps: list[NameStep], targets: list[NameTarget]) -> NameEntry:
    by_number = {step.position: step for step in steps}
    numbers = sorted({target.step for target in targets})
    return NameEntry(
        id=str(row.pk),
        name=row.name,
        enabled=row.enabled,
        echo_served=row.echo_served,
        external=row.external,
        same_vectors=row.same_vectors,
        note=row.note,
        defaults=_object(row.defaults),
        overrides=_object(row.overrides),
        dropped=words(row.dropped),
        steps=tuple(
            _step(by_number.get(number), [target for target in targets if target.step == number]) for number in numbers
        ),
        created_at=row.created_at,
    )


def _step(row: NameStep | None, targets: list[NameTarget]) -> Step:
    """Return a step. Without a row of its own, it has the conditions that a new one has."""
    found = tuple(
        Target(
            target.model,
            min(MAX_WEIGHT, max(1, target.weight)),
            None if target.endpoint_id is None else str(target.endpoint_id),
            target.tag or None,
        )
        for target in targets
    )
    if row is None:
        return Step(found)
    return Step(found, row.if_unavailable, row.if_full_secs, row.if_failed, row.if_too_long)


def _object(column: object) -> Parameters:
    return {str(name): value for name, value in column.items()} if isinstance(column, dict) else {}


def _packed(parameters: Parameters) -> dict[str, msgspec.Raw]:
    """Encode parameters. Another program may have stored one that cannot be sent: it is left out."""
    found = {}
    for name, value in parameters.items():
        with suppress(ValueError, TypeError, OverflowError, RecursionError):
            found[name] = msgspec.Raw(msgspec.msgpack.encode(value))
    return found


def _unpacked(parameters: Mapping[str, msgspec.Raw]) -> Parameters:
    return {name: msgspec.msgpack.decode(value) for name, value in parameters.items()}
