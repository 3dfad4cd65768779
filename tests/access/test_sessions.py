"""Sessions in memory and in their file."""

import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from access.models import Role, User
from access.session_file import SessionFile
from access.sessions import MOST_PER_USER, SEEN_SECONDS, Client, Limits, Sessions, session_id

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
def start(path: Path, clock: Clock) -> Start:
    """A process that begins, on what the one before has left."""

    def start(secret: str = SECRET) -> Sessions:
        made = Sessions(Limits(), clock)
        made.open(path, secret)
        return made

    return start


def begin(sessions: Sessions, user_id: str = "u", *, admin: bool = False) -> str:
    return sessions.begin(user_id, "stamp", admin=admin, client=Client("192.0.2.1", "Firefox/1"))


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Lives


def test_a_session_is_found_by_its_token_alone(start: Start) -> None:
    sessions = start()
    token = begin(sessions)
    found = sessions.use(token)
    assert found is not None
    assert (found.user_id, found.address, found.agent) == ("u", "192.0.2.1", "Firefox/1")
    assert sessions.use(token[:-1]) is None
    assert sessions.use(found.id) is None  # what the file and the pages know opens nothing


def test_a_session_outlives_a_kill(start: Start) -> None:
    token = begin(start())
    assert start().use(token) is not None


def test_an_ended_session_stays_ended_after_a_kill(start: Start) -> None:
    sessions = start()
    token, other = begin(sessions), begin(sessions)
    assert sessions.end([session_id(token)])
    assert sessions.use(token) is None
    again = start()
    assert again.use(token) is None
    assert again.use(other) is not None


@pytest.mark.parametrize(("admin", "hours"), [(True, 12), (False, 7 * 24)])
def test_a_session_ends_when_it_is_not_used(start: Start, clock: Clock, admin: bool, hours: int) -> None:
    sessions = start()
    token = begin(sessions, admin=admin)
    for _ in range(3):
        clock.now += hours * HOUR * 0.6
        assert sessions.use(token) is not None
    clock.now += hours * HOUR
    assert sessions.use(token) is None
    assert start().use(token) is None


def test_a_session_ends_for_good_however_much_it_is_used(start: Start, clock: Clock) -> None:
    sessions = start()
    token = begin(sessions)
    for _ in range(14 * 4 - 1):
        clock.now += DAY / 4
        assert sessions.use(token) is not None
    clock.now += DAY / 4
    assert sessions.use(token) is None


def test_what_runs_under_a_session_is_told_of_its_end(start: Start, clock: Clock) -> None:
    sessions = start()
    told: list[str] = []
    ended, over, left = begin(sessions), begin(sessions), begin(sessions)
    sessions.watch(session_id(ended), lambda: told.append("ended"))
    sessions.watch(session_id(over), lambda: told.append("over"))
    sessions.watch(session_id(left), lambda: told.append("left"))()
    sessions.end([session_id(ended)])
    assert told == ["ended"]
    clock.now += 15 * DAY
    sessions.tend()
    assert told == ["ended", "over"]
    sessions.watch(session_id(over), lambda: told.append("at once"))
    assert told[2:] == ["at once"]


def test_the_last_use_is_written_once_a_minute(start: Start, clock: Clock, path: Path) -> None:
    sessions = start()
    token = begin(sessions)
    began = clock.now

    def written() -> float:
        with closing(sqlite3.connect(path)) as file:
            return float(file.execute("SELECT seen FROM sessions").fetchone()[0])

    clock.now += SEEN_SECONDS / 2
    sessions.use(token)
    sessions.tend()
    assert written() == began
    clock.now += SEEN_SECONDS / 2
    sessions.tend()
    assert written() == began + SEEN_SECONDS / 2


