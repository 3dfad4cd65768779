"""The registry store: lookups of gateways, and changes."""

import hashlib
from collections.abc import Callable, Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.ipc.live_page import LivePage
from gateway.registry.reader import RegistryReader
from gateway.registry.schema import OFFLINE, ONLINE, Model, PublishedEndpoint, PublishedKey
from gateway.registry.writer import Changes, RegistryWriter
from tests.gateway.samples import make_endpoint

Benchmark = Callable[..., Any]  # pytest-benchmark's fixture

ENDPOINTS, MODELS, KEYS = 1000, 50, 100_000
SAME_NAME = 10  # endpoints that have a model of one name


def digest(number: int) -> bytes:
    return hashlib.sha256(b"key %d" % number).digest()


def keys() -> list[PublishedKey]:
    made = (PublishedKey(f"{n:036}", digest(n).hex(), ("openai.inference",), None, "1") for n in range(KEYS))
    return sorted(made, key=lambda key: key.hash)


def endpoints() -> list[PublishedEndpoint]:
    return [
        make_endpoint(f"endpoint-{n}", *(Model(f"org/model-{n // SAME_NAME}-{m}") for m in range(MODELS)), slot=n)
        for n in range(ENDPOINTS)
    ]


class Filled:
    """A store with many endpoints and keys, its writer, and a reader."""

    def __init__(self, folder: Path) -> None:
        page = LivePage(folder / "live-page")
        self.writer = RegistryWriter(folder / "registry", page)
        self.writer.rebuild("database-1", endpoints(), keys())
        self.reader = RegistryReader(folder / "registry", page, lambda update: None)
        self.reader.follow()
        self._facts = [endpoint.facts() for endpoint in endpoints()]
        self._turn = count()

    def change_health(self) -> None:
        """Publish another status of an endpoint, each time of the next one."""
        turn, number = divmod(next(self._turn), ENDPOINTS)
        facts = msgspec.structs.replace(self._facts[number], status=(OFFLINE, ONLINE)[turn % 2])
        self.writer.apply(Changes(endpoints={facts.id: facts}))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    made = Filled(tmp_path_factory.mktemp("registry"))
    yield made
    made.reader.close()
    made.writer.close()


def test_look_up_a_cached_key(benchmark: Benchmark, filled: Filled) -> None:
    filled.reader.key(digest(1))
    assert benchmark(filled.reader.key, digest(1)) is not None


def test_look_up_a_key_in_the_store(benchmark: Benchmark, filled: Filled) -> None:
    """Without the cache: each time another key's row."""
    digests = cycle([digest(n) for n in range(KEYS)])
    assert benchmark(lambda: filled.reader.key_facts(next(digests))) is not None


def test_look_up_an_unknown_key(benchmark: Benchmark, filled: Filled) -> None:
    assert benchmark(filled.reader.key, bytes(32)) is None


def test_look_up_a_name(benchmark: Benchmark, filled: Filled) -> None:
    assert len(benchmark(filled.reader.models_named, "org/model-7-7")) == SAME_NAME


def test_models_of_an_endpoint(benchmark: Benchmark, filled: Filled) -> None:
    endpoint = hashlib.sha256(b"endpoint-7").digest()[:16]
    assert len(benchmark(filled.reader.models_of, endpoint)) == MODELS


def test_compare_the_version(benchmark: Benchmark, filled: Filled) -> None:
    """What each request does."""
    filled.reader.follow()
    assert benchmark(filled.reader.follow) is False


def test_publish_a_status(benchmark: Benchmark, filled: Filled) -> None:
    before = filled.reader.version
    benchmark(filled.change_health)
    filled.reader.follow()
    assert filled.reader.version > before


def test_follow_a_status(benchmark: Benchmark, filled: Filled) -> None:
    assert benchmark.pedantic(filled.reader.follow, setup=filled.change_health, rounds=2000)  # type: ignore[attr-defined]


def test_rebuild(benchmark: Benchmark, tmp_path: Path) -> None:
    writer = RegistryWriter(tmp_path / "registry", LivePage(tmp_path / "live-page"))
    published, known = endpoints(), keys()
    benchmark.pedantic(lambda: writer.rebuild("database-1", published, known), rounds=3)  # type: ignore[attr-defined]
    state = writer.state()
    assert state is not None
    assert len(writer.endpoints()) == len(published)
    writer.close()
