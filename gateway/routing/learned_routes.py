"""What a gateway has learned about its routes and requests, as adaptive routing needs it for each request.

The facts are in the registry store, where control publishes them. Rows and lengths are kept until they change.
"""

from collections.abc import Callable, Mapping

from gateway.ipc.live_page import EndpointWork
from gateway.registry.reader import NOT_MEASURED, UNKNOWN_LENGTHS, BoundedCache, StoreUnreadable
from gateway.registry.schema import Speeds, speed_key
from gateway.routing.adaptive import UNKNOWN_BYTES_PER_TOKEN, UNKNOWN_OUTPUT, Demand, row
from gateway.routing.endpoint import Endpoint
from gateway.routing.roster import Roster
from gateway.routing.routes import LearnedRoutes, Routes

CACHED_LENGTHS = 10_000  # of a model and an API key, in each of the two halves of the cache
_NOTHING_KEPT: Mapping[str, float] = {}


class Learned:
    """The learned facts of one gateway process."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._page = roster.page
        self._work = EndpointWork(roster.page)
        self._lengths: BoundedCache[tuple[str, str | None], tuple[float, float]] = BoundedCache(CACHED_LENGTHS)
        self._lengths_version = -1

    def routes(self, routes: Routes, kind: str) -> LearnedRoutes:
        """Return what was learned about these routes for a kind of request."""
        found = routes.learned.get(kind)
        if found is None or found.version != self._roster.learned_version:
            found = routes.learned[kind] = self._make(routes, kind)
        return found

    def _make(self, routes: Routes, kind: str) -> LearnedRoutes:
        speeds = [self._speeds(speed_key(it.endpoint.id, it.model.id, kind)) for it in routes]
        rows = [
            row(route.endpoint, measured, route.endpoint.facts.kind, speeds)
            for route, measured in zip(routes, speeds, strict=True)
        ]
        return LearnedRoutes(rows, {it.id: it for it in rows}, self._roster.learned_version)

    def _speeds(self, key: bytes) -> Speeds:
        try:
            return self._roster.reader.speeds(key)
        except StoreUnreadable:  # requests continue with what is in memory
            return NOT_MEASURED

    def demand(
        self, model: str, key_id: str | None, body_bytes: int, max_tokens: int | None, *, generates: bool
    ) -> Demand:
        """Return what a request is expected to need: prompt tokens from the size of its body, output tokens from the
        mean of the requests before it. One that generates nothing has no output tokens.
        """
        output, bytes_per_token = self._lengths_of(model, key_id)
        if not generates:
            output = 0.0
        elif max_tokens is not None and max_tokens < output:
            output = max_tokens
        return Demand(int(body_bytes / bytes_per_token) or 1, output, _NOTHING_KEPT)

    def _lengths_of(self, model: str, key_id: str | None) -> tuple[float, float]:
        """Return the mean output tokens, and the bytes of a body for each prompt token."""
        if self._lengths_version != self._roster.learned_version:
            self._lengths_version = self._roster.learned_version
            self._lengths.clear()
        of = model, key_id
        found = self._lengths.get(of)
        if found is None:
            try:
                lengths = self._roster.reader.lengths(model, key_id)
            except StoreUnreadable:
                lengths = UNKNOWN_LENGTHS
            output = UNKNOWN_OUTPUT if lengths.output is None else lengths.output
            found = output, lengths.bytes_per_token or UNKNOWN_BYTES_PER_TOKEN
            self._lengths.put(of, found)
        return found

    # What endpoints work on now. With one process, the endpoint's own counts are those of all.

    def counts(self) -> Callable[[Endpoint], tuple[int, int]] | None:
        """Return the function for the requests in flight and the pending prompt tokens of an endpoint, over all
        processes; None if this process is the only one.
        """
        return None if self._page.rows <= 1 else self._counts_of_all

    def _counts_of_all(self, endpoint: Endpoint) -> tuple[int, int]:
        slot = endpoint.facts.slot
        return self._page.in_flight(slot), self._work.pending(slot)

    def totals(self, endpoint: Endpoint, now: int) -> tuple[int, int, int, int]:
        """Return the requests in flight, the pending prompt tokens, the prompt tokens sent so far, and the integral of
        the requests in flight until the moment `now`, over all processes. The last two count modulo 2**32.
        """
        if self._page.rows <= 1:
            return endpoint.totals(now)
        return self._work.totals(endpoint.facts.slot, now)
