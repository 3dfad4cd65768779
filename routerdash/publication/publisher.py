"""Publisher: writes changes of endpoints, API keys and model names into the registry store, and wakes the gateways."""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from django.utils.translation import gettext, ngettext

from access.directory import KeyEntry
from endpoints.changes.log import ChangeBatch
from endpoints.model_names.name_cache import model_names
from endpoints.registry import Entry, registry
from gateway.base.config import Config
from gateway.ipc.live_page import LivePage
from gateway.ipc.wake import wake_all
from gateway.registry.kinds import ENDPOINTS, LIMITS, MODELS, PRICES, AnyKind
from gateway.registry.limits import LimitFacts, Subject
from gateway.registry.reader import RegistryReader, Update
from gateway.registry.schema import Damaged, EndpointFacts, KeyFacts, Model, digest_of
from gateway.registry.store import is_damage
from gateway.registry.writer import Changes, RegistryWriter
from routerdash.publication import stored_entries, synchronisation
from routerdash.publication.facts import endpoint_facts, endpoint_models, published_key
from routerdash.publication.live_state import LiveState
from routerdash.publication.slots import Slots
from routerdash.publication.sources import REPLACED_WHOLE, Reading, needs_prices

log = logging.getLogger(__name__)

T = TypeVar("T")
REBUILD_SECONDS = 1.0  # between two attempts to build the store anew
WRITE_ERRORS = (sqlite3.Error, OSError, Damaged)


