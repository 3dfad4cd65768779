"""Lists that are built once for each version of the registry store, and kept for the clients that may see the same."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from gateway.loop.time_slices import Slices, TimeSlices
from gateway.routing.lists.model_access import EVERYTHING, ModelAccess
from gateway.routing.roster import Roster

T = TypeVar("T")
MAX_LISTS = 16  # in memory, for API keys with different restrictions
MAX_BYTES = 64 << 20  # of these lists, besides the one that was built last


class BuiltList(ABC, Generic[T]):
    """Lists of models, each built once for a version of the store and restrictions of API keys, in time slices."""

    def __init__(self, roster: Roster, time_slices: TimeSlices) -> None:
        self._roster = roster
        self._time_slices = time_slices
        self._is_building = False
        self._built: dict[ModelAccess, tuple[int, T]] = {}  # with the version; the last used ones at the end

    @abstractmethod
    def build(self, roster: Roster, access: ModelAccess) -> Slices[T]:
        """Build the list in time slices."""

    @abstractmethod
    def size(self, built: T) -> int:
        """Return about how many bytes of memory a list takes."""

    async def current(self, access: ModelAccess = EVERYTHING) -> T:
        """Return the list of the models that a client may use, of the version at the time of the call or a later one.

        Requests share one build at a time, however often the version changes. Raises Refusal (503).
        """
        wanted = self._roster.version
        while True:
            built = self._built.pop(access, None)
            if built is not None and built[0] >= wanted:
                self._built[access] = built
                return built[1]
            if self._is_building:
                await self._time_slices.next()
                continue
            self._is_building = True
            building = self._roster.version
            try:
                new_list = await self._time_slices.start_now(self.build(self._roster, access))
            finally:
                self._is_building = False
            self._built[access] = building, new_list
            self._bound()

    def _bound(self) -> None:
        """Delete the least recently used lists beyond MAX_LISTS and MAX_BYTES, but not the one that was just built."""
        kept: dict[ModelAccess, tuple[int, T]] = {}
        room = MAX_BYTES
        for access, built in reversed(self._built.items()):
            room -= self.size(built[1])
            if kept and (room < 0 or len(kept) >= MAX_LISTS):
                break
            kept[access] = built
        self._built = dict(reversed(kept.items()))
