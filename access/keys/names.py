"""Names of a few API keys, remembered for pages that show figures from memory: there may be a million keys."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping

from django.db import Error, close_old_connections

from access.models import ApiKey

log = logging.getLogger(__name__)

MAX_NAMES = 1000
FRESH_SECONDS = 30.0  # names are read again after this time at the latest
RETRY_SECONDS = 5.0  # after a failed read, during which the remembered names are used


class KeyNames:
    """Names by id. Known names are not read from the database again until a key changes (`expire`)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._names: dict[str, str | None] = {}  # None: there is no such key
        self._read_at = float("-inf")  # when the oldest of them was read
        self._failed_at = float("-inf")

    def of(self, ids: Iterable[str]) -> Mapping[str, str]:
        """Return the names of these keys, without keys that do not exist. Never raises django.db.Error."""
        needed = [key for key in ids if key]
        with self._lock:
            if self._clock() - self._read_at >= FRESH_SECONDS or len(self._names) > MAX_NAMES:
                self._read(needed, afresh=True)
            elif missing := [key for key in needed if key not in self._names]:
                self._read(missing)
            return {key: name for key in needed if (name := self._names.get(key)) is not None}

    def expire(self) -> None:
        """Read the names again at the next call: a key was changed."""
        self._read_at = float("-inf")

    def _read(self, ids: list[str], *, afresh: bool = False) -> None:
        if self._clock() - self._failed_at < RETRY_SECONDS:
            return
        now = self._clock()
        try:
            names = {str(key): name for key, name in ApiKey.objects.filter(pk__in=ids).values_list("pk", "name")}
        except Error as error:
            self._failed_at = self._clock()
            log.warning("names of API keys cannot be read, the known ones stay: %s", error)
            close_old_connections()
            return
        if afresh:
            self._names.clear()
            self._read_at = now
        self._names |= {key: names.get(key) for key in ids}
