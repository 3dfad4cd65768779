"""Sessions in memory and in their file."""

import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from access import stored_users
from access.models import Role, User
from access.sessions.file import SessionFile
from access.sessions.store import (
    MAX_PER_USER,
    RETRY_SECONDS,
    SEEN_SECONDS,
    SWEEP_SECONDS,
    Client,
    Limits,
    Sessions,
    session_id,
)
from gateway.base.sealing import Sealer

HOUR, DAY = 3600.0, 86400.0
SECRET = "a secret key"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.sqlite3"


Start = Callable[..., Sessions]


@pytest.fixture
def start(path: Path, clock: Clock) -> Iterator[Start]:
    """Start a store on the files that the previous process left."""
    started: list[Sessions] = []

    def start(secret: str = SECRET) -> Sessions:
        made = Sessions(Limits(), clock)
        started.append(made)
        made.open(path, secret)
        return made

    yield start
    for sessions in started:
        sessions.close()


def begin(sessions: Sessions, user_id: str = "u", *, admin: bool = False) -> str:
    return sessions.begin(user_id, "stamp", admin=admin, client=Client("192.0.2.1", "Firefox/1"))


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file of this process grow, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Life of a session


def test_a_session_is_found_only_by_its_token(start: Start) -> None:
    sessions = start()
    token = begin(sessions)
    session = sessions.use(token)
    assert session is not None
    assert (session.user_id, session.address, session.agent) == ("u", "192.0.2.1", "Firefox/1")
    assert sessions.use(token[:-1]) is None
    assert sessions.use(session.id) is None  # the session ID in the file and on pages gives no access


def test_a_session_survives_sigkill(start: Start) -> None:
    token = begin(start())
    assert start().use(token) is not None


def test_an_ended_session_stays_ended_after_sigkill(start: Start) -> None:
    sessions = start()
    token, other = begin(sessions), begin(sessions)
    assert sessions.end([session_id(token)])
    assert sessions.use(token) is None
    again = start()
    assert again.use(token) is None
    assert again.use(other) is not None


@pytest.mark.parametrize(("admin", "hours"), [(True, 12), (False, 7 * 24)])
def test_an_idle_session_expires(start: Start, clock: Clock, admin: bool, hours: int) -> None:
    sessions = start()
    token = begin(sessions, admin=admin)
    for _ in range(3):
        clock.now += hours * HOUR * 0.6
        assert sessions.use(token) is not None
    clock.now += hours * HOUR
    assert sessions.use(token) is None
    assert start().use(token) is None


def test_a_session_ends_at_its_maximum_age_even_if_it_is_in_use(start: Start, clock: Clock) -> None:
    sessions = start()
    token = begin(sessions)
    for _ in range(14 * 4 - 1):
        clock.now += DAY / 4
        assert sessions.use(token) is not None
    clock.now += DAY / 4
    assert sessions.use(token) is None


def test_watchers_are_notified_when_a_session_ends(start: Start, clock: Clock) -> None:
    sessions = start()
    notified: list[str] = []
    ended, over, left = begin(sessions), begin(sessions), begin(sessions)
    sessions.watch(session_id(ended), lambda: notified.append("ended"))
    sessions.watch(session_id(over), lambda: notified.append("over"))
    sessions.watch(session_id(left), lambda: notified.append("left"))()
    sessions.end([session_id(ended)])
    assert notified == ["ended"]
    clock.now += 15 * DAY
    sessions.maintain()
    assert notified == ["ended", "over"]
    sessions.watch(session_id(over), lambda: notified.append("at once"))
    assert notified[2:] == ["at once"]


def test_the_last_use_is_written_once_a_minute(start: Start, clock: Clock, path: Path) -> None:
    sessions = start()
    token = begin(sessions)
    began = clock.now

    def written() -> float:
        with closing(sqlite3.connect(path)) as file:
            return float(file.execute("SELECT seen FROM sessions").fetchone()[0])

    clock.now += SEEN_SECONDS / 2
    sessions.use(token)
    sessions.maintain()
    assert written() == began
    clock.now += SEEN_SECONDS / 2
    sessions.maintain()
    assert written() == began + SEEN_SECONDS / 2


