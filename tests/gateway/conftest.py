import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.base.config import Config, load
from gateway.base.sealing import Sealer
from gateway.ipc.live_page import LivePage
from gateway.registry import schema
from gateway.registry.store import RegistryStore
from gateway.routing.roster import Roster
from gateway.upstream.pool import Sweeper
from tests.gateway.process import GatewayProcess
from tests.gateway.publishing import PublishedRegistry
from tests.gateway.samples import KEY


@pytest.fixture(scope="session")
def running_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One process for all tests that leave no state behind: each publishes its own model."""
    directory = tmp_path_factory.mktemp("gateway")
    process = GatewayProcess(
        directory, ROUTERDASH_ALLOWED_HOSTS="router.example,.below.example", ROUTERDASH_TRUSTED_PROXIES="127.0.0.1"
    )
    process.start()
    yield process
    log = process.log()
    process.end()
    assert "Traceback" not in log


@pytest.fixture
def gateway(running_gateway: GatewayProcess) -> GatewayProcess:
    """The shared process, after all its records were read."""
    running_gateway.records()
    return running_gateway


MakeGateway = Callable[..., GatewayProcess]


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[MakeGateway]:
    """Create gateway processes for one test, not started yet."""
    made: list[GatewayProcess] = []

    def make(**environment: str) -> GatewayProcess:
        directory = tmp_path / f"gateway{len(made)}"
        directory.mkdir()
        made.append(GatewayProcess(directory, **environment))
        return made[-1]

    yield make
    for process in made:
        process.end()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load({"ROUTERDASH_DATA_DIR": str(tmp_path)})


@pytest.fixture
def sweeper() -> Iterator[Sweeper]:
    """A sweeper whose loop never runs, for pools without connections."""
    loop = asyncio.new_event_loop()
    made = Sweeper(loop)
    yield made
    made.stop()
    loop.close()


@pytest.fixture(autouse=True)
def _closed_stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the registry stores that a test leaves open: Python 3.13 warns of each."""
    opened: list[RegistryStore] = []
    configure = RegistryStore._configure

    def remember(store: RegistryStore, **options: bool) -> None:
        opened.append(store)
        configure(store, **options)

    monkeypatch.setattr(RegistryStore, "_configure", remember)
    yield
    for store in opened:
        store.close()


class Control:
    """Publishes endpoints and API keys as control does."""

    def __init__(self, config: Config) -> None:
        self.registry = PublishedRegistry(config)
        self.page = self.registry.page

    def publish(
        self,
        *endpoints: schema.PublishedEndpoint,
        api_keys: tuple[schema.PublishedKey, ...] = (),
        database_id: str = "database-1",
    ) -> None:
        self.registry.publish(endpoints, api_keys, database_id)


@pytest.fixture
def control(config: Config) -> Control:
    return Control(config)


@pytest.fixture
def roster(config: Config, control: Control, sweeper: Sweeper) -> Roster:
    page = LivePage(config.live_page_path)
    return Roster(config.registry_dir, page, page.claim_row(), Sealer([KEY]), sweeper, measures=True)
