import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import hypothesis
import psycopg
import pytest

from benchmarks.simulator import Simulator
from tests.router import RouterDash

pytest_plugins = ["tests.callers", "tests.browser"]

# A busy machine is no fault, hence no deadline. `make test` tries the same examples each time, so that it fails by what
# has changed alone; `make fuzz` goes looking for others.
_usual = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("routerdash", _usual, derandomize=True)
hypothesis.settings.register_profile("fuzz", _usual, max_examples=2000)
hypothesis.settings.load_profile("routerdash")

SERVER = os.environ.get("ROUTERDASH_TEST_DATABASE", "")


# What a test has that knows of the database.
DATABASE_FIXTURES = {"db", "transactional_db", "install", "router", "shared", "shared_router", "database_url"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hostile-full", action="store_true", help="run tests/hostile in full size")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On PostgreSQL only what may go otherwise there: on SQLite, which is tried first, everything is."""
    if SERVER and not config.option.keyword and not config.option.file_or_dir:
        kept = [item for item in items if _knows_the_database(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


def _knows_the_database(item: pytest.Item) -> bool:
    if item.get_closest_marker("one_database"):
        return False
    fixtures = set(getattr(item, "fixturenames", ()))
    return item.get_closest_marker("django_db") is not None or not fixtures.isdisjoint(DATABASE_FIXTURES)


def pytest_report_header() -> str:
    return f"database: {'PostgreSQL' if SERVER else 'SQLite'}"


@pytest.fixture(scope="session")
def simulator() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture
def sim(simulator: Simulator) -> Iterator[Simulator]:
    """The simulator, without endpoints at the beginning and at the end of a test."""
    yield simulator
    for endpoint in list(simulator.endpoints.values()):
        simulator.run(endpoint.close())
    simulator.endpoints.clear()


def new_database(like: str = "") -> str:
    """The URL of a fresh database, or of a copy of that at `like`; empty for SQLite, which RouterDash makes itself."""
    if not SERVER:
        return ""
    name = f"routerdash_test_{secrets.token_hex(6)}"
    template = f' TEMPLATE "{urlsplit(like).path[1:]}"' if like else ""
    with closing(psycopg.connect(SERVER, autocommit=True)) as connection:
        connection.execute(f'CREATE DATABASE "{name}"{template}')
    return urlunsplit(urlsplit(SERVER)._replace(path=f"/{name}"))


def drop_database(url: str) -> None:
    if url:
        with closing(psycopg.connect(SERVER, autocommit=True)) as connection:
            connection.execute(f'DROP DATABASE "{urlsplit(url).path[1:]}" WITH (FORCE)')


def installed(directory: Path, like: RouterDash | None = None, **environment: str) -> RouterDash:
    """An installation that is not started yet; with a copy of the database of another one, which is stopped."""
    made = RouterDash(directory, new_database(like.database_url if like else ""), **environment)
    if like is not None:
        made.data_dir.mkdir(mode=0o700)
        for file in (*like.data_dir.glob("routerdash.sqlite3*"), *like.data_dir.glob("*-key")):
            shutil.copy2(file, made.data_dir / file.name)
    return made


Install = Callable[..., RouterDash]


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Make installations: `install(ROUTERDASH_WORKERS="2")`, not started yet. All are gone at the end."""
    made: list[RouterDash] = []

    def make(like: RouterDash | None = None, **environment: str) -> RouterDash:
        directory = tmp_path / f"installation{len(made)}"
        directory.mkdir()
        made.append(installed(directory, like, **environment))
        return made[-1]

    yield make
    for router in made:
        router.kill()
        drop_database(router.database_url)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterDash]:
    """An installation of which nothing was asked, stopped: others begin with its database."""
    made = installed(tmp_path_factory.mktemp("prepared"))
    try:
        assert made.start().stop() == 0
        yield made
    finally:
        made.kill()
        drop_database(made.database_url)


@pytest.fixture
def begin(install: Install, prepared: RouterDash) -> Install:
    """As `install`, on a prepared database: migrations and the administrator's password take a third of a start."""
    return partial(install, prepared)


@pytest.fixture
def router(begin: Install) -> RouterDash:
    """A running RouterDash on an empty database."""
    return begin().start()


@pytest.fixture(scope="module")
def shared_router(tmp_path_factory: pytest.TempPathFactory, prepared: RouterDash) -> Iterator[RouterDash]:
    """One running RouterDash for the tests of a module, which leave it as they found it or only look."""
    running = installed(tmp_path_factory.mktemp("routerdash"), prepared)
    try:
        yield running.start()
    finally:
        running.kill()
        drop_database(running.database_url)


@pytest.fixture
def emptied(shared_router: RouterDash) -> Iterator[RouterDash]:
    """The running RouterDash of a module, whose endpoints a test leaves behind are deleted; its figures go on."""
    yield shared_router
    for row in shared_router.get("/api/endpoints").json()["endpoints"]:
        assert shared_router.request("DELETE", f"/api/endpoints/{row['id']}").status == 204
