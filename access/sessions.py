"""Who is logged in: the sessions of all browsers, in control's memory and in a file of its own (access.session_file).

A cookie holds 256 random bits, signed; a session is found by their SHA-256. Only control checks sessions, so an end
holds from the next request on; what still runs under the session is told by the callbacks of `watch`. In processes
other than control, and in tests, sessions are in memory alone.
"""

import hashlib
import logging
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from access.models import User
from access.people import facts, remembered, tell
from access.session_file import NotWritten, Session, SessionFile
from gateway.bounds import SESSIONS_PER_USER, Hits
from gateway.config import Config

log = logging.getLogger(__name__)

SEEN_SECONDS = 60.0  # the last use of a session goes to disk this often
RETRY_SECONDS = 5.0  # until a file that could not be written is tried again
SWEEP_SECONDS = 5.0
MOST_PER_USER = 50  # the ones used longest ago are ended
MOST_AGENT = 300  # characters of a browser's name that are kept


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a session lives, in seconds: since its last use, and since its login."""

    idle: float = 7 * 86400.0
    admin_idle: float = 12 * 3600.0
    absolute: float = 14 * 86400.0


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request comes from."""

    address: str = ""
    agent: str = ""


NOBODY = Client()


def session_id(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


class Sessions:
    """Reads take no lock: a request must not wait for another one's write to the disk."""

    def __init__(self, limits: Limits | None = None, clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since 1970."""
        self.limits = limits or Limits()
        self.hits = Hits()
        self.problem = ""  # why the file is not what memory is
        self._clock = clock
        self._lock = threading.RLock()
        self._all: dict[str, Session] = {}
        self._watchers: defaultdict[str, list[Callable[[], object]]] = defaultdict(list)
        self._people: dict[str, User] = {}
        self._told: dict[str, str] = {}
        self._file: SessionFile | None = None
        self._seen: set[str] = set()  # used since the last write
        self._seen_at = self._tried_at = self._swept_at = clock()

    # Life of the process

    def open(self, path: Path, secret: str) -> dict[str, User]:
        """Go on from the file, and keep it from now on. The people in it, by their ids."""
        with self._lock:
            self._file = SessionFile(path, secret)
            found, told = self._file.read()
            self._all = {session.id: session for session in found}
            self._people = remembered(told)
            for session in found:  # as they are now; a changed role is not written into each session
                if session.user_id in self._people:
                    session.admin = self._people[session.user_id].is_admin
            self._told = {user_id: told[user_id] for user_id in self._people}
            self._sweep(self._clock())
            return dict(self._people)

    def close(self) -> None:
        """Write what is not written yet. Sessions go on after the next start."""
        with self._lock:
            self._write_seen()
            if self.problem:
                self._write_all()
            if self._file is not None:
                self._file.close()
            self._file = None

    def forget(self) -> None:
        """As if never opened; for tests."""
        with self._lock:
            self._all.clear()
            self._watchers.clear()
            self._seen.clear()
            self._people, self._told, self._file, self.problem = {}, {}, None, ""

    def tend(self) -> None:
        """To be called every second or so: ends what is over, writes last uses and what could not be written."""
        now = self._clock()
        with self._lock:
            if now - self._swept_at >= SWEEP_SECONDS:
                self._swept_at = now
                self._sweep(now)
            if now - self._seen_at >= SEEN_SECONDS:
                self._seen_at = now
                self._write_seen()
            if self.problem and now - self._tried_at >= RETRY_SECONDS:
                self._tried_at = now
                self._write_all()

    # Logins and requests

    def begin(self, user_id: str, stamp: str, *, admin: bool, client: Client = NOBODY, token: str = "") -> str:
        """A new session; what its cookie holds. It is valid even if the file does not take it (see `problem`)."""
        token = token or new_token()
        now = self._clock()
        made = Session(session_id(token), user_id, stamp, admin, now, now, client.address, client.agent[:MOST_AGENT])
        with self._lock:
            self._all[made.id] = made
            self._write(put=[made])
            if too_many := self.of(user_id)[MOST_PER_USER:]:
                self.hits.hit(SESSIONS_PER_USER)
                self.end(session.id for session in too_many)
        return token

    def get(self, found: str) -> Session | None:
        """The session of this id, if it is not over. Looking is no use of it."""
        session = self._all.get(found)
        return None if session is None or self._over(session, self._clock()) else session

    def use(self, token: str, client: Client = NOBODY) -> Session | None:
        """The session of a request, if it is not over."""
        session = self._all.get(session_id(token))
        if session is None:
            return None
        now = self._clock()
        if self._over(session, now):
            self.end([session.id])
            return None
        session.seen = now
        session.address = client.address or session.address
        session.agent = client.agent[:MOST_AGENT] or session.agent
        self._seen.add(session.id)
        return session

    def of(self, user_id: str) -> list[Session]:
        """A user's, the last used one first."""
        return sorted((it for it in self.all() if it.user_id == user_id), key=lambda it: -it.seen)

    def all(self) -> list[Session]:
        now = self._clock()
        with self._lock:
            return [session for session in self._all.values() if not self._over(session, now)]

    # Ends

    def end(self, ids: Iterable[str]) -> bool:
        """At once, for all that runs under them. True if the disk has it, so that no restart brings them back."""
        with self._lock:
            ended = [found for found in ids if self._all.pop(found, None) is not None]
            called = [call for found in ended for call in self._watchers.pop(found, ())]
            self._seen.difference_update(ended)
            written = not ended or self._write(end=ended) or self._remove_file()
        for call in called:
            call()
        return written

    def end_all_of(self, user_id: str, *, but: str = "") -> tuple[int, bool]:
        """All sessions of a user, except the one of this id. How many ended, and whether the disk has it."""
        with self._lock:
            found = [session.id for session in self.of(user_id) if session.id != but]
            return len(found), self.end(found)

    def new_secret(self, secret: str) -> None:
        """All sessions end, and those that an older copy of the file has too."""
        with self._lock:
            self.end(list(self._all))
            if self._file is not None:
                self._write_all(secret)

    def watch(self, found: str, ended: Callable[[], object]) -> Callable[[], None]:
        """Have `ended` called once, in any thread, when the session of this id ends. Returns what stops that."""
        with self._lock:
            alive = found in self._all
            if alive:
                self._watchers[found].append(ended)
        if not alive:
            ended()
        return lambda: self._unwatch(found, ended)

    def _unwatch(self, found: str, ended: Callable[[], object]) -> None:
        with self._lock:
            watchers = self._watchers.get(found, [])
            if ended in watchers:
                watchers.remove(ended)
            if not watchers:
                self._watchers.pop(found, None)

    # People

    def restamp(self, user_id: str, before: str, after: str) -> None:
        """The password is a new one, and the user's sessions go on."""
        with self._lock:
            changed = [session for session in self.of(user_id) if session.stamp == before]
            for session in changed:
                session.stamp = after
            self._write(put=changed)

    def follow(self, users: Mapping[str, User]) -> None:
        """Users were read from the database: those gone, and those with another password, have no sessions any more."""
        with self._lock:
            known = {it: users[it] for it in {session.user_id for session in self._all.values()} if it in users}
            stamps = {user_id: user.get_session_auth_hash() for user_id, user in known.items()}
            self.end([it.id for it in self._all.values() if stamps.get(it.user_id) != it.stamp])
            for session in self._all.values():
                session.admin = known[session.user_id].is_admin
            self._keep_people(users)

    def _keep_people(self, users: Mapping[str, User]) -> None:
        if self._file is None:
            return
        changed: dict[str, str | None] = {user_id: None for user_id in self._told if user_id not in users}
        for user_id, user in users.items():
            if user_id not in self._told or facts(user) != facts(self._people[user_id]):
                changed[user_id] = tell(user)
        if not changed:
            return
        self._people = dict(users)
        for user_id, told in changed.items():
            if told is None:
                del self._told[user_id]
            else:
                self._told[user_id] = told
        self._write(people=changed)

    # Under the lock

    def _over(self, session: Session, now: float) -> bool:
        idle = self.limits.admin_idle if session.admin else self.limits.idle
        return now - session.seen >= idle or now - session.created >= self.limits.absolute

    def _sweep(self, now: float) -> None:
        over = [session.id for session in self._all.values() if self._over(session, now)]
        if over:
            self.end(over)

    def _write_seen(self) -> None:
        seen, self._seen = self._seen, set()  # requests add to it without the lock
        if put := [self._all[found] for found in tuple(seen) if found in self._all]:
            self._write(put=put)

    def _write(
        self,
        *,
        put: Iterable[Session] = (),
        end: Iterable[str] = (),
        people: Mapping[str, str | None] | None = None,
    ) -> bool:
        """Does the file have it now?"""
        if self._file is None:
            return True
        if self.problem:
            return self._write_all()
        try:
            self._file.write(put=put, end=end, people=people)
        except NotWritten as error:
            self._fail(error)
            return False
        return True

    def _write_all(self, secret: str | None = None) -> bool:
        assert self._file is not None
        try:
            self._file.replace(self._all.values(), self._told, secret)
        except NotWritten as error:
            self._fail(error)
            return False
        if self.problem:
            log.info("sessions are on disk again")
        self.problem = ""
        return True

    def _fail(self, error: NotWritten) -> None:
        if not self.problem:
            log.error("sessions cannot be written to disk: %s; they are kept in memory, and it is tried again", error)
        self.problem = str(error)
        self._tried_at = self._clock()

    def _remove_file(self) -> bool:
        """An end that the disk does not take must not be undone by a restart: without the file, all log in again."""
        assert self._file is not None
        try:
            self._file.remove()
        except OSError as error:
            log.error("a session was ended, but its file can neither be written nor removed: %s", error)
            return False
        return True


def new_token() -> str:
    return secrets.token_urlsafe(32)


def limits_of(config: Config) -> Limits:
    hour, day = 3600.0, 86400.0
    return Limits(
        config.session_idle_hours * hour, config.admin_session_idle_hours * hour, config.session_max_days * day
    )


sessions = Sessions(limits_of(settings.ROUTERDASH))
