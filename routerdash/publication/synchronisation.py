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

from access.limits.tables import BudgetRow, LimitRow
from access.models import ApiKey
from endpoints.changes import log as change_log
from endpoints.changes import triggers
from endpoints.changes.log import NO_CHANGES, ChangeBatch
from endpoints.changes.watched import ENDPOINT, KEY, LIMIT, LOGGED, NAME, USER
from endpoints.models import EndpointModel
from gateway.registry import old_snapshot
from gateway.registry.kinds import ENDPOINTS
from gateway.registry.schema import EndpointFacts, StoreState
from gateway.registry.store import is_damage
from gateway.registry.writer import Changes, RegistryWriter, contents_of
from metrics.storage import database
from routerdash.publication.slots import Slots
from routerdash.publication.sources import SOURCES, Reading

log = logging.getLogger(__name__)

LONG_LOG = 100_000  # rows of the log, up to which the store is never built anew because of its length
REPORTED = 100_000  # API keys, or subjects of limits, between two log lines of a build
T = TypeVar("T")


def new_token(batch: ChangeBatch) -> str:
    """Return a token for the state after these changes, which names them by their number and a hash."""
    return f"{uuid.uuid4().hex}.{len(batch.ids)}.{_fingerprint(batch)}"


def _fingerprint(batch: ChangeBatch) -> str:
    named = (batch.ids, *(sorted(batch.of(kind)) for kind in (ENDPOINT, KEY, USER)))
    for kind in LOGGED:  # earlier releases had only these three, and their fingerprints must stay the same
        if kind not in (ENDPOINT, KEY, USER) and (ids := batch.of(kind)):
            named = (*named, *_LABELS.get(kind, (kind,)), sorted(ids))
    return sha256(repr(named).encode()).hexdigest()[:16]


_LABELS: dict[str, tuple[str, ...]] = {NAME: (), LIMIT: ("limits",)}  # as earlier releases have them


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
    reading = Reading(Slots(_readable_endpoints(writer)))
    writer.uncover_budgets()
    contents = {source.kind.name: _reported(source.everything(reading), source.objects) for source in SOURCES}
    writer.rebuild(database_id, contents, source=token)
    change_log.forget(logged, token_before=token_before, token=token)
    log.info("built the registry store in %.1f s", time.monotonic() - started)


def apply_log(writer: RegistryWriter) -> bool:
    """Apply a part of the change log, read from the database; return True if there is more.

    For the preparation of a start. Raises django.db.Error, or the errors of the writer.
    """
    batch = change_log.read()
    if not batch.ids:
        return False
    reading = Reading(Slots(writer.rows(ENDPOINTS)), batch)
    if batch.of(LIMIT):
        writer.uncover_budgets()
    changes = Changes()
    for source in SOURCES:
        if (objects := source.changes(reading)) is not None:
            changes.put(source.kind, objects)
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
    writer.rebuild(snapshot.database_id, contents_of(snapshot.endpoints, keys))
    return True


def _readable_endpoints(writer: RegistryWriter) -> list[EndpointFacts]:
    """Return the published endpoints; none if they cannot be read."""
    try:
        return writer.rows(ENDPOINTS)
    except Exception as error:
        if not is_damage(error):
            raise
        return []


def _reported(items: Iterable[T], objects: str) -> Iterator[T]:
    """Yield these, and log the progress: a million takes some 15 seconds."""
    for number, each in enumerate(items, 1):
        yield each
        if objects and number % REPORTED == 0:
            log.info("building the registry store: %d %s so far", number, objects)
