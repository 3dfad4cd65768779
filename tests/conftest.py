import gc
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
from django.db import connection
from django.utils import translation
from pytest_django import DjangoDbBlocker

from benchmarks.simulator import Simulator
from tests import programs
from tests.router import RouterDash

pytest_plugins = ["tests.django_fixtures", "tests.browser"]

# No deadline, because a busy machine is not a failure. `make test` tries the same examples each time, so that only a
# change of the code makes it fail. `make fuzz` tries new examples, `make test-fast` a few of the same.
_usual = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("routerdash", _usual, derandomize=True)
hypothesis.settings.register_profile("fast", _usual, derandomize=True, max_examples=15)
hypothesis.settings.register_profile("fuzz", _usual, max_examples=2000)
hypothesis.settings.load_profile("routerdash")

SERVER = os.environ.get("ROUTERDASH_TEST_DATABASE", "")


# The millions of objects of collected tests live until the end. The garbage collector, which searches them again and
# again, would take a sixth of the time of collecting them.
gc.disable()

# Fixtures of tests that depend on the database.
DATABASE_FIXTURES = {"db", "transactional_db", "install", "router", "shared", "shared_router", "database_url"}

# Rare tests: of benchmarks, and long runs that kill processes at random. `make test` leaves them out.
RARE_FOLDERS = {"benchmarks", "image", "storm", "torture"}
# Tests of whole installations, with browsers, other programs or many processes; `make test-fast` leaves them out.
SLOW_FOLDERS = {"adoption", "benchmarks", "e2e", "hostile", "image", "storm", "torture", "upgrades"}
SLOW_FIXTURES = {"install", "prepared", "browser", "router"}
# Tests that measure time or memory, or kill processes at once; `make coverage` runs them without coverage's tracer.
UNMEASURED_FOLDERS = {"benchmarks", "hostile", "image", "storm", "torture"}
GATEWAY_FIXTURES = {"gateway", "make_gateway", "running_gateway"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hostile-full", action="store_true", help="run tests/hostile in full size")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark slow tests. On PostgreSQL, keep only the tests that depend on the database: all others ran on SQLite."""
    for item in items:
        folders = item.path.relative_to(config.rootpath).parts
        fixtures = getattr(item, "fixturenames", ())
        if SLOW_FOLDERS.intersection(folders) or SLOW_FIXTURES.intersection(fixtures):
            item.add_marker("slow")
        if RARE_FOLDERS.intersection(folders):
            item.add_marker("rare")
        if UNMEASURED_FOLDERS.intersection(folders):
            item.add_marker("unmeasured")
        if GATEWAY_FIXTURES.intersection(fixtures) or hasattr(getattr(item, "module", None), "GatewayProcess"):
            item.add_marker("gateway_process")
        if "hostile" in folders and config.option.hostile_full and config.option.timeout:
            # The timeouts of modules are those of the short form.
            item.add_marker(pytest.mark.timeout(config.option.timeout), append=False)
    if _selects_by_database(config):
        kept = [item for item in items if _depends_on_the_database(item)]
        config.hook.pytest_deselected(items=list(set(items).difference(kept)))
        items[:] = kept


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        programs.need(*marker.args)


def _selects_by_database(config: pytest.Config) -> bool:
    return bool(SERVER) and not config.option.keyword and not config.option.file_or_dir


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """On PostgreSQL, leave out the tests of the gateway, which has no database, before they take time to collect."""
    return (collection_path == Path(__file__).parent / "gateway" and _selects_by_database(config)) or None


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def _depends_on_the_database(item: pytest.Item) -> bool:
    if item.get_closest_marker("one_database"):
        return False
    fixtures = set(getattr(item, "fixturenames", ()))
    return item.get_closest_marker("django_db") is not None or not fixtures.isdisjoint(DATABASE_FIXTURES)


def pytest_report_header() -> str:
    return f"database: {'PostgreSQL' if SERVER else 'SQLite'}"


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Make and remove the test database. PostgreSQL removes none that a thread of an earlier test is connected to."""
    yield
    if SERVER:
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


@pytest.fixture(autouse=True)
def _language() -> Iterator[None]:
    """Drop the language that a request of Django's test client has activated."""
    yield
    translation.deactivate()


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
    """Return the URL of a fresh database, or of a copy of that at `like`; empty for SQLite, whose file RouterDash
    creates.
    """
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
    """An installation that is not started yet, with a copy of the database of another one, which is stopped."""
    made = RouterDash(directory, new_database(like.database_url if like else ""), **environment)
    if like is not None:
        made.data_dir.mkdir(mode=0o700)
        for file in (*like.data_dir.glob("routerdash.sqlite3*"), *like.data_dir.glob("*-key")):
            shutil.copy2(file, made.data_dir / file.name)
    return made


Install = Callable[..., RouterDash]


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Create installations that are not started yet: `install(ROUTERDASH_WORKERS="2")`. All are stopped at the end."""
    made: list[RouterDash] = []

    def make(like: RouterDash | None = None, **environment: str) -> RouterDash:
        directory = tmp_path / f"installation{len(made)}"
        directory.mkdir()
        made.append(installed(directory, like, **environment))
        return made[-1]

    yield make
    for router in made:
        router.end()
        drop_database(router.database_url)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterDash]:
    """A stopped installation that served no request: other installations start with a copy of its database."""
    made = installed(tmp_path_factory.mktemp("prepared"))
    try:
        assert made.start().stop() == 0
        yield made
    finally:
        made.kill()
        drop_database(made.database_url)


@pytest.fixture
def begin(install: Install, prepared: RouterDash) -> Install:
    """Create installations like `install`, on a prepared database: that saves a third of the time of a start."""
    return partial(install, prepared)


@pytest.fixture
def router(request: pytest.FixtureRequest) -> RouterDash:
    """A running RouterDash on an empty database, or with the marker `shared` that of the module, without endpoints."""
    if request.node.get_closest_marker("shared"):
        running: RouterDash = request.getfixturevalue("emptied")
        return running
    begin: Install = request.getfixturevalue("begin")
    return begin().start()


@pytest.fixture(scope="module")
def shared_router(tmp_path_factory: pytest.TempPathFactory, prepared: RouterDash) -> Iterator[RouterDash]:
    """One running RouterDash for the tests of a module, which only read or restore its state."""
    running = installed(tmp_path_factory.mktemp("routerdash"), prepared)
    try:
        yield running.start()
    finally:
        running.end()
        drop_database(running.database_url)


@pytest.fixture
def emptied(shared_router: RouterDash) -> Iterator[RouterDash]:
    """The running RouterDash of a module. Endpoints that a test leaves are deleted; the figures continue."""
    yield shared_router
    for row in shared_router.get("/api/endpoints").json()["endpoints"]:
        assert shared_router.request("DELETE", f"/api/endpoints/{row['id']}").status == 204
