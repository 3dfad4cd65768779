"""Wrong implementations of the store's rules. The torture test must notice each of them."""

import dataclasses
from collections.abc import Callable
from typing import Any

from gateway.registry import rows as rows_module
from gateway.registry import writer as writer_module
from gateway.registry.kinds import CHANGES, KEYS, MODELS, version_key
from gateway.registry.reader import BoundedCache, RegistryReader, Update
from gateway.registry.schema import Model
from gateway.registry.store import RegistryStore
from gateway.routing.roster import Roster


def lookup_does_not_follow() -> None:
    """A lookup returns the newest row, while everything else in memory is older."""

    def key_facts(reader: RegistryReader, digest: bytes) -> Any:
        if reader._store is None:
            return original(reader, digest)
        return reader._store.get(KEYS, digest)

    original = RegistryReader.key_facts
    RegistryReader.key_facts = key_facts  # type: ignore[method-assign, assignment]


def names_stay_cached() -> None:
    original = Roster._update

    def update(roster: Roster, changed: Update) -> None:
        if changed.changed is not None:
            changed = dataclasses.replace(
                changed, changed={k: v for k, v in changed.changed.items() if k is not MODELS}
            )
        original(roster, changed)

    Roster._update = update  # type: ignore[method-assign, assignment]


def old_half_stays_cached() -> None:
    def drop(cache: BoundedCache[Any, Any], key: Any) -> None:
        cache._young.pop(key, None)

    BoundedCache.drop = drop  # type: ignore[method-assign, assignment]


def deletions_are_not_logged() -> None:
    original = writer_module._written

    def written(store: RegistryStore, changes: writer_module.Changes) -> set[bytes]:
        deleted = {KEYS.letter + bytes.fromhex(hashed) for hashed, key in changes.of(KEYS).items() if key is None}
        changed = original(store, changes)
        return {change for change in changed if change[:33] not in deleted} or {b"-"}

    writer_module._written = written


def log_is_shorter_than_thought() -> None:
    """A reader that is too far behind does not notice that the log begins after its own version."""

    def changes(store: RegistryStore, after: int, version: int) -> list[list[bytes]]:
        rows = store.raw_between(CHANGES, version_key(after), version_key(version))
        return [CHANGES.unpack(raw) for _, raw in rows]

    RegistryStore.changes = changes  # type: ignore[method-assign, assignment]


def ties_by_order() -> None:
    """Of two models with the same alias, the first one wins, in whichever order control has read them."""

    def names(models: Any) -> tuple[dict[str, Model], dict[str, Model]]:
        ordered = list(models)
        exact: dict[str, Model] = {}
        folded: dict[str, Model] = {}
        for model in ordered:
            for alias in (*((model.canonical,) if model.canonical else ()), *model.aliases):
                exact.setdefault(alias, model)
                folded.setdefault(alias.casefold(), model)
        return {**exact, **{model.id: model for model in ordered}}, folded

    rows_module.names = names  # type: ignore[attr-defined]


RULES: dict[str, Callable[[], None]] = {
    rule.__name__.replace("_", "-"): rule
    for rule in (
        lookup_does_not_follow,
        names_stay_cached,
        old_half_stays_cached,
        deletions_are_not_logged,
        log_is_shorter_than_thought,
        ties_by_order,
    )
}
