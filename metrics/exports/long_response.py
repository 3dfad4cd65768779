"""Long-lived responses: live events and downloads, which continue after their view has returned. Limited per user."""

import threading
from weakref import WeakSet

from django.http import StreamingHttpResponse

MAX_STREAMS_PER_USER = 20  # of live events, of one user


class UserSlot:
    """A slot of a user. It is free again after `release`, or when this object is deleted with an unsent response."""

    def __init__(self, slots: "WeakSet[UserSlot]") -> None:
        self._slots = slots

    def release(self) -> None:
        self._slots.discard(self)


class UserSlots:
    """Open responses of each user. Thread-safe."""

    def __init__(self, limit: int) -> None:
        """Set the limit of open responses of one user."""
        self.limit = limit
        self._taken: dict[str, WeakSet[UserSlot]] = {}
        self._lock = threading.Lock()

    def is_full(self, user_id: str) -> bool:
        return len(self._taken.get(user_id, ())) >= self.limit

    def take(self, user_id: str) -> UserSlot | None:
        """Return a slot; None if this user is at the limit."""
        with self._lock:
            if self.is_full(user_id):
                return None
            self._taken = {name: taken for name, taken in self._taken.items() if taken}
            slots = self._taken.setdefault(user_id, WeakSet())
            slot = UserSlot(slots)
            slots.add(slot)
            return slot


class LongLivedResponse(StreamingHttpResponse):
    """Response that routerdash.web.asgi sends after Django has finished with its request, which frees the thread.

    Its content is an asynchronous iterator that needs neither that thread nor a database connection.
    """
