"""How the objects of each kind become rows of the registry store.

By default an object has one row, under the key of its id. Some kinds have a rule of their own: see `_RULES`.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gateway.registry.kinds import ENDPOINTS, KEYS, KINDS, MODEL_NAMES, MODELS, NAMES, AnyKind, Table
from gateway.registry.schema import (
    EXACT,
    FOLDED,
    EndpointFacts,
    KeyFacts,
    Model,
    ModelName,
    PublishedKey,
    digest_of,
    names,
    ref,
)
from gateway.registry.store import RegistryStore

log = logging.getLogger(__name__)


class Transaction:
    """An open transaction of the writer, in which rows that differ are written."""

    def __init__(self, store: RegistryStore) -> None:
        self.store = store
        self.changed: set[bytes] = set()  # changes for readers: see gateway.registry.kinds
        self._gone: set[str] = set()  # ids of endpoints that this transaction deletes

    def write(self, kind: AnyKind, objects: Mapping[Any, Any]) -> None:
        """Write objects by id; None: it was deleted. Endpoints come first: nothing is written for a deleted one."""
        if kind is ENDPOINTS:
            self._gone |= {endpoint_id for endpoint_id, facts in objects.items() if facts is None}
        if (endpoint_of := kind.endpoint_of) is not None and self._gone:
            objects = {each: fact for each, fact in objects.items() if endpoint_of(each) not in self._gone}
        _rule(kind).write(self, objects)

    def replace(self, kind: AnyKind, key: bytes, row: Any) -> bool:
        """Write a row, or delete it, and name it for readers; return False if it is as it was."""
        before = self.store.raw(kind, key)
        raw = None if row is None else kind.pack(row)
        if raw == before:
            return False
        self.changed.add(kind.letter + key)
        self._put(kind, key, raw)
        return True

    def write_differences(self, table: Table[Any], before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]) -> None:
        """Write the rows that differ between two states, without naming them."""
        for key in before.keys() - after.keys():
            self.store.delete(table, key)
        for key, raw in after.items():
            if before.get(key) != raw:
                self.store.put(table, key, raw)

    def end_endpoint(self, endpoint: bytes) -> None:
        """Delete all that belongs to the endpoint with this key."""
        for kind in KINDS:
            if kind.endpoint_of is not None:
                _rule(kind).end(self, endpoint)

    def _put(self, table: Table[Any], key: bytes, raw: bytes | None) -> None:
        if raw is None:
            self.store.delete(table, key)
        else:
            self.store.put(table, key, raw)


class Rule:
    """The usual rule: an object has one row, under the key of its id."""

    def __init__(self, kind: AnyKind) -> None:
        self.kind = kind

    def build(self, store: RegistryStore, objects: Iterable[tuple[Any, Any]]) -> None:
        """Write all objects, as pairs of id and object, into an empty store."""
        store.put_all(self.kind, self.rows(objects))

    def rows(self, objects: Iterable[tuple[Any, Any]]) -> Iterator[tuple[bytes, bytes]]:
        for object_id, fact in objects:
            if (key := self.kind.key(object_id)) is not None:
                yield key, self.kind.pack(fact)

    def write(self, transaction: Transaction, objects: Mapping[Any, Any]) -> None:
        """Write the rows of objects that differ."""
        for object_id, fact in objects.items():
            if (key := self.kind.key(object_id)) is not None:
                transaction.replace(self.kind, key, fact)

    def end(self, transaction: Transaction, endpoint: bytes) -> None:
        """Delete the rows that belong to the endpoint with this key."""
        transaction.replace(self.kind, endpoint, None)
        for key, _ in transaction.store.raw_rows(self.kind, endpoint):
            transaction.replace(self.kind, key, None)


class WholeRule(Rule):
    """All rows of a kind are replaced."""

    def write(self, transaction: Transaction, objects: Mapping[Any, Any]) -> None:
        after = dict(self.rows(objects.items()))
        before = dict(transaction.store.raw_rows(self.kind))
        differing = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        transaction.changed |= {self.kind.letter + key for key in differing}
        transaction.write_differences(self.kind, before, after)


class EndpointRule(Rule):
    """A deleted endpoint takes all that belongs to it with it."""

    def write(self, transaction: Transaction, objects: Mapping[str, EndpointFacts | None]) -> None:
        super().write(transaction, objects)
        for endpoint_id, facts in objects.items():
            if facts is None:
                transaction.end_endpoint(ref(endpoint_id))


class ModelRule(Rule):
    """All models of an endpoint: a row each, and rows of NAMES. A change names the endpoint alone."""

    def build(self, store: RegistryStore, objects: Iterable[tuple[str, Sequence[Model]]]) -> None:
        models: list[tuple[bytes, bytes]] = []
        of_names: list[tuple[bytes, bytes]] = []
        for endpoint_id, offered in objects:
            endpoint = ref(endpoint_id)
            models += _model_rows(endpoint, offered).items()
            of_names += _name_rows(endpoint, offered).items()
        store.put_all(MODELS, iter(sorted(models)))
        store.put_all(NAMES, iter(sorted(of_names)))

    def write(self, transaction: Transaction, objects: Mapping[str, Sequence[Model]]) -> None:
        for endpoint_id, models in objects.items():
            self._write(transaction, ref(endpoint_id), models)

    def end(self, transaction: Transaction, endpoint: bytes) -> None:
        self._write(transaction, endpoint, ())

    def _write(self, transaction: Transaction, endpoint: bytes, models: Sequence[Model]) -> None:
        before = dict(transaction.store.raw_rows(MODELS, endpoint))
        after = _model_rows(endpoint, models)
        if before == after:
            return
        transaction.changed.add(MODELS.letter + endpoint)
        transaction.write_differences(MODELS, before, after)
        old_names = _name_rows(endpoint, map(MODELS.unpack, before.values()))
        transaction.write_differences(NAMES, old_names, _name_rows(endpoint, models))


class KeyRule(Rule):
    """An API key that replaced another one has a row for that one, too. A change also names the id of the key."""

    def rows(self, objects: Iterable[tuple[str, PublishedKey]]) -> Iterator[tuple[bytes, bytes]]:
        replaced: list[tuple[bytes, bytes]] = []
        for hashed, key in objects:
            if (digest := digest_of(key.replaced)) is not None:
                replaced.append((digest, KEYS.pack(key.replaced_facts())))
            digest = digest_of(hashed)
            if digest is None:
                log.error("API key %s: the hash is malformed; the key is ignored", key.id)
            else:
                yield digest, KEYS.pack(key.facts())
        yield from replaced

    def write(self, transaction: Transaction, objects: Mapping[str, PublishedKey | None]) -> None:
        for hashed, published in objects.items():
            self._write(transaction, hashed, published)

    def _write(self, transaction: Transaction, hashed: str, published: PublishedKey | None) -> None:
        digest = digest_of(hashed)
        if digest is None:
            return
        before = transaction.store.get(KEYS, digest)
        if before is not None and before.is_replaced and published is None:
            return  # the key that replaced this one says when it goes
        self._put(transaction, digest, None if published is None else published.facts())
        replaced = "" if published is None else published.replaced
        if before is not None and before.replaced and before.replaced != replaced:
            self._delete_replaced(transaction, before)
        if published is not None and (replaced_digest := digest_of(replaced)) is not None:
            row = transaction.store.get(KEYS, replaced_digest)
            if row is not None and row.replaced:
                self._delete_replaced(transaction, row)
            self._put(transaction, replaced_digest, published.replaced_facts())

    def _put(self, transaction: Transaction, digest: bytes, facts: KeyFacts | None) -> None:
        before = transaction.store.get(KEYS, digest)
        if transaction.replace(KEYS, digest, facts):
            transaction.changed.remove(KEYS.letter + digest)
            for row in (before, facts):
                if row is not None:
                    transaction.changed.add(KEYS.letter + digest + row.id.encode())

    def _delete_replaced(self, transaction: Transaction, key: KeyFacts) -> None:
        """Delete the row of the key that this one replaced."""
        digest = digest_of(key.replaced)
        row = None if digest is None else transaction.store.get(KEYS, digest)
        if digest is not None and row is not None and row.is_replaced and row.id == key.id:
            self._put(transaction, digest, None)


class NameRule(Rule):
    """A model name has its row under the name, which may have been another one's before."""

    def rows(self, objects: Iterable[tuple[str, ModelName]]) -> Iterator[tuple[bytes, bytes]]:
        return super().rows((fact.name, fact) for _, fact in objects)

    def write(self, transaction: Transaction, objects: Mapping[str, ModelName | None]) -> None:
        stored = {row.name for _, row in transaction.store.rows(MODEL_NAMES) if row.id in objects}
        by_name = {fact.name: fact for fact in objects.values() if fact is not None}
        super().write(transaction, {name: by_name.get(name) for name in stored | by_name.keys()})


_RULES: dict[AnyKind, Rule] = {
    rule.kind: rule for rule in (EndpointRule(ENDPOINTS), ModelRule(MODELS), KeyRule(KEYS), NameRule(MODEL_NAMES))
}


def _rule(kind: AnyKind) -> Rule:
    return _RULES.get(kind) or (WholeRule(kind) if kind.is_replaced_whole else Rule(kind))


def build_rows(store: RegistryStore, kind: AnyKind, objects: Iterable[tuple[Any, Any]]) -> None:
    """Write all objects of a kind, as pairs of id and object, into an empty store."""
    _rule(kind).build(store, objects)


def _model_rows(endpoint: bytes, models: Iterable[Model]) -> dict[bytes, bytes]:
    return {endpoint + ref(model.id): MODELS.pack(model) for model in models}


def _name_rows(endpoint: bytes, models: Iterable[Model]) -> dict[bytes, bytes]:
    exact, folded = names(models)
    return {
        **{EXACT + ref(name) + endpoint: NAMES.pack(model) for name, model in exact.items()},
        **{FOLDED + ref(name) + endpoint: NAMES.pack(model) for name, model in folded.items()},
    }
