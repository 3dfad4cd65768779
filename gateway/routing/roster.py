"""The registry store in memory, as requests need it: endpoints with connections and load, routes, API keys."""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

import msgspec

from gateway.base.errors import NOT_READY, Refusal
from gateway.base.sealing import Sealer, Unsealable
from gateway.ipc.live_page import LivePage, Row, memory_barrier
from gateway.model_names.plan import ModelNames, NamePlan, updated
from gateway.registry import schema
from gateway.registry.reader import BoundedCache, RegistryReader, StoreUnreadable, Update
from gateway.registry.schema import ApiKey, ref
from gateway.routing.endpoint import Endpoint, MeasuredEndpoint
from gateway.routing.routes import Route, Routes
from gateway.routing.set_aside import SetAside
from gateway.upstream.connection_settings import PLAIN, ConnectionSettings
from gateway.upstream.connection_settings import load as load_settings
from gateway.upstream.pool import Pool, Sweeper

log = logging.getLogger(__name__)

TAKE_ATTEMPTS = 3  # to take the last slot, while another process tries the same
CACHED_NAMES = 2_000  # model names in each of the two halves of the cache
MAX_CHANGED_KEYS = 10_000  # more than these are not remembered one by one
NEVER = float("inf")
_UNREADABLE = "The endpoints and API keys cannot be read at the moment."
PSEUDONYM = b"routerdash-"  # prefix of an installation's name in Via headers

T = TypeVar("T")

_load_of_one: Callable[[Endpoint], int] = attrgetter("in_flight")


