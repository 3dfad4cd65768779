from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from access.directory import access
from access.limits.reading import limit_changes
from endpoints.model_names.name_cache import model_names
from endpoints.models import EndpointModel
from endpoints.registry import registry
from gateway.base.config import Config
from gateway.ipc.live_page import LivePage
from routerdash.publication.follower import ChangeFollower
from routerdash.publication.publisher import Publisher
from tests.metrics.records import A, B
from tests.metrics.world import add_endpoint
from tests.routerdash.publication import store
from tests.routerdash.publication.learning import MODEL, Control
from tests.routerdash.publication.store import Stored


@pytest.fixture
def page(config: Config) -> LivePage:
    config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return LivePage(config.live_page_path)


Start = Callable[[], Publisher]


@pytest.fixture
def start(config: Config, page: LivePage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a publisher as control does, in the place of the one before."""
    made: list[Publisher] = []

    def begin() -> Publisher:
        for before in made:
            before.close()
        access.forget()
        registry.forget()
        model_names.forget()
        publisher = Publisher(config, page)
        made[:] = [publisher]
        monkeypatch.setattr(registry, "_listeners", [publisher.publish_endpoints])
        monkeypatch.setattr(model_names, "_listeners", [publisher.publish_model_names])
        monkeypatch.setattr(access, "_listeners", [publisher.publish_keys])
        monkeypatch.setattr(limit_changes, "_listeners", [publisher.publish_limits])
        publisher.synchronise()
        access.reload()
        registry.reload()
        model_names.reload()
        return publisher

    yield begin
    for publisher in made:
        publisher.close()


@pytest.fixture
def publisher(start: Start) -> Publisher:
    return start()


@pytest.fixture
def publish(publisher: Publisher, config: Config) -> Callable[[], Stored]:
    """Apply the change log, and return the store as a gateway reads it."""
    follower = ChangeFollower(publisher)

    def follow() -> Stored:
        follower.follow()
        return store.read(config)

    return follow


@pytest.fixture
def control(db: None, config: Config, start: Start, tmp_path: Path) -> Iterator[Control]:
    for endpoint_id, name in ((A, "a"), (B, "b")):
        made = add_endpoint(endpoint_id, name, status="online", endpoint_type="ollama")
        EndpointModel(endpoint=made, model_id=MODEL, canonical_name="tiny").save(force_insert=True)
    made_control = Control(config, start, tmp_path / "journal")
    made_control.learn()
    yield made_control
    made_control.world.close()