def test_the_oldest_session_ends_at_the_limit_per_user(start: Start, clock: Clock) -> None:
    sessions = start()
    tokens = []
    for _ in range(MAX_PER_USER + 1):
        clock.now += 1
        tokens.append(begin(sessions))
    other = begin(sessions, "another")
    assert sessions.use(tokens[0]) is None
    assert all(sessions.use(token) for token in (*tokens[1:], other))


def test_all_others_of_a_user_end(start: Start) -> None:
    sessions = start()
    mine, elsewhere, other_users = begin(sessions), begin(sessions), begin(sessions, "another")
    assert sessions.end_all_of("u", excluded=session_id(mine)) == (1, True)
    assert sessions.use(elsewhere) is None
    assert sessions.use(mine)
    assert sessions.use(other_users)


# Users


def user(name: str = "vera", password: str = "hash", role: str = Role.VIEWER) -> User:
    return User(username=name, password=password, role=role)


def test_users_are_loaded_at_a_start_without_the_database(path: Path, clock: Clock) -> None:
    vera, ada = user(), user("ada", "bcrypt$other", Role.ADMIN)
    sessions = Sessions(Limits(), clock)
    sessions.open(path, SECRET)
    sessions.follow({str(person.pk): person for person in (vera, ada)})
    again = Sessions(Limits(), clock)
    again.open(path, SECRET)
    assert {key: (person.username, person.role, person.password) for key, person in again.stored_users().items()} == {
        str(vera.pk): ("vera", "viewer", "hash"),
        str(ada.pk): ("ada", "admin", "bcrypt$other"),
    }
    assert b"bcrypt$other" not in path.read_bytes()


