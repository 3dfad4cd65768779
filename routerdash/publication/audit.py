"""Audit of the registry store: compares it with the database in small slices, mends and counts what differs.

Triggers log every change, so there should be no difference. What bypasses them (a trigger disabled by hand, a copied
table, a damaged row) is found within some minutes.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import replace

from access.directory import KeyEntry, access, read_key_entries
from endpoints.model_names.name_cache import model_names, read_name_ids, read_names
from endpoints.models import merge_latency
from endpoints.registry import Entry, read_entries, registry
from gateway.registry.schema import digest_of
from gateway.registry.store import END
from routerdash.publication.facts import published_key
from routerdash.publication.limit_audit import LimitAudit
from routerdash.publication.publisher import Publisher

log = logging.getLogger(__name__)

SLICE_SECONDS = 0.5  # between two slices
PASS_SECONDS = 30.0  # between two passes
PASSES_WITH_USERS = 10  # the first of so many reads the users again
KEYS_AT_ONCE = 1000
ENDPOINTS_AT_ONCE = 5
NAMES_AT_ONCE = 50


class Audit:
    """One pass over everything that is published after the other, in the thread that calls `run_slice`."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._due = 0.0  # time.monotonic()
        self._passes = 0
        self.is_resting = True  # a pass has ended, or none has begun
        self._has_more_keys = False
        self._after_key = ""  # the last hash that was compared
        self._endpoints: list[str] = []  # ids that are still to be compared
        self._names: list[str] = []  # ids of model names that are still to be compared
        self._suspect_names: set[str] = set()
        self._limits = LimitAudit(publisher)
        self._suspect_keys: set[str] = set()  # hashes that differed; they may just have changed
        self._suspect_endpoints: set[str] = set()
        self.differences = 0  # since the start of this process

    def run_slice(self) -> None:
        """Compare some endpoints and API keys, if it is time. Raises django.db.Error."""
        if time.monotonic() < self._due:
            return
        if self.is_resting:
            self._begin_pass()
        if self._has_more_keys or self._suspect_keys:
            self._compare_keys()
        if self._endpoints or self._suspect_endpoints:
            self._compare_endpoints()
        if self._names or self._suspect_names:
            self._compare_names()
        if self._limits.has_more and (mended := self._limits.compare()):
            self._report(mended, "limits")
        left = (self._has_more_keys, self._endpoints, self._names, self._limits.has_more)
        suspects = (self._suspect_keys, self._suspect_endpoints, self._suspect_names)
        self.is_resting = not any((*left, *suspects))
        self._due = time.monotonic() + (PASS_SECONDS if self.is_resting else SLICE_SECONDS)

    def _begin_pass(self) -> None:
        if self._passes % PASSES_WITH_USERS == 0:
            access.reload()  # a key has the permissions that its owner's role permits
        self._passes += 1
        self._after_key, self._has_more_keys = "", True
        self._limits.begin_pass()
        self._endpoints = [*self._publisher.slots.by_id.keys() | {entry.id for entry in registry.all()}]
        self._names = [*{entry.id for entry in model_names.all()} | read_name_ids()]
        self._publisher.publish_whole()  # prices: removed after the last budget of money, without rows that have ended
        if self._publisher.publish_model_names():
            self._report(1, "model names")

    def _compare_keys(self) -> None:
        """Compare the next keys in the order of their hashes, in both directions, and those that differed."""
        users, publisher = access.users(), self._publisher
        keys: dict[str, KeyEntry] = {}
        published: set[str] = set()
        if self._has_more_keys:
            after = self._after_key
            keys = _by_hash(read_key_entries(users, after=after, limit=KEYS_AT_ONCE))
            last = max(keys) if len(keys) == KEYS_AT_ONCE else ""
            begin, end = digest_of(after) or b"", digest_of(last) or END
            published = {digest.hex() for digest in publisher.read(lambda writer: writer.keys_between(begin, end))}
            self._after_key, self._has_more_keys = last, bool(last)
        published |= {hashed for hashed in self._suspect_keys if publisher.key(hashed) is not None}
        keys |= _by_hash(read_key_entries(users, hashes=self._suspect_keys))
        differing = {
            hashed for hashed, key in keys.items() if not _is_published(publisher, key)
        } | published - keys.keys()
        if confirmed := differing & self._suspect_keys:
            self._report(len(confirmed), "API keys")
            access.read_again((), confirmed)
        self._suspect_keys = differing - confirmed

    def _compare_endpoints(self) -> None:
        ids = {*self._endpoints[:ENDPOINTS_AT_ONCE], *self._suspect_endpoints}
        del self._endpoints[:ENDPOINTS_AT_ONCE]
        stored = read_entries(ids)
        differing = {endpoint_id for endpoint_id in ids if _differs(stored.get(endpoint_id), registry.get(endpoint_id))}
        if confirmed := differing & self._suspect_endpoints:
            self._report(len(confirmed), "endpoints")
            registry.read_again(confirmed)
        self._suspect_endpoints = differing - confirmed
        if self._publisher.compare_endpoints(ids):
            self._report(1, "endpoints")

    def _compare_names(self) -> None:
        ids = {*self._names[:NAMES_AT_ONCE], *self._suspect_names}
        del self._names[:NAMES_AT_ONCE]
        stored = read_names(ids)
        differing = {name_id for name_id in ids if stored.get(name_id) != model_names.get(name_id)}
        if confirmed := differing & self._suspect_names:
            self._report(len(confirmed), "model names")
            model_names.read_again(confirmed)
        self._suspect_names = differing - confirmed

    def _report(self, count: int, objects: str) -> None:
        self.differences += count
        self._publisher.drifted_at = time.time()
        log.warning("%d %s differed between the database and what gateways use; they were mended", count, objects)


def _is_published(publisher: Publisher, key: KeyEntry) -> bool:
    """Return True if the API key is published as it is, or can never match because its hash is malformed."""
    return digest_of(key.hash) is None or publisher.key(key.hash) == published_key(key).facts()


def _differs(stored: Entry | None, held: Entry | None) -> bool:
    """Compare an endpoint of the database with that of the registry, which keeps a latency that was measured."""
    if stored is None or held is None:
        return stored is not held
    return replace(stored, latency_ms=merge_latency(stored.latency_ms, held.latency_ms)) != held


def _by_hash(keys: Iterable[KeyEntry]) -> dict[str, KeyEntry]:
    return {key.hash: key for key in keys}
