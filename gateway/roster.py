"""The snapshot in memory, indexed for requests: endpoints with connections and load, models by name, keys by hash."""

import hashlib
import logging
import math
import string
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from urllib.parse import quote

from gateway import snapshot
from gateway.balancer import OPEN, rank
from gateway.breaker import Breaker
from gateway.livepage import LivePage, Row
from gateway.redact import Redactor
from gateway.sealing import Sealer, Unsealable
from gateway.snapshot import ApiKey, Snapshot
from gateway.upstream import Pool, Sweeper

log = logging.getLogger(__name__)

_HEADER_SAFE = "".join(sorted(set(string.printable) - set(string.whitespace) - {"%"})) + " "

NEWS_SECONDS = 1.0  # behind the close of a breaker: what others told before it is none
PSEUDONYM = b"routerdash-"  # and what tells installations apart, in Via headers


class Endpoint:
    """An endpoint as this worker sees it: the snapshot's facts, its connections, its requests in flight."""

    __slots__ = (
        "_closed_at", "_failed_at", "_health", "_row", "_told", "_told_due", "_well_seen", "breaker", "facts", "id",
        "in_flight", "label", "lacks", "pool", "rank", "redactor", "secret",
        "slots", "standing_head", "usage_refused",
    )  # fmt: skip

    def __init__(self, facts: snapshot.Endpoint, pool: Pool, secret: str | None, row: Row) -> None:
        self.pool = pool
        self.in_flight = 0
        self.breaker = Breaker()
        self._told_due = 0
        self._failed_at = self._closed_at = 0.0  # seconds since 1970
        self._well_seen = 0  # of the breaker's `well`, at the last look
        self._row = row
        self.forget()
        self.learn(facts, secret)

    def learn(self, facts: snapshot.Endpoint, secret: str | None) -> None:
        """Take over what the snapshot says, after the pool."""
        self.facts = facts
        self.id = facts.id
        self._told = self._row.in_flight(facts.slot)
        self.secret = secret
        self.redactor = Redactor(secret)
        self.slots = facts.max_concurrency
        self.pool.connect_timeout = facts.connect_timeout_secs
        self.label = b"x-routerdash-endpoint: %b\r\n" % quote(facts.name, safe=_HEADER_SAFE).encode()
        key = b"" if secret is None else b"authorization: Bearer %b\r\n" % secret.encode()
        # Headers that go with every request.
        self.standing_head = b"host: %b\r\naccept-encoding: identity\r\n%b" % (self.pool.authority, key)
        self._health = rank(facts.status, facts.operator_state)
        self.settle()

    def forget(self) -> None:
        """What was learned by asking: it is another server now."""
        self.usage_refused = False  # it answered 4xx to stream_options: not asked again until it is edited
        self.lacks: set[str] = set()  # paths that it does not have
        self.breaker.close()

    def __repr__(self) -> str:
        return f"<Endpoint {self.facts.name} {self.facts.status}, {self.in_flight} in flight>"

    def enter(self) -> None:
        self.in_flight = self._told[0] = self.in_flight + 1

    def leave(self) -> None:
        self.in_flight = self._told[0] = self.in_flight - 1

    def received(self) -> None:
        """A byte of it came, in this second."""
        self._row.set_last_byte(self.facts.slot, int(time.time()))

    # The circuit breaker

    @property
    def trial_due(self) -> float:
        """See gateway.balancer.Candidate."""
        return self.breaker.due or 0.0

    def did_well(self) -> None:
        """An attempt brought its answer, after others that did not."""
        self.breaker.good()
        if self._told_due:
            log.info("%s: its circuit breaker closes", self.facts.name)
            self._closed_at = time.time()
            self._row.set_closed_at(self.facts.slot, int(self._closed_at))
            self.settle()

    def failed(self, pause: float | None = None, key: str | None = None) -> None:
        """An attempt brought none. `pause`: seconds for which the endpoint asked to be left alone. `key`: whose request
        it was, if the request itself may be why; None if it cannot be.
        """
        now = time.monotonic()
        if key is not None and not self.breaker.keys.failed(key, now):
            return
        self._failed_at = time.time()
        if self.breaker.bad(now, pause=pause):
            due = self.breaker.due or now
            log.warning("%s: its circuit breaker opens for %.1f s", self.facts.name, due - now)
            self.settle()

    def reset(self) -> None:
        """An operator wants requests to go there, whatever came of those before."""
        log.info("%s: its circuit breaker is reset by an operator", self.facts.name)
        self.breaker.close()
        self._closed_at = time.time()
        self.settle()

    def begin_trial(self) -> None:
        """An attempt although the breaker is not closed."""
        self.breaker.trials += 1
        self.settle()

    def end_trial(self) -> None:
        self.breaker.trials -= 1
        self.settle()

    def settle(self) -> None:
        """Let the rank follow health, operator and breaker; tell others of the last."""
        breaker = self.breaker
        now = time.monotonic()
        self.rank = OPEN if self._health < OPEN and breaker.blocks(now) else self._health
        due = 0 if breaker.due is None else math.ceil(time.time() + breaker.due - now)
        if due != self._told_due:
            self._told_due = due
            self._row.set_trial_due(self.facts.slot, due)

    def look_around(self, opened_until: int, closed_at: int) -> None:
        """Many times a second: a trial may be due; another worker's breaker may have opened, or closed."""
        breaker = self.breaker
        if breaker.due is None:
            self._look_at_others(opened_until - time.time())
            return
        if closed_at > self._failed_at:
            breaker.close()
            self._closed_at = time.time()
        self.settle()

    def _look_at_others(self, ahead: float) -> None:
        """For how many seconds another worker's breaker stays open; less than none: it is half open."""
        breaker, now = self.breaker, time.time()
        if ahead > 1.0:  # it is told in whole seconds: what is left of one may have ended since
            if now - self._closed_at > NEWS_SECONDS:
                breaker.due = time.monotonic() + ahead
                self._failed_at = now
                self.settle()
        elif ahead < 0.0 and breaker.well not in (0, self._well_seen):
            # It gets no requests that it could try the endpoint with; here they go well.
            self._well_seen = breaker.well
            self._row.set_closed_at(self.facts.slot, int(now))


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint that has the asked model, and the name it knows it by."""

    endpoint: Endpoint
    model: snapshot.Model


class Routes(list[Route]):
    """All that a model's name leads to, with what each request needs of it made ready."""

    __slots__ = ("by_id", "capable", "endpoints")

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        super().__init__(routes)
        self.by_id = {route.endpoint.id: route for route in self}
        self.endpoints = [route.endpoint for route in self]
        self.capable = _Capable(self)


