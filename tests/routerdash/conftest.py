from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import Config, load
from tests.metrics.world import World, forget_figures


@pytest.fixture(autouse=True)
def _nothing_left(nothing_cached: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_figures(monkeypatch, tmp_path / "journal")


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
