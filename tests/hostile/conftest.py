from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hostile.measured import Bystander, MeasuredGateway, bystander, compile_turns


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Are the tests run in their full size (`make hostile`), not in the short form of `make test`?"""
    return bool(request.config.getoption("--hostile-full"))


@pytest.fixture(scope="session")
def turns_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_turns(tmp_path_factory.mktemp("turns"))


MakeMeasured = Callable[..., MeasuredGateway]


@pytest.fixture
def make_measured(tmp_path: Path, turns_library: Path) -> Iterator[MakeMeasured]:
    """Gateway processes of the test's own, not started yet; their turns are measured."""
    made: list[MeasuredGateway] = []

    def make(**environment: str) -> MeasuredGateway:
        directory = tmp_path / f"gateway{len(made)}"
        directory.mkdir()
        made.append(MeasuredGateway(directory, turns_library, **environment))
        return made[-1]

    yield make
    for process in made:
        process.kill()


@pytest.fixture
def measured_gateway(make_measured: MakeMeasured) -> MeasuredGateway:
    """A running gateway whose turns are measured, from the first request that a test sends."""
    gateway = make_measured()
    gateway.start()
    assert gateway.get("/v1/models").status == 200
    gateway.turns.clear()
    return gateway


@pytest.fixture
def well_behaved(measured_gateway: MeasuredGateway) -> Iterator[Bystander]:
    """A client of another address, asking for as long as the test runs."""
    with bystander(measured_gateway).asking() as asking:
        yield asking