def test_a_user_has_so_many_sessions_and_the_oldest_ends(start: Start, clock: Clock) -> None:
    sessions = start()
    tokens = []
    for _ in range(MOST_PER_USER + 1):
        clock.now += 1
        tokens.append(begin(sessions))
    other = begin(sessions, "another")
    assert sessions.use(tokens[0]) is None
    assert all(sessions.use(token) for token in (*tokens[1:], other))


def test_all_others_of_a_user_end(start: Start) -> None:
    sessions = start()
    mine, elsewhere, somebody = begin(sessions), begin(sessions), begin(sessions, "another")
    assert sessions.end_all_of("u", but=session_id(mine)) == (1, True)
    assert sessions.use(elsewhere) is None
    assert sessions.use(mine)
    assert sessions.use(somebody)


# People


def user(name: str = "vera", password: str = "hash", role: str = Role.VIEWER) -> User:
    return User(username=name, password=password, role=role)


def test_people_are_known_after_a_start_without_the_database(path: Path, clock: Clock) -> None:
    vera, ada = user(), user("ada", "bcrypt$other", Role.ADMIN)
    sessions = Sessions(Limits(), clock)
    sessions.open(path, SECRET)
    sessions.follow({str(it.pk): it for it in (vera, ada)})
    found = Sessions(Limits(), clock).open(path, SECRET)
    assert {key: (it.username, it.role, it.password) for key, it in found.items()} == {
        str(vera.pk): ("vera", "viewer", "hash"),
        str(ada.pk): ("ada", "admin", "bcrypt$other"),
    }
    assert b"bcrypt$other" not in path.read_bytes()


def test_a_user_who_is_gone_or_has_another_password_has_no_session(path: Path, clock: Clock) -> None:
    sessions = Sessions(Limits(), clock)
    sessions.open(path, SECRET)
    vera, ada, bob = user(), user("ada"), user("bob")
    tokens = [sessions.begin(str(it.pk), it.get_session_auth_hash(), admin=False) for it in (vera, ada, bob)]
    ada.password = "another"
    sessions.follow({str(it.pk): it for it in (vera, ada)})
    assert [sessions.use(token) is not None for token in tokens] == [True, False, False]
    again = Sessions(Limits(), clock)
    assert set(again.open(path, SECRET)) == {str(vera.pk), str(ada.pk)}
    assert [again.use(token) is not None for token in tokens] == [True, False, False]


def test_who_becomes_an_administrator_has_the_shorter_limit(start: Start, clock: Clock) -> None:
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
def test_a_damaged_file_lets_nobody_in_and_keeps_nobody_out(start: Start, path: Path, damage: str) -> None:
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


def test_sessions_of_another_secret_are_forgotten(start: Start) -> None:
    token = begin(start("one secret"))
    assert start("another secret").use(token) is None
    assert start("one secret").use(token) is None  # nor do they come back with it


def test_a_new_secret_ends_all_sessions(start: Start) -> None:
    sessions = start()
    token = begin(sessions)
    sessions.new_secret("another secret")
    assert sessions.use(token) is None
    later = begin(sessions)
    assert start("another secret").use(later)


def test_the_file_is_for_its_owner_alone(start: Start, path: Path) -> None:
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
    sessions.tend()
    assert not sessions.problem
    assert start().use(token)


def test_an_end_on_a_full_disk_is_never_undone_by_a_restart(start: Start, clock: Clock) -> None:
    sessions = start()
    ended, other = begin(sessions), begin(sessions)
    with full_disk():
        assert sessions.end([session_id(ended)])
        assert start().use(ended) is None
        assert sessions.use(other)
    clock.now += 10
    sessions.tend()
    again = start()
    assert again.use(ended) is None
    assert again.use(other)


def test_an_end_that_cannot_be_kept_is_said_to_be_none(
    start: Start, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = start()
    token = begin(sessions)

    def refuse(self: SessionFile) -> None:
        raise PermissionError("the file system is read-only")

    monkeypatch.setattr(SessionFile, "remove", refuse)
    with full_disk():
        assert not sessions.end([session_id(token)])
    assert sessions.use(token) is None
