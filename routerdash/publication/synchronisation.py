"""Synchronisation of the registry store with the database, by the change log or, if that does not reach back, anew.

The database and the store have the same token (endpoints.changes.log). After rows of the log were applied, the store
gets a new token first and the database second, in one transaction with the deletion of the rows. A process that is
killed in between leaves a store whose previous token is the database's: the rows are applied again. A backup that was
made just before these changes has that token too, but its log lacks the rows, which the new token names. Any other
token means that the store belongs to another state of the database.
"""

import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from access.directory import read_key_entries, read_users
from access.limits.reading import all_limits, read_limits
from access.limits.tables import BudgetRow, LimitRow
from access.models import ApiKey
from endpoints.changes import log as change_log
from endpoints.changes import triggers
from endpoints.changes.log import NO_CHANGES, ChangeBatch
from endpoints.model_names.registry import read_names
from endpoints.models import EndpointModel
from endpoints.registry import read_entries
from gateway.registry import old_snapshot
from gateway.registry.schema import EndpointFacts, ModelName, PublishedEndpoint, PublishedKey, StoreState
from gateway.registry.store import is_damage
from gateway.registry.writer import Changes, RegistryWriter
from metrics.storage import database
from routerdash.publication.facts import endpoint_facts, endpoint_models, published_endpoint, published_key
from routerdash.publication.prices import needs_prices, price_rows
from routerdash.publication.slots import Slots

log = logging.getLogger(__name__)

LONG_LOG = 100_000  # rows of the log, up to which the store is never built anew because of its length
REPORTED = 100_000  # API keys, or subjects of limits, between two log lines of a build
T = TypeVar("T")


def new_token(batch: ChangeBatch) -> str:
    """Return a token for the state after these changes, which names them by their number and a hash."""
    return f"{uuid.uuid4().hex}.{len(batch.ids)}.{_fingerprint(batch)}"


def _fingerprint(batch: ChangeBatch) -> str:
    named = (batch.ids, *map(sorted, (batch.endpoint_ids, batch.key_hashes, batch.user_ids)))
    if batch.name_ids:  # earlier releases had none, and their fingerprints must stay the same
        named = (*named, sorted(batch.name_ids))
    if batch.limited:
        named = (*named, "limits", sorted(batch.limited))
    return sha256(repr(named).encode()).hexdigest()[:16]


def continues(state: StoreState, token: str | None) -> bool:
    """Return True if the change log of the database with this token has all that the store lacks."""
    if token is None:
        return False
    if token == state.source:
        return True
    if token != state.previous_source or state.source is None:
        return False
    _, count, fingerprint = state.source.split(".")
    return _fingerprint(change_log.read(int(count))) == fingerprint


def synchronise(writer: RegistryWriter, data_dir: Path) -> None:
    """Bring the store up to the database. Raises django.db.Error, or the errors of the writer."""
    database_id = database.database_id()
    triggers.ensure()  # forgets the token if triggers were missing, so that the store is built anew
    try:
        is_current = _apply_log(writer, database_id)
    except Exception as error:
        if not is_damage(error):
            raise
        log.warning("the registry store is damaged: %s; it is built anew", error)
        is_current = False
    if not is_current:
        rebuild(writer, database_id)
    # An older release that started from its snapshot, without the database, would accept API keys deleted since.
    (data_dir / old_snapshot.FILE).unlink(missing_ok=True)


def _apply_log(writer: RegistryWriter, database_id: str) -> bool:
    """Apply the whole change log; return False if it does not lead from the store to the database."""
    state, token = writer.state() if writer.is_usable else None, change_log.token()
    if state is None or state.database_id != database_id or not continues(state, token):
        return False
    if _log_takes_longer():
        log.info("the change log is long: the registry store is built anew from the tables")
        return False
    while apply_log(writer):
        pass
    return True


