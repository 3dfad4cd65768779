import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from benchmarks.simulator import Simulator
from tests.router import RouterDash

pytest_plugins = ["tests.callers", "tests.browser"]

SERVER = os.environ.get("ROUTERDASH_TEST_DATABASE", "")


# What a test has that knows of the database.
DATABASE_FIXTURES = {"db", "transactional_db", "install", "router", "shared", "shared_router", "database_url"}


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


def new_database() -> str:
    """A fresh database's URL; empty for SQLite, which RouterDash makes by itself."""
    if not SERVER:
        return ""
    name = f"routerdash_test_{secrets.token_hex(6)}"
    with closing(psycopg.connect(SERVER, autocommit=True)) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return urlunsplit(urlsplit(SERVER)._replace(path=f"/{name}"))


def drop_database(url: str) -> None:
    if url:
        with closing(psycopg.connect(SERVER, autocommit=True)) as connection:
            connection.execute(f'DROP DATABASE "{urlsplit(url).path[1:]}" WITH (FORCE)')


Install = Callable[..., RouterDash]


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Make installations: `install(ROUTERDASH_WORKERS="2")`, not started yet. All are gone at the end."""
    made: list[RouterDash] = []

    def make(**environment: str) -> RouterDash:
        directory = tmp_path / f"installation{len(made)}"
        directory.mkdir()
        made.append(RouterDash(directory, new_database(), **environment))
        return made[-1]

    yield make
    for router in made:
        router.kill()
        drop_database(router.database_url)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The database of an installation that nothing was asked of, for others to begin with; None on PostgreSQL."""
    if SERVER:
        return None
    made = RouterDash(tmp_path_factory.mktemp("prepared"))
    try:
        assert made.start().stop() == 0
    finally:
        made.kill()
    return made.data_dir


@pytest.fixture
def router(install: Install, prepared: Path | None) -> RouterDash:
    """A running RouterDash on an empty database."""
    return begun(install(), prepared).start()


def begun(installation: RouterDash, prepared: Path | None) -> RouterDash:
    """With a copy of the prepared database: migrations and the administrator's password take a third of a start."""
    if prepared is not None:
        installation.data_dir.mkdir(mode=0o700)
        for file in (*prepared.glob("routerdash.sqlite3*"), *prepared.glob("*-key")):
            shutil.copy2(file, installation.data_dir / file.name)
    return installation


@pytest.fixture(scope="module")
def shared_router(tmp_path_factory: pytest.TempPathFactory, prepared: Path | None) -> Iterator[RouterDash]:
    """One running RouterDash for the tests of a module, which leave it as they found it or only look."""
    running = RouterDash(tmp_path_factory.mktemp("routerdash"), new_database())
    try:
        yield begun(running, prepared).start()
    finally:
        running.kill()
        drop_database(running.database_url)
