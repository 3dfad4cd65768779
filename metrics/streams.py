"""Answers that go on long after their view has returned: live events, downloads. Of each, one user may have so many."""

import threading
from weakref import WeakSet

from django.http import StreamingHttpResponse

MOST_STREAMS = 20  # of live events, of one user


class Place:
    """One of the places of a user. Given back by `leave`, or with this object where its answer was never sent."""

    def __init__(self, places: "WeakSet[Place]") -> None:
        self._places = places

    def leave(self) -> None:
        self._places.discard(self)


class Places:
    """Which users have how many such answers open. May be asked by several threads."""

    def __init__(self, most: int) -> None:
        """`most`: of one user."""
        self.most = most
        self._taken: dict[str, WeakSet[Place]] = {}
        self._lock = threading.Lock()

    def is_full(self, user_id: str) -> bool:
        return len(self._taken.get(user_id, ())) >= self.most

    def take(self, user_id: str) -> Place | None:
        """None if this user has as many as there may be."""
        with self._lock:
            if self.is_full(user_id):
                return None
            self._taken = {name: taken for name, taken in self._taken.items() if taken}
            places = self._taken.setdefault(user_id, WeakSet())
            place = Place(places)
            places.add(place)
            return place


class LastingResponse(StreamingHttpResponse):
    """Sent by routerdash.asgi once Django has finished with its request: until then, a request holds a thread.

    Its content is an asynchronous iterator that needs neither that thread nor a database connection of its own.
    """