def test_users_are_sealed_again_only_if_they_or_the_key_changed(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library that seals takes 8 MiB: a start with the same users does not load it."""
    key, other_key = Fernet.generate_key(), Fernet.generate_key()
    sealing: list[str] = []

    class Counting(Sealer):
        def seal(self, secret: str) -> str:
            sealing.append(secret)
            return super().seal(secret)

    def sealed(*keys: bytes, password: str = "bcrypt$one") -> list[str]:
        monkeypatch.setattr(stored_users, "sealer", lambda: Counting(keys))
        sealing.clear()
        sessions = Sessions(Limits(), clock)
        sessions.open(path, SECRET)
        sessions.follow(
            {str(vera.pk): User(id=vera.pk, username="vera", password=password, created_at=vera.created_at)}
        )
        sessions.close()
        return sealing

    vera = user()
    assert sealed(key) == ["bcrypt$one"]
    assert sealed(key) == []
    assert sealed(key, password="bcrypt$two") == ["bcrypt$two"]
    assert sealed(other_key, key, password="bcrypt$two") == ["bcrypt$two"]
    assert sealed(other_key, password="bcrypt$two") == []
    monkeypatch.setattr(stored_users, "sealer", lambda: Sealer([key]))
    sessions = Sessions(Limits(), clock)
    sessions.open(path, SECRET)
    assert sessions.stored_users() == {}


def test_sessions_end_with_the_user_or_the_password(path: Path, clock: Clock) -> None:
    sessions = Sessions(Limits(), clock)
    sessions.open(path, SECRET)
    vera, ada, bob = user(), user("ada"), user("bob")
    tokens = [
        sessions.begin(str(person.pk), person.get_session_auth_hash(), admin=False) for person in (vera, ada, bob)
    ]
    ada.password = "another"
    sessions.follow({str(person.pk): person for person in (vera, ada)})
    assert [sessions.use(token) is not None for token in tokens] == [True, False, False]
    again = Sessions(Limits(), clock)
    again.open(path, SECRET)
    assert set(again.stored_users()) == {str(vera.pk), str(ada.pk)}
    assert [again.use(token) is not None for token in tokens] == [True, False, False]


def test_a_new_administrator_gets_the_shorter_session_limit(start: Start, clock: Clock) -> None:
    sessions = start()
    vera = user()
    token = sessions.begin(str(vera.pk), vera.get_session_auth_hash(), admin=False)
    sessions.follow({str(vera.pk): vera})
    vera = User(id=vera.pk, username="vera", password="hash", role=Role.ADMIN)
    sessions.follow({str(vera.pk): vera})
    again = start()
    clock.now += 13 * HOUR
    assert sessions.use(token) is None
    assert again.use(token) is None


# The file


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "torn", "one page", "another release"])
def test_a_damaged_file_grants_no_access_and_prevents_no_login(start: Start, path: Path, damage: str) -> None:
    before = start()
    client = Client("192.0.2.1", "a browser with a long name " * 10)
    tokens = [before.begin(f"user {number}", "stamp", admin=False, client=client) for number in range(40)]
    before.close()
    content = path.read_bytes()
    assert len(content) > 3 * 4096
    harmed = {
        "missing": None,
        "empty": b"",
        "garbage": os.urandom(8192),
        "torn": content[:5000],
        "one page": content[:4096] + os.urandom(4096) + content[8192:],
        "another release": content[:60] + (99).to_bytes(4, "big") + content[64:],
    }[damage]
    path.unlink() if harmed is None else path.write_bytes(harmed)
    sessions = start()
    assert [token for token in tokens if sessions.use(token)] == []
    assert sessions.use(begin(sessions))
    assert start().all()


def test_sessions_of_another_secret_are_dropped(start: Start) -> None:
    token = begin(start("one secret"))
    assert start("another secret").use(token) is None
    assert start("one secret").use(token) is None  # they do not return with the old secret either


def test_a_new_secret_ends_all_sessions(start: Start) -> None:
    sessions = start()
    token = begin(sessions)
    sessions.new_secret("another secret")
    assert sessions.use(token) is None
    later = begin(sessions)
    assert start("another secret").use(later)


def test_only_the_owner_can_read_the_file(start: Start, path: Path) -> None:
    begin(start())
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_login_on_a_full_disk_works_and_is_written_later(start: Start, clock: Clock) -> None:
    sessions = start()
    with full_disk():
        token = begin(sessions)
    assert sessions.use(token)
    assert sessions.problem
    assert start().use(token) is None
    clock.now += 10
    sessions.maintain()
    assert not sessions.problem
    assert start().use(token)


def test_a_restart_never_restores_a_session_ended_on_a_full_disk(start: Start, clock: Clock) -> None:
    sessions = start()
    ended, other = begin(sessions), begin(sessions)
    with full_disk():
        assert sessions.end([session_id(ended)])
        assert start().use(ended) is None
        assert sessions.use(other)
    clock.now += 10
    sessions.maintain()
    again = start()
    assert again.use(ended) is None
    assert again.use(other)


def test_an_end_that_cannot_be_stored_raises(start: Start, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = start()
    token = begin(sessions)

    def refuse(self: SessionFile) -> None:
        raise PermissionError("the file system is read-only")

    monkeypatch.setattr(SessionFile, "remove", refuse)
    with full_disk():
        assert not sessions.end([session_id(token)])
    assert sessions.use(token) is None


def test_nothing_is_due_without_sessions(start: Start, clock: Clock) -> None:
    sessions = start()
    clock.now += DAY
    assert not sessions.is_due()


def test_expired_sessions_are_due_every_few_seconds(start: Start, clock: Clock) -> None:
    sessions = start()
    begin(sessions)
    assert not sessions.is_due()
    clock.now += SWEEP_SECONDS
    assert sessions.is_due()
    sessions.maintain()
    assert not sessions.is_due()


def test_last_uses_are_due_once_a_minute(start: Start, clock: Clock) -> None:
    sessions = start()
    token = begin(sessions)
    sessions.use(token)
    clock.now += SEEN_SECONDS - 1
    sessions.maintain()
    clock.now += 1
    assert sessions.is_due()
    sessions.maintain()
    assert not sessions.is_due()


def test_a_failed_write_is_due_soon(start: Start, clock: Clock) -> None:
    sessions = start()
    with full_disk():
        ended = begin(sessions)
        sessions._all.clear()  # a write is due although no session is
    assert sessions.problem
    clock.now += RETRY_SECONDS
    assert sessions.is_due()
    sessions.maintain()
    assert (sessions.problem, sessions.use(ended)) == ("", None)
