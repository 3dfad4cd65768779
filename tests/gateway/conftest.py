import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import snapshot
from gateway.config import Config, load
from gateway.livepage import LivePage
from gateway.roster import Roster
from gateway.sealing import Sealer
from gateway.upstream import Sweeper
from tests.gateway.process import GatewayProcess
from tests.gateway.samples import KEY, make_snapshot


@pytest.fixture(scope="session")
def running_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One process for all tests that leave it as they found it: each publishes a model of its own."""
    directory = tmp_path_factory.mktemp("gateway")
    process = GatewayProcess(
        directory, ROUTERDASH_ALLOWED_HOSTS="router.example,.below.example", ROUTERDASH_TRUSTED_PROXIES="127.0.0.1"
    )
    process.start()
    yield process
    log = process.log()
    process.kill()
    assert "Traceback" not in log


@pytest.fixture
def gateway(running_gateway: GatewayProcess) -> GatewayProcess:
    """The running process, all its records read."""
    running_gateway.records()
    return running_gateway


MakeGateway = Callable[..., GatewayProcess]


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[MakeGateway]:
    """Processes of the test's own, not started yet."""
    made: list[GatewayProcess] = []

    def make(**environment: str) -> GatewayProcess:
        directory = tmp_path / f"gateway{len(made)}"
        directory.mkdir()
        made.append(GatewayProcess(directory, **environment))
        return made[-1]

    yield make
    for process in made:
        process.kill()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load({"ROUTERDASH_DATA_DIR": str(tmp_path)})


@pytest.fixture
def sweeper() -> Iterator[Sweeper]:
    """One whose loop never runs: for pools that connect to nothing."""
    loop = asyncio.new_event_loop()
    made = Sweeper(loop)
    yield made
    made.stop()
    loop.close()


class Control:
    """Publishes as control does."""

    def __init__(self, config: Config) -> None:
        self.path = config.snapshot_path
        self.page = LivePage(config.live_page_path)

    def publish(self, *endpoints: snapshot.Endpoint, **fields: Any) -> None:
        version = self.page.version + 1
        snapshot.save(self.path, make_snapshot(*endpoints, version=version, **fields))
        self.page.version = version


@pytest.fixture
def control(config: Config) -> Control:
    return Control(config)


@pytest.fixture
def roster(config: Config, control: Control, sweeper: Sweeper) -> Roster:
    return Roster(config.snapshot_path, LivePage(config.live_page_path), Sealer([KEY]), sweeper)
