import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import programs
from tests.hostile.measured import MAX_MEMORY_MB, Bystander, MeasuredGateway, bystander, compile_library


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """True for the full size (`make hostile`), false for the short form of `make test`."""
    return bool(request.config.getoption("--hostile-full"))


@pytest.fixture(scope="session")
def iterations_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    programs.need("cc")
    return compile_library(tmp_path_factory.mktemp("iterations"))


@pytest.fixture(scope="session")
def used_memory() -> None:
    """Use as much memory once as a measured gateway may take.

    The host of a virtual machine provides a page when it is first used, and the CPU clock of the process counts that
    time: 9.6 µs a page instead of 1.8 µs, thus 60 ms more for 31 MiB.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, MAX_MEMORY_MB << 20, flags=flags).close()


MakeMeasured = Callable[..., MeasuredGateway]


@pytest.fixture
def make_measured(tmp_path: Path, iterations_library: Path, used_memory: None) -> Iterator[MakeMeasured]:
    """Create gateway processes, not started yet, whose loop iterations are measured."""
    made: list[MeasuredGateway] = []

    def make(**environment: str) -> MeasuredGateway:
        directory = tmp_path / f"gateway{len(made)}"
        directory.mkdir()
        made.append(MeasuredGateway(directory, iterations_library, **environment))
        return made[-1]

    yield make
    for process in made:
        process.kill()


@pytest.fixture
def measured_gateway(make_measured: MakeMeasured) -> MeasuredGateway:
    """A running gateway whose loop iterations are measured, from the first request that a test sends."""
    gateway = make_measured()
    gateway.start()
    assert gateway.get("/v1/models").status == 200
    gateway.iterations.clear()
    return gateway


@pytest.fixture
def well_behaved(measured_gateway: MeasuredGateway) -> Iterator[Bystander]:
    """A client of another address that sends requests while the test runs."""
    with bystander(measured_gateway).running() as client:
        yield client
