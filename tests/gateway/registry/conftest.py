import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.ipc.live_page import LivePage
from gateway.registry import folders
from gateway.registry.kinds import ENDPOINTS, KEYS, MODELS
from gateway.registry.reader import RegistryReader, Update
from gateway.registry.schema import EndpointFacts, PublishedEndpoint, PublishedKey, ref
from gateway.registry.store import FILE
from gateway.registry.writer import Changes, RegistryWriter

DATABASE = "database-1"


def make_key(name: str, *permissions: str, expires_at: float | None = None) -> PublishedKey:
    return PublishedKey(name, digest(name).hex(), permissions, expires_at, "owner")


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


class Known:
    """A reader, and what its updates have told."""

    def __init__(self, root: Path, page: LivePage) -> None:
        self.updates: list[Update] = []
        self.endpoints: dict[bytes, EndpointFacts] = {}
        self.reader = RegistryReader(root, page, self._update)

    def _update(self, update: Update) -> None:
        self.updates.append(update)
        if update.complete:
            self.endpoints.clear()
        for key, facts in update.endpoints.items():
            if facts is None:
                self.endpoints.pop(key, None)
            else:
                self.endpoints[key] = facts

    def facts(self, endpoint_id: str) -> EndpointFacts | None:
        return self.endpoints.get(ref(endpoint_id))

    def names(self) -> list[str]:
        return sorted(facts.name for facts in self.endpoints.values())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def page(tmp_path: Path) -> LivePage:
    return LivePage(tmp_path / "live-page")


@pytest.fixture
def writer(root: Path, page: LivePage) -> Iterator[RegistryWriter]:
    """A writer of an empty store."""
    made = RegistryWriter(root, page)
    made.rebuild(DATABASE, {})
    yield made
    made.close()


@pytest.fixture
def known(root: Path, page: LivePage) -> Iterator[Known]:
    made = Known(root, page)
    yield made
    made.reader.close()


@pytest.fixture
def apply(writer: RegistryWriter) -> Callable[..., int]:
    """Publish endpoints and keys, and delete endpoints by id."""

    def apply_changes(*objects: object, deleted: tuple[str, ...] = (), revoked: tuple[str, ...] = ()) -> int:
        changes = Changes()
        for one in objects:
            if isinstance(one, PublishedKey):
                changes.put(KEYS, {one.hash: one})
            else:
                assert isinstance(one, PublishedEndpoint)
                changes.put(ENDPOINTS, {one.id: one.facts()})
                changes.put(MODELS, {one.id: one.models})
        changes.put(ENDPOINTS, dict.fromkeys(deleted))
        changes.put(KEYS, {digest(name).hex(): None for name in revoked})
        return writer.apply(changes)

    return apply_changes


def file_of(root: Path) -> Path:
    return folders.folder(root, folders.current(root)) / FILE
