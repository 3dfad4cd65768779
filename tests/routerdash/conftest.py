from collections.abc import Iterator
from pathlib import Path

import pytest

from access.directory import access
from access.models import READ_ENDPOINTS, User
from endpoints.registry import registry
from gateway.config import Config, load
from tests.access.people import Api, key_for, make_admin, make_user, session_of, with_key
from tests.metrics.world import World, forget_everything


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    forget_everything(monkeypatch, tmp_path / "journal")
    yield
    access.forget()
    registry.forget()


@pytest.fixture
def teller(tmp_path: Path) -> Iterator[World]:
    """A world that the API and the pages tell of."""
    made = World(tmp_path / "journal", process_wide=True)
    yield made
    made.close()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Settings of an installation that is not there yet."""
    return load({"ROUTERDASH_DATA_DIR": str(tmp_path / "data"), "ROUTERDASH_TIME_ZONE": "UTC"})


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
    return with_key(key_for(admin, READ_ENDPOINTS))


@pytest.fixture
def anybody(db: None) -> Api:
    return Api()
