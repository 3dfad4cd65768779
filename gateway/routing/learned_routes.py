"""What a gateway has learned about its routes and requests, as adaptive routing needs it for each request.

The facts are in the registry store, where control publishes them. Rows and lengths are kept until they change.
"""

from collections.abc import Mapping

from gateway.ipc.live_page import EndpointWork
from gateway.registry.reader import NOT_MEASURED, UNKNOWN_LENGTHS, StoreUnreadable
from gateway.registry.schema import Speeds, speed_key
from gateway.routing.adaptive import UNKNOWN_BYTES_PER_TOKEN, UNKNOWN_OUTPUT, Demand, row
from gateway.routing.endpoint import Endpoint
from gateway.routing.roster import Roster
from gateway.routing.routes import LearnedRoutes, Routes

CACHED_LENGTHS = 20_000  # of a model and an API key
_new = tuple.__new__
NOTHING_KEPT: Mapping[str, float] = {}


class LearnedFacts:
    """The learned facts of one gateway process."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._page = roster.page
        self._work = EndpointWork(roster.page)
        self._lengths: dict[tuple[str, str | None], tuple[float, float, float]] = {}
        self._lengths_version = -1
        self.alone = False  # no other process has requests, so that an endpoint's own counts are those of all
        self.follow()

    def routes(self, routes: Routes, kind: str) -> LearnedRoutes:
        """Read what was learned about these routes for a kind of request, and keep it as `routes.learned[kind]`.

        It is out of date if its version is not that of the roster.
        """
        speeds = [self._speeds(speed_key(it.endpoint.id, it.model.id, kind)) for it in routes]
        rows = [
            row(route.endpoint, measured, route.endpoint.facts.kind, speeds)
            for route, measured in zip(routes, speeds, strict=True)
        ]
        kept = {route.endpoint.id: measured.kept for route, measured in zip(routes, speeds, strict=True)}
        found = LearnedRoutes(rows, {it.id: it for it in rows}, kept, self._roster.learned_version)
        routes.learned[kind] = found
        return found

    def _speeds(self, key: bytes) -> Speeds:
        try:
            return self._roster.reader.speeds(key)
        except StoreUnreadable:  # requests continue with what is in memory
            return NOT_MEASURED

    def demand(
        self,
        model: str,
        key_id: str | None,
        body_bytes: int,
        max_tokens: int | None,
        *,
        generates: bool,
    ) -> Demand:
        """Return what a request is expected to need: prompt tokens from the size of its body, output tokens from the
        mean of the requests before it. One that generates nothing has no output tokens.
        """
        if self._lengths_version != self._roster.learned_version or len(self._lengths) > CACHED_LENGTHS:
            self._lengths_version = self._roster.learned_version
            self._lengths.clear()
        found = self._lengths.get((model, key_id))
        if found is None:
            found = self._lengths[model, key_id] = self._read_lengths(model, key_id)
        output, bytes_per_token, typical = found
        if not generates:
            output = typical = 0.0
        elif max_tokens is not None and max_tokens < output:
            output = max_tokens
        # Demand(…) would call a function in between.
        return _new(Demand, (int(body_bytes / bytes_per_token) or 1, output, NOTHING_KEPT, 0.0, typical))

    def _read_lengths(self, model: str, key_id: str | None) -> tuple[float, float, float]:
        """Return the mean output tokens of a key, the bytes of a body for each prompt token, and the mean output tokens
        of all keys.
        """
        try:
            lengths = self._roster.reader.lengths(model, key_id)
            typical = self._roster.reader.lengths(model, None).output
        except StoreUnreadable:
            lengths, typical = UNKNOWN_LENGTHS, None
        output = UNKNOWN_OUTPUT if lengths.output is None else lengths.output
        return output, lengths.bytes_per_token or UNKNOWN_BYTES_PER_TOKEN, output if typical is None else typical

    # What endpoints work on now

    def follow(self) -> None:
        """Notice other processes. Called several times a second."""
        self.alone = self._page.rows <= 1

    def counts_of_all(self, endpoint: Endpoint) -> tuple[int, int]:
        """Return the requests in flight and the pending prompt tokens of an endpoint, over all processes."""
        slot = endpoint.facts.slot
        return self._page.in_flight(slot), self._work.pending(slot)

    def totals(self, endpoint: Endpoint, now: int) -> tuple[int, int, int, int]:
        """Return the requests in flight, the pending prompt tokens, the prompt tokens sent so far, and the integral of
        the requests in flight until the moment `now`, over all processes. The last two count modulo 2**32.
        """
        return self._work.totals(endpoint.facts.slot, now)