class Roster:
    """Endpoints, routes and API keys that this process knows, all of one version of the registry store."""

    def __init__(
        self, root: Path, page: LivePage, row: Row, sealer: Sealer, sweeper: Sweeper, *, measures: bool = False
    ) -> None:
        """`root`: folder of the registry store. `row`: this process's own row of the page. `measures`: see
        MeasuredEndpoint.
        """
        self._endpoint_class = MeasuredEndpoint if measures else Endpoint
        self.page = page
        self.row = row
        self.pseudonym = b""  # unique name of this installation in Via headers
        self.endpoints: dict[str, Endpoint] = {}  # by id
        self.names: ModelNames | None = None  # None: there are none
        self.keys_version = 0  # counts the changes of API keys; an expiry is one, too
        self.learned_version = 0  # counts the changes of endpoints and of what was learned about them
        self.next_expiry = NEVER  # least time (since 1970) at which a key that was looked up expires
        self.reader = RegistryReader(root, page, self._update)
        self._by_ref: dict[bytes, Endpoint] = {}
        self._sealer = sealer
        self.sweeper = sweeper
        self._draining: dict[bytes, Endpoint] = {}
        self._resets = page.breakers.resets
        self.aside = SetAside(page.notes)
        self._routes: BoundedCache[str, Routes] = BoundedCache(CACHED_NAMES)
        self._changed_keys: dict[str, ApiKey | None] | None = {}
        self._one_key = (-1, False)  # `keys_version`, and whether there is one key then
        # Requests in flight on an endpoint, over all processes; chosen anew in `follow`.
        self.load: Callable[[Endpoint], int] = self._current_load()

    @property
    def version(self) -> int:
        """Version of the registry store that this process acts by; 0 before it has read one."""
        return self.reader.version

    @property
    def database_id(self) -> str:
        return self.reader.database_id

    def refresh(self) -> bool:
        """Read what has changed in the registry store, and return True if there was something."""
        return self.reader.follow()

    def close(self) -> None:
        """Close the registry store, at the end of the process."""
        self.reader.close()

    def follow(self) -> None:
        """Follow resets and the breakers of other processes. Called several times a second.

        Its cost does not grow with the number of endpoints while no breaker changes.
        """
        page = self.page
        self.load = self._current_load()
        if self._resets != page.breakers.resets:
            self._reset_breakers()
        self.aside.follow(self.endpoints.values())
        changes = page.breakers.changes
        if changes != self.aside.breaker_changes:
            self.aside.breaker_changes = changes
            self.aside.opened = [
                endpoint
                for endpoint in self.endpoints.values()
                if endpoint.breaker.due is not None or page.breakers.trial_due(endpoint.facts.slot)
            ]
        for endpoint in self.aside.opened:
            slot = endpoint.facts.slot
            opened_until = page.breakers.trial_due(slot)
            if opened_until or endpoint.breaker.due is not None:
                endpoint.follow(opened_until, page.breakers.closed_at(slot))

    def _reset_breakers(self) -> None:
        before, self._resets = self._resets, self.page.breakers.resets
        for endpoint in self.endpoints.values():
            if self.page.breakers.last_reset(endpoint.facts.slot) > before:
                endpoint.reset()

    def _current_load(self) -> Callable[[Endpoint], int]:
        """Return the function for the requests in flight: with one process, its own are all."""
        return _load_of_one if self.page.alone else self._load_of_all

    def _load_of_all(self, endpoint: Endpoint) -> int:
        return self.page.in_flight(endpoint.facts.slot)

    def take(self, endpoint: Endpoint, slots: int | None = None) -> bool:
        """Take a slot of the endpoint. Return False if none is free: another process may have taken the last one.

        `slots`: those that may be taken; None: all that the endpoint has.
        A slot is taken first and checked then. The barrier orders both, so that of several processes at least the last
        one sees all others: together they never exceed the limit. Two that both gave back the last slot try again.
        """
        if slots is None:
            slots = endpoint.slots
        if slots is None:
            endpoint.enter()
            return True
        for _ in range(TAKE_ATTEMPTS):
            endpoint.enter()
            memory_barrier()
            if self._load_of_all(endpoint) <= slots:
                return True
            endpoint.leave()
            if self._load_of_all(endpoint) >= slots:
                return False
        return False

    def drained(self, now: float) -> set[Endpoint]:
        """Return draining endpoints with running requests whose deadline has passed at `now` (seconds since 1970)."""
        return {
            endpoint
            for endpoint in self._draining.values()
            if endpoint.in_flight and endpoint.facts.drain_until is not None and endpoint.facts.drain_until <= now
        }

    def publish_unrecorded(self, count: int) -> None:
        """Publish the number of this worker's requests that are in no journal."""
        self.row.set_unrecorded(count)

    # Lookups in the registry store. They raise Refusal (503) if it cannot be read.

    def routes(self, model: str) -> Routes:
        """Return the routes of a model, in any state, in the order of slots; empty if it is unknown."""
        routes = self._routes.get(model)
        if routes is None:
            kind, named = self._read(lambda reader: reader.models_with_prefix(model))
            known = [Route(self._by_ref[key], offered) for key, offered in named if key in self._by_ref]
            if kind is not None:
                known = [route for route in known if route.endpoint.facts.kind == kind]
            routes = Routes(sorted(known, key=lambda route: route.endpoint.facts.slot))
            if routes:  # strangers' names must not fill the cache
                self._routes.put(model, routes)
        return routes

    def models(self, endpoint: Endpoint) -> list[schema.Model]:
        """Return all models of an endpoint."""
        return self._read(lambda reader: reader.models_of(ref(endpoint.id)))

    def key(self, secret: bytes) -> ApiKey | None:
        """Return the API key that a client sent; None if it is unknown. It may have expired."""
        return self.key_of(hashlib.sha256(secret).digest())

    def key_of(self, digest: bytes) -> ApiKey | None:
        """Return the API key with this SHA-256."""
        key = self._read(lambda reader: reader.key(digest))
        if key is not None and key.expires_at is not None:
            self._note_expiry(key.expires_at)
        return key

    def has_one_key(self) -> bool:
        """Return True if there is exactly one API key."""
        version, has_one = self._one_key
        if version != self.keys_version:
            has_one = self._read(RegistryReader.has_one_key)
            self._one_key = self.keys_version, has_one
        return has_one

    def take_changed_keys(self) -> Mapping[str, ApiKey | None] | None:
        """Return the API keys that changed since the last call, by id; None for a deleted one.

        Return None if any key may have changed.
        """
        changed, self._changed_keys = self._changed_keys, {}
        return changed

    def forget_expiry(self) -> None:
        """Look up all keys again: one of them has expired."""
        self.next_expiry = NEVER
        self.keys_version += 1

    def _note_expiry(self, expires_at: float) -> None:
        if expires_at < self.next_expiry and expires_at > time.time():
            self.next_expiry = expires_at

    def _read(self, read: Callable[[RegistryReader], T]) -> T:
        try:
            return read(self.reader)
        except StoreUnreadable:
            raise Refusal(503, NOT_READY, _UNREADABLE, headers=((b"retry-after", b"2"),)) from None

    def _update(self, update: Update) -> None:
        """Apply an update of the registry store."""
        self.pseudonym = PSEUDONYM + hashlib.sha256(self.database_id.encode()).hexdigest()[:16].encode()
        removed = self._by_ref.keys() - update.endpoints.keys() if update.complete else set()
        for key in removed:
            self._remove(key)
        for key, facts in update.endpoints.items():
            if facts is None:
                self._remove(key)
            else:
                self._set(key, facts)
        if update.endpoints:
            self.aside.follow(self.endpoints.values())
        if update.models:
            self._routes.clear()
            for endpoint in self.endpoints.values():
                self.aside.forget_lacking(endpoint)
        if update.model_names or update.complete:
            self.names = updated(None if update.complete else self.names, update.model_names)
        if update.learned or update.endpoints:
            self.learned_version += 1
        self._update_keys(update.keys)

    def _update_keys(self, keys: Mapping[str, ApiKey | None] | None) -> None:
        if keys is None or len(keys) + len(self._changed_keys or ()) > MAX_CHANGED_KEYS:
            self._changed_keys = None
            self.keys_version += 1
        elif keys:
            self.keys_version += 1
            for api_key in keys.values():
                if api_key is not None and api_key.expires_at is not None:
                    self._note_expiry(api_key.expires_at)
            if self._changed_keys is not None:
                self._changed_keys |= keys

    def _remove(self, key: bytes) -> None:
        endpoint = self._by_ref.pop(key, None)
        if endpoint is not None:
            endpoint.withdraw()
            self.endpoints = {one.id: one for one in self._by_ref.values()}
            self._draining.pop(key, None)
            self._forget_places()

    def _set(self, key: bytes, facts: schema.EndpointFacts) -> None:
        """Update an endpoint, or create it."""
        known = self._by_ref.get(key)
        if known is not None and known.facts == facts:
            return
        try:
            endpoint = self._endpoint(known, facts)
        except ValueError as error:
            log.error("endpoint %s: %s; it receives no requests", facts.name, error)
            self._remove(key)
            return
        if known is None:
            self._by_ref[key] = endpoint
            self.endpoints[endpoint.id] = endpoint
            self._forget_places()
        if facts.operator_state == schema.DRAINING:
            self._draining[key] = endpoint
        else:
            self._draining.pop(key, None)

    def _forget_places(self) -> None:
        """Forget what depends on which endpoints there are, and in which slots."""
        self._routes.clear()
        self.aside.recheck()

    def _endpoint(self, endpoint: Endpoint | None, facts: schema.EndpointFacts) -> Endpoint:
        """Update the endpoint, or create it. Its connections are closed if its address has changed."""
        if endpoint is None:
            endpoint = self._endpoint_class(facts, self._pool(facts), self._open(facts), self.row)
            self._watch(endpoint)
            return endpoint
        before = endpoint.facts
        if (facts.base_url, facts.sealed_connection) != (before.base_url, before.sealed_connection):
            pool = self._pool(facts)
            endpoint.pool.close()
            endpoint.pool = pool
            self._watch(endpoint)
            self._forget_places()
        if facts.base_url != before.base_url or facts.kind != before.kind:
            endpoint.reset_learned()
        if (facts.base_url, facts.kind, facts.sealed_key) != (before.base_url, before.kind, before.sealed_key):
            self.aside.forget_pause(endpoint)
        if _is_edited(before, facts):
            self.aside.forget_lacking(endpoint)
        if (facts.slot, facts.kind, facts.external, facts.tags) != (
            before.slot,
            before.kind,
            before.external,
            before.tags,
        ):
            self._forget_places()
        endpoint.update(facts, endpoint.redactor.key if facts.sealed_key == before.sealed_key else self._open(facts))
        return endpoint

    def _pool(self, facts: schema.EndpointFacts) -> Pool:
        return Pool(facts.base_url, self.sweeper, settings=_settings_of(facts, self._sealer))

    def _watch(self, endpoint: Endpoint) -> None:
        endpoint.pool.received = endpoint.received

    def _open(self, facts: schema.EndpointFacts) -> str | None:
        if facts.sealed_key is None:
            return None
        try:
            return self._sealer.open(facts.sealed_key)
        except Unsealable as error:
            log.error("endpoint %s: %s; requests are sent without a key", facts.name, error)
            return None


def plan_of(roster: Roster, requested: str) -> NamePlan | None:
    """Return the plan of the model name that a request means; None if it means a model."""
    return None if roster.names is None else roster.names.plan(requested, roster)


def _is_edited(before: schema.EndpointFacts, facts: schema.EndpointFacts) -> bool:
    """Return True if administrators have edited an endpoint: not only checks and learning have changed its facts."""
    learned = {"learned_slots": facts.learned_slots, "assumed_slots": facts.assumed_slots}
    return msgspec.structs.replace(before, status=facts.status, **learned) != facts


def _settings_of(facts: schema.EndpointFacts, sealer: Sealer) -> ConnectionSettings:
    """Return how to connect to an endpoint. Raises ValueError: without its proxy or its CA certificates, a request
    might reach another server.
    """
    if facts.sealed_connection is None:
        return PLAIN
    try:
        return load_settings(sealer.open(facts.sealed_connection))
    except Unsealable:
        raise ValueError("its connection settings were sealed with another encryption key") from None