class Publisher:
    """The registry store of this installation, and the live page, in the control process.

    Its methods may be called in any thread.
    """

    def __init__(
        self,
        config: Config,
        page: LivePage,
        *,
        before_limits: Callable[[Collection[Subject]], object] = lambda subjects: None,
        failed: Callable[[], object] = lambda: None,
    ) -> None:
        """`before_limits`: called with subjects before their limits are published, in the thread of the change.

        `failed`: called once a change cannot be published.
        """
        self._data_dir = config.data_dir
        self._page = page
        self._lock = threading.Lock()
        self.writer = RegistryWriter(config.registry_dir, page)
        self.slots = Slots()
        self.live = LiveState(config, page, self.slots)
        self._published: dict[str, Entry] = {}  # what the store has, or gets by `_waiting`
        self._waiting = Changes()  # could not be written
        self._failure: str | None = None  # why
        self._is_behind = False  # the store could not be brought up to the database
        self._rebuild_at = 0.0  # time.monotonic(), before which the store is not built anew
        self.drifted_at: float | None = None  # when the audit last found a difference, in seconds since 1970
        self.revision = 0  # counts the changes that were to be published, except what was learned
        self._before_limits = before_limits
        self._failed = failed
        self._rebuild_listeners: list[Callable[[], object]] = []
        self._reading = threading.Lock()
        self._replacing = threading.Lock()
        self._facts: dict[bytes, EndpointFacts] = {}
        self._reader = RegistryReader(config.registry_dir, page, self._update)
        if self.writer.is_usable:
            try:
                self.writer.publish()
                self._take_over()
            except WRITE_ERRORS as error:
                self._note_damage(error)

    def subscribe_to_rebuilds(self, listener: Callable[[], object]) -> None:
        """Call `listener` whenever the store may be a new one."""
        self._rebuild_listeners.append(listener)

    def close(self) -> None:
        with self._lock, self._reading:
            self.writer.close()
            self._reader.close()

    def _take_over(self) -> None:
        """Go on with the endpoints of the store."""
        self.slots.take_over(self.writer.rows(ENDPOINTS))
        self._published = {}

    @property
    def is_serving(self) -> bool:
        """True if gateways have endpoints and keys to serve with."""
        return self._page.version > 0

    # Publication

    def synchronise(self) -> None:
        """Bring the store up to the database, at a start. Raises django.db.Error; other errors count as a failure."""
        with self._lock:
            self._synchronise()

    def _synchronise(self) -> None:
        try:
            synchronisation.synchronise(self.writer, self._data_dir)
        except WRITE_ERRORS as error:
            self._is_behind = True
            self._fail(error)
            return
        self._is_behind = False
        self._waiting, self._failure = Changes(), None
        self._take_over()
        for listener in self._rebuild_listeners:
            listener()
        wake_all(self._page)

    def rebuild_if_damaged(self) -> None:
        """Build the store anew if a process has found it damaged. Raises django.db.Error."""
        if self.writer.is_usable or time.monotonic() < self._rebuild_at:
            return
        log.warning("the registry store is damaged or missing; it is built anew from the database")
        self._catch_up()

    def publish_endpoints(self, ids: Collection[str] | None = None) -> None:
        """Publish endpoints of the registry that have changed; None: compare all.

        This is called after every change of the registry, in the thread of the change.
        """
        with self._lock:
            if ids is None:
                ids = self._published.keys() | self.slots.by_id.keys() | {entry.id for entry in registry.all()}
            changes = Changes()
            for endpoint_id in ids:
                self._add(changes, endpoint_id, registry.get(endpoint_id))
            self._write(changes)

    def publish_keys(self, keys: Mapping[str, KeyEntry | None]) -> None:
        """Publish API keys by hash; None: it was deleted."""
        with self._lock:
            self._write(
                Changes(keys={hashed: None if key is None else published_key(key) for hashed, key in keys.items()})
            )

    def publish_limits(self, limits: Mapping[Subject, LimitFacts | None]) -> bool:
        """Publish the limits of subjects; None: there are none. Return True if something differed."""
        self._before_limits(limits.keys())
        if any(map(needs_prices, limits.values())):
            self.publish_whole(PRICES)  # first: a gateway must not count a request without them
        with self._lock:
            before = self._page.version
            self._write(Changes(limits=dict(limits)))
            return self._page.version != before

    def publish_model_names(self, ids: Collection[str] | None = None) -> bool:
        """Publish model names that have changed; None: compare all. Return True if something differed."""
        with self._lock:
            if ids is None:
                ids = {entry.id for entry in model_names.all()} | stored_entries.model_names(self.writer).keys()
            entries = {name_id: model_names.get(name_id) for name_id in ids}
            before = self._page.version
            self._write(
                Changes(model_names={name_id: entry.facts() if entry else None for name_id, entry in entries.items()})
            )
            return self._page.version != before

    def publish_learned(self, changes: Changes) -> None:
        """Publish speeds, lengths and states of engines. Nobody waits for them, and pages do not show them."""
        with self._lock:
            before = self.revision
            self._write(changes)
            self.revision = before

    def publish_whole(self, kind: AnyKind | None = None) -> None:
        """Publish what differs of a kind that is replaced whole; None: of all these kinds. Raises django.db.Error."""
        for source in REPLACED_WHOLE:
            if kind in (None, source.kind):
                with self._replacing:  # what one thread has read must not replace what another one has read later
                    objects = dict(source.everything(Reading(self.slots)))
                    if objects or self._has_any(source.kind):
                        self.publish_learned(Changes(**{source.kind.name: objects}))

    def _has_any(self, kind: AnyKind) -> bool:
        return self.read(lambda writer: writer.has_any(kind))

    def follow_whole(self, batch: ChangeBatch) -> None:
        """Publish kinds that are replaced whole, if the change log names them. Raises django.db.Error."""
        for source in REPLACED_WHOLE:
            if batch.of(source.logged):
                self.publish_whole(source.kind)

    def _add(self, changes: Changes, endpoint_id: str, entry: Entry | None) -> None:
        before = self._published.get(endpoint_id)
        if entry is None:
            self.slots.release(endpoint_id)
            self._published.pop(endpoint_id, None)
            changes.put(ENDPOINTS, {endpoint_id: None})
            return
        slot = self.slots.of(entry.id, entry.name)
        if entry is before or slot is None:
            return
        changes.put(ENDPOINTS, {endpoint_id: endpoint_facts(entry, slot)})
        if before is None or (entry.models, entry.capabilities) != (before.models, before.capabilities):
            changes.put(MODELS, {endpoint_id: endpoint_models(entry)})
        self._published[endpoint_id] = entry

    def publish_again(self) -> bool:
        """Publish after a failure. Return True if that is to be repeated soon. Raises django.db.Error."""
        if self._is_behind:
            if time.monotonic() >= self._rebuild_at:
                self._catch_up()
            return self._is_behind
        with self._lock:
            if self._failure is not None:
                self._write(Changes())
            return self._failure is not None

    def _catch_up(self) -> None:
        """Synchronise, and publish what the registry has and the database has not: health checks."""
        self._rebuild_at = time.monotonic() + REBUILD_SECONDS
        self.synchronise()
        self.publish_endpoints()
        self.publish_model_names()
        self.publish_whole()

    def continues(self, token: str | None) -> bool:
        """Return True if the change log of the database with this token has all that the store lacks."""
        with self._lock:
            state = self.writer.state()
            return state is not None and synchronisation.continues(state, token)

    def set_source(self, source: str) -> None:
        """Store the token of the change log that everything published so far belongs to. Raises WRITE_ERRORS."""
        with self._lock:
            self.writer.apply(Changes(), source=source)

    def _write(self, changes: Changes) -> None:
        """Write changes, and those that could not be written before."""
        self._waiting.merge(changes)
        if not self._waiting:
            return
        before = self._page.version
        try:
            version = self.writer.apply(self._waiting)
        except WRITE_ERRORS as error:
            self.revision += 1
            self._fail(error)
            self._note_damage(error)
            return
        self._waiting = Changes()
        self._failure = None
        if version != before:
            self.revision += 1
            wake_all(self._page)

    def _fail(self, error: Exception) -> None:
        before, self._failure = self._failure, (isinstance(error, OSError) and error.strerror) or str(error)
        if self._failure != before:
            log.error("a change cannot be published: %s; gateways continue without it until it can be", error)
        if before is None:
            self._failed()

    def _note_damage(self, error: Exception) -> None:
        """Let the store be built anew if it is damaged."""
        if is_damage(error):
            self._page.damaged_generation = self._page.registry_generation

    # Acknowledgement

    @property
    def failure(self) -> str | None:
        """Why the last change is not published; None if it is."""
        return self._failure

    def is_pending(self) -> bool:
        """Return True while a gateway has not applied the last published change."""
        return self._failure is None and bool(self._page.behind(self._page.version))

    def pending_reason(self) -> str | None:
        """Return why the last change is not in effect in every gateway; None if it is."""
        if self._failure is not None:
            return gettext("the registry store of the gateways cannot be written (%(error)s)") % {
                "error": self._failure
            }
        late = self._page.behind(self._page.version)
        if not late:
            return None
        ids = ", ".join(map(str, late))
        return ngettext(
            "the gateway with the process id %(ids)s has not confirmed it",
            "the gateways with the process ids %(ids)s have not confirmed it",
            len(late),
        ) % {"ids": ids}

    # What is published. Lookups raise gateway.registry.reader.StoreUnreadable.

    def key(self, hashed: str) -> KeyFacts | None:
        """Return the published API key with this hash."""
        digest = digest_of(hashed)
        return None if digest is None else self.look_up(lambda reader: reader.key_facts(digest))

    def routes(self, model: str) -> list[tuple[EndpointFacts, Model]]:
        """Return the endpoints in any state that have a model of this name, in the order of slots."""
        kind, named = self.look_up(lambda reader: reader.models_with_prefix(model))
        routes = [(self._facts[key], offered) for key, offered in named if key in self._facts]
        if kind is not None:
            routes = [pair for pair in routes if pair[0].kind == kind]
        return sorted(routes, key=lambda pair: pair[0].slot)

    def read(self, read: Callable[[RegistryWriter], T]) -> T:
        """Call `read` with the writer of the registry store, and return its result. Raises sqlite3.Error or Damaged."""
        with self._lock:
            return read(self.writer)

    def compare_endpoints(self, ids: Collection[str]) -> bool:
        """Compare endpoints and their models with the store, and publish what differs; return True if something did."""
        with self._lock:
            before = self._page.version
            changes = Changes()
            for endpoint_id in ids:
                self._published.pop(endpoint_id, None)
                self._add(changes, endpoint_id, registry.get(endpoint_id))
            self._write(changes)
            return self._page.version != before

    def database_id(self) -> str | None:
        """Return the id of the database that the store belongs to; None if there is no store."""
        state = self.writer.state()
        return None if state is None else state.database_id

    def look_up(self, read: Callable[[RegistryReader], T]) -> T:
        """Return what `read` finds in the registry store, at its newest version."""
        with self._reading:
            self._reader.follow()
            return read(self._reader)

    def _update(self, update: Update) -> None:
        if update.complete:
            self._facts = {}
        for key, facts in update.endpoints.items():
            if facts is None:
                self._facts.pop(key, None)
            else:
                self._facts[key] = facts


def has_limits(publisher: Publisher) -> bool:
    """Return True if limits are published, or it cannot be read whether some are."""
    try:
        return publisher.read(lambda writer: writer.has_any(LIMITS))
    except (sqlite3.Error, Damaged):
        return True
