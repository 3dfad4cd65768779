from collections.abc import Iterator
from pathlib import Path

import pytest

from access.directory import access
from access.models import READ_ENDPOINTS, User
from endpoints.models import Endpoint
from endpoints.registry import registry
from tests.access.people import Api, key_for, make_admin, make_user, session_of, with_key
from tests.metrics.records import A, B
from tests.metrics.world import World, add_endpoint, forget_everything


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    forget_everything(monkeypatch, tmp_path / "journal")
    yield
    access.forget()
    registry.forget()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "journal")
    yield made
    made.close()


@pytest.fixture
def teller(tmp_path: Path) -> Iterator[World]:
    """A world that the API and the pages tell of."""
    made = World(tmp_path / "journal", process_wide=True)
    yield made
    made.close()


@pytest.fixture
def endpoints(db: None) -> tuple[Endpoint, Endpoint]:
    return add_endpoint(A, "a"), add_endpoint(B, "b")


@pytest.fixture
def admin(db: None) -> User:
    return make_admin()


@pytest.fixture
def as_admin(admin: User) -> Api:
    return session_of(admin)


@pytest.fixture
def as_viewer(db: None) -> Api:
    return session_of(make_user())


@pytest.fixture
def script(admin: User) -> Api:
    """A client with a key that may read endpoints."""
    return with_key(key_for(admin, READ_ENDPOINTS))


@pytest.fixture
def anybody(db: None) -> Api:
    return Api()
