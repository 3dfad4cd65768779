"""Cache of all model names in the memory of a process, as endpoints.registry is for endpoints."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import msgspec
from django.db import transaction

from endpoints.cached_table import CachedTable
from endpoints.endpoint_fields import words
from endpoints.model_names.tables import MAX_WEIGHT, NamedModel, NameStep, NameTarget
from gateway.model_names.plan import ModelNames
from gateway.registry.schema import ModelName, Step, Target

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
        return self.facts_if_enabled() if self.enabled and self.steps else None

    def facts_if_enabled(self) -> ModelName:
        """Return the name as gateways would have it if it were enabled."""
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


class NameRegistry(CachedTable[NameEntry]):
    """Cache of model names in a process, sorted by name."""

    def __init__(self) -> None:
        super().__init__("model names", lambda ids: read_names(ids))
        self._of_gateways: tuple[Mapping[str, NameEntry], ModelNames] | None = None  # rows, and what is made of them

    def named(self, name: str) -> NameEntry | None:
        """Return the model name that is written so."""
        return next((entry for entry in self._loaded().values() if entry.name == name), None)

    def of_gateways(self) -> ModelNames:
        """Return the names as gateways have them: enabled ones with a target."""
        rows = self._loaded()
        if self._of_gateways is None or self._of_gateways[0] is not rows:
            facts = (entry.facts() for entry in rows.values())
            self._of_gateways = rows, ModelNames(name for name in facts if name is not None)
        return self._of_gateways[1]

    def _swap(
        self, rows: Mapping[str, NameEntry], changed: Collection[str] | None = None, *, is_counted: bool = True
    ) -> None:
        in_order = sorted(rows.values(), key=lambda entry: entry.name)
        super()._swap({entry.id: entry for entry in in_order}, changed, is_counted=is_counted)


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
    step_targets = tuple(
        Target(
            target.model,
            min(MAX_WEIGHT, max(1, target.weight)),
            None if target.endpoint_id is None else str(target.endpoint_id),
            target.tag or None,
        )
        for target in targets
    )
    if row is None:
        return Step(step_targets)
    return Step(step_targets, row.if_unavailable, row.if_full_secs, row.if_failed, row.if_too_long)


def _object(column: object) -> Parameters:
    return {str(name): value for name, value in column.items()} if isinstance(column, dict) else {}


def _packed(parameters: Parameters) -> dict[str, msgspec.Raw]:
    """Encode parameters. Another program may have stored one that cannot be sent: it is left out."""
    packed = {}
    for name, value in parameters.items():
        with suppress(ValueError, TypeError, OverflowError, RecursionError):
            packed[name] = msgspec.Raw(msgspec.msgpack.encode(value))
    return packed


def _unpacked(parameters: Mapping[str, msgspec.Raw]) -> Parameters:
    return {name: msgspec.msgpack.decode(value) for name, value in parameters.items()}
