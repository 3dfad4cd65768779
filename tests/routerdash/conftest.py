from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.base.config import Config, load
from tests.metrics.world import World, forget_figures


@pytest.fixture(autouse=True)
def _clean_state(empty_caches: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_figures(monkeypatch, tmp_path / "journal")


@pytest.fixture
def shown_world(tmp_path: Path) -> Iterator[World]:
    """A world whose figures the API and the pages show."""
    made = World(tmp_path / "journal", process_wide=True)
    yield made
    made.close()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Settings of an installation that does not exist yet."""
    return load({"ROUTERDASH_DATA_DIR": str(tmp_path / "data"), "ROUTERDASH_TIME_ZONE": "UTC"})