class _Capable(dict[str, Routes]):
    """By capability, those of some routes whose model has it. One of which nothing is known may."""

    def __init__(self, routes: Routes) -> None:
        super().__init__()
        self._routes = routes

    def __missing__(self, capability: str) -> Routes:
        able = [it for it in self._routes if not it.model.capabilities or capability in it.model.capabilities]
        found = self[capability] = self._routes if len(able) == len(self._routes) else Routes(able)
        return found


class Roster:
    """Everything a request is checked against. `refresh` swaps the whole in one go."""

    def __init__(
        self, path: Path, page: LivePage, sealer: Sealer, sweeper: Sweeper, *, worker: int = 0, workers: int = 1
    ) -> None:
        self.path = path
        self.page = page
        self.worker = worker
        self.workers = workers
        self.snapshot: Snapshot | None = None
        self.pseudonym = b""  # in Via headers: this installation's, and nobody else's
        self.endpoints: dict[str, Endpoint] = {}
        self._sealer = sealer
        self.outbox = sweeper.outbox
        self._sweeper = sweeper
        self._draining: list[Endpoint] = []
        self._row = page.row(worker)
        self._resets = page.resets
        self._seen_version = self._warned_version = -1
        self._routes: dict[str, Routes] = {}
        self._folded: dict[str, Routes] = {}
        self._keys: dict[bytes, ApiKey] = {}
        self.keys: Mapping[str, ApiKey] = {}  # by id
        # Requests in flight on an endpoint, over all workers.
        self.load: Callable[[Endpoint], int] = attrgetter("in_flight") if workers == 1 else self._load_of_all

    def refresh(self) -> bool:
        """Read the snapshot again if the live page names a newer one. Keeps the old one if that cannot be read."""
        version = self.page.version
        if version == self._seen_version and self.snapshot is not None:
            return False
        try:
            loaded = snapshot.load(self.path)
        except snapshot.Unreadable as error:
            if version and self._warned_version != version:  # 0: none was ever published
                log.warning("%s", error)
                self._warned_version = version
            return False
        self._seen_version = version
        self._install(loaded)
        return True

    def look_around(self) -> None:
        """Many times a second, beside `refresh`."""
        if self._resets != self.page.resets:
            self._reset_breakers()
        several = self.workers > 1
        for endpoint in self.endpoints.values():
            slot = endpoint.facts.slot
            opened = self.page.trial_due(slot, self.workers) if several else 0
            if opened or endpoint.breaker.due is not None:
                endpoint.look_around(opened, self.page.closed_at(slot, self.workers) if several else 0)

    def _reset_breakers(self) -> None:
        before, self._resets = self._resets, self.page.resets
        for endpoint in self.endpoints.values():
            if self.page.last_reset(endpoint.facts.slot) > before:
                endpoint.reset()

    def _load_of_all(self, endpoint: Endpoint) -> int:
        return self.page.in_flight(endpoint.facts.slot, self.workers)

    def take(self, endpoint: Endpoint) -> bool:
        """Enter the endpoint; False, and nothing is changed, if it has no free slot: another worker may have taken the
        last one a moment before.
        """
        endpoint.enter()
        if endpoint.slots is None or self.load(endpoint) <= endpoint.slots:
            return True
        endpoint.leave()
        return False

    def waiting(self) -> int:
        """Requests in the queues of all workers."""
        return self.page.waiting

    def drained(self, now: float) -> set[Endpoint]:
        """Those whose streams were to end by `now` (seconds since 1970), and have not."""
        return {
            endpoint
            for endpoint in self._draining
            if endpoint.in_flight and endpoint.facts.drain_until is not None and endpoint.facts.drain_until <= now
        }

    def tell_unrecorded(self, count: int) -> None:
        """For control to read: requests of this worker that are in no journal."""
        self.page.set_unrecorded(self.worker, count)

    def routes(self, model: str) -> Routes:
        """Endpoints that have the model, in any state; none when nobody knows it."""
        found = self._routes.get(model) or self._folded.get(model.casefold())
        if found is None and self.refresh():
            found = self._routes.get(model) or self._folded.get(model.casefold())
        return found or Routes()

    def key(self, secret: bytes) -> ApiKey | None:
        digest = hashlib.sha256(secret).digest()
        found = self._keys.get(digest)
        if found is None and self.refresh():
            found = self._keys.get(digest)
        return found

    def models(self) -> Mapping[str, list[Route]]:
        """Every name under which a model is listed, with the endpoints that have it."""
        listed: dict[str, list[Route]] = {}
        for endpoint in self.endpoints.values():
            for model in endpoint.facts.models:
                listed.setdefault(model.canonical or model.id, []).append(Route(endpoint, model))
        return listed

    def _install(self, loaded: Snapshot) -> None:
        endpoints: dict[str, Endpoint] = {}
        for facts in loaded.endpoints:
            try:
                endpoints[facts.id] = self._endpoint(facts)
            except ValueError as error:
                log.error("endpoint %s: %s; it is not served", facts.name, error)
        for gone in self.endpoints.keys() - endpoints.keys():
            self.endpoints[gone].pool.close()
        exact: dict[str, list[Route]] = {}
        folded: dict[str, list[Route]] = {}
        for endpoint in endpoints.values():
            by_name, by_folded = _names(endpoint)
            for name, route in by_name.items():
                exact.setdefault(name, []).append(route)
            for name, route in by_folded.items():
                folded.setdefault(name, []).append(route)
        self.endpoints = endpoints
        self._draining = [it for it in endpoints.values() if it.facts.operator_state == snapshot.DRAINING]
        self._routes = {name: Routes(routes) for name, routes in exact.items()}
        self._folded = {name: Routes(routes) for name, routes in folded.items()}
        self._keys = dict(_by_hash(loaded.api_keys))
        self.keys = {key.id: key for key in loaded.api_keys}
        self.snapshot = loaded
        self.pseudonym = PSEUDONYM + hashlib.sha256(loaded.database_id.encode()).hexdigest()[:16].encode()

    def _endpoint(self, facts: snapshot.Endpoint) -> Endpoint:
        """The endpoint known before, with new facts; its connections only stay if they lead to the same place."""
        known = self.endpoints.get(facts.id)
        if known is None:
            known = Endpoint(facts, self._pool(facts), self._open(facts), self._row)
            self._watch(known)
            return known
        if facts.base_url != known.facts.base_url:
            known.pool.close()
            known.pool = self._pool(facts)
            self._watch(known)
        if facts.base_url != known.facts.base_url or facts.kind != known.facts.kind:
            known.forget()
        known.learn(facts, self._open(facts))
        return known

    def _pool(self, facts: snapshot.Endpoint) -> Pool:
        return Pool(facts.base_url, self._sweeper)

    def _watch(self, endpoint: Endpoint) -> None:
        endpoint.pool.received = endpoint.received

    def _open(self, facts: snapshot.Endpoint) -> str | None:
        if facts.sealed_key is None:
            return None
        try:
            return self._sealer.open(facts.sealed_key)
        except Unsealable as error:
            log.error("endpoint %s: %s; it is asked without a key", facts.name, error)
            return None


def _by_hash(keys: Iterable[ApiKey]) -> Iterator[tuple[bytes, ApiKey]]:
    for key in keys:
        try:
            yield bytes.fromhex(key.hash), key
        except ValueError:
            log.error("API key %s: its hash cannot be read; it is not known", key.id)


def _names(endpoint: Endpoint) -> tuple[dict[str, Route], dict[str, Route]]:
    """Names an endpoint's models answer to, exact and casefolded."""
    exact, folded = snapshot.names(endpoint.facts.models)
    return (
        {name: Route(endpoint, model) for name, model in exact.items()},
        {name: Route(endpoint, model) for name, model in folded.items()},
    )
