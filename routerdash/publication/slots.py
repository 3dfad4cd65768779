"""Slots of endpoints: their indexes in the live page."""

import logging
from collections.abc import Iterable, Mapping

from gateway.ipc.live_page import MAX_ENDPOINTS
from gateway.registry.schema import EndpointFacts

log = logging.getLogger(__name__)


class Slots:
    """Slots by endpoint id. An endpoint keeps its slot; slots of deleted endpoints are reused last."""

    def __init__(self, endpoints: Iterable[EndpointFacts] = ()) -> None:
        self._deleted: dict[str, int] = {}  # the oldest first
        self.by_id: Mapping[str, int] = {}  # replaced at each change: readers may iterate over the old one
        self.take_over(endpoints)

    def take_over(self, endpoints: Iterable[EndpointFacts]) -> None:
        """Use the slots of endpoints that are published."""
        self.by_id = {facts.id: facts.slot for facts in endpoints}
        used = set(self.by_id.values())
        self._deleted = {endpoint_id: slot for endpoint_id, slot in self._deleted.items() if slot not in used}
        self._free = iter(sorted(set(range(MAX_ENDPOINTS)) - used - set(self._deleted.values())))

    def of(self, endpoint_id: str, name: str) -> int | None:
        """Return the slot of an endpoint, which gets one if it has none yet; None if all are taken."""
        slot = self.by_id.get(endpoint_id)
        if slot is None:
            slot = self._deleted.pop(endpoint_id, None)
        else:
            return slot
        if slot is None:
            slot = next(self._free, None)
        if slot is None and self._deleted:
            slot = self._deleted.pop(next(iter(self._deleted)))
        if slot is None:
            log.error("more than %d endpoints: %s is not served", MAX_ENDPOINTS, name)
            return None
        self.by_id = {**self.by_id, endpoint_id: slot}
        return slot

    def release(self, endpoint_id: str) -> None:
        """Let others reuse the slot of a deleted endpoint."""
        slots = dict(self.by_id)
        slot = slots.pop(endpoint_id, None)
        if slot is not None:
            self._deleted[endpoint_id] = slot
            self.by_id = slots