def _log_takes_longer() -> bool:
    """Return True if the change log would take longer than all tables: a row of it takes twice as long as one there."""
    if change_log.count(LONG_LOG + 1) <= LONG_LOG:
        return False
    rows = sum(model.objects.count() for model in (ApiKey, LimitRow, BudgetRow, EndpointModel))
    return change_log.count(rows // 2 + 1) > rows // 2


def rebuild(writer: RegistryWriter, database_id: str) -> None:
    """Build the store anew from the database. Raises django.db.Error, or the errors of the writer."""
    started = time.monotonic()
    token_before = change_log.token()
    logged = change_log.read_ids()  # before the data: what is logged from here on is applied later
    token = new_token(NO_CHANGES)  # the store has no earlier one, so no process asks for what it names
    slots = Slots(_readable_endpoints(writer))
    writer.uncover_budgets()
    writer.rebuild(
        database_id,
        _endpoints(slots),
        _keys(),
        model_names=_model_names(),
        limits=_reported(all_limits(), "limits"),
        prices=price_rows(),
        source=token,
    )
    change_log.forget(logged, token_before=token_before, token=token)
    log.info("built the registry store in %.1f s", time.monotonic() - started)


def apply_log(writer: RegistryWriter) -> bool:
    """Apply a part of the change log, read from the database; return True if there is more.

    For the preparation of a start. Raises django.db.Error, or the errors of the writer.
    """
    batch = change_log.read()
    if not batch.ids:
        return False
    slots = Slots(writer.endpoints())
    changes = Changes()
    entries = read_entries(batch.endpoint_ids)
    for endpoint_id in batch.endpoint_ids:
        entry = entries.get(endpoint_id)
        slot = None if entry is None else slots.of(endpoint_id, entry.name)
        if entry is None or slot is None:
            changes.endpoints[endpoint_id] = None
        else:
            changes.endpoints[endpoint_id] = endpoint_facts(entry, slot)
            changes.models[endpoint_id] = endpoint_models(entry)
    users = read_users()
    hashes = set(batch.key_hashes)
    keys = {key.hash: key for key in read_key_entries(users, owner_ids=batch.user_ids)}
    keys |= {key.hash: key for key in read_key_entries(users, hashes=hashes)}
    changes.keys = {hashed: published_key(keys[hashed]) if hashed in keys else None for hashed in hashes | keys.keys()}
    if batch.name_ids:
        names = read_names(batch.name_ids)
        changes.model_names = {it: names[it].facts() if it in names else None for it in batch.name_ids}
    if batch.limited:
        writer.uncover_budgets()
    limits = read_limits(batch.limited)
    changes.limits = {subject: limits.get(subject) for subject in batch.limited}
    if any(map(needs_prices, limits.values())):
        changes.prices = price_rows()
    token_before, token = change_log.token(), new_token(batch)
    writer.apply(changes, source=token)
    return change_log.forget(batch.ranges, token_before=token_before, token=token) and batch.more


def serve_without_database(writer: RegistryWriter, data_dir: Path) -> bool:
    """Return True if there is a store to serve from while there is no database.

    A data directory of an earlier release has a snapshot instead, of which the store is built. Raises the errors of the
    writer.
    """
    if writer.is_usable:
        return True
    try:
        snapshot = old_snapshot.load(data_dir / old_snapshot.FILE)
    except old_snapshot.Unreadable:
        return False
    keys = sorted(snapshot.api_keys, key=lambda key: key.hash)
    writer.rebuild(snapshot.database_id, snapshot.endpoints, keys)
    return True


def _readable_endpoints(writer: RegistryWriter) -> list[EndpointFacts]:
    """Return the published endpoints; none if they cannot be read."""
    try:
        return writer.endpoints()
    except Exception as error:
        if not is_damage(error):
            raise
        return []


def _endpoints(slots: Slots) -> Iterator[PublishedEndpoint]:
    for entry in read_entries().values():
        slot = slots.of(entry.id, entry.name)
        if slot is not None:
            yield published_endpoint(entry, slot)


def _model_names() -> Iterator[ModelName]:
    return (facts for entry in read_names().values() if (facts := entry.facts()) is not None)


def _keys() -> Iterator[PublishedKey]:
    return _reported(map(published_key, read_key_entries(read_users())), "API keys")


def _reported(found: Iterable[T], objects: str) -> Iterator[T]:
    """Yield these, and log the progress: a million takes some 15 seconds."""
    for number, each in enumerate(found, 1):
        yield each
        if number % REPORTED == 0:
            log.info("building the registry store: %d %s so far", number, objects)
