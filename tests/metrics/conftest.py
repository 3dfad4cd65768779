from collections.abc import Iterator
from pathlib import Path

import pytest

from endpoints.models import Endpoint
from metrics.costs.tables import PriceRow
from metrics.model_names.used_steps import name_steps
from tests.metrics.costs.pricing import price_rows
from tests.metrics.records import A, B
from tests.metrics.world import World, add_endpoint, forget_figures


@pytest.fixture(autouse=True)
def _clean_state(empty_caches: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_figures(monkeypatch, tmp_path / "journal")
    name_steps.forget()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "journal")
    yield made
    made.close()


@pytest.fixture
def shown_world(tmp_path: Path) -> Iterator[World]:
    """A world whose figures the API and the pages show."""
    made = World(tmp_path / "journal", process_wide=True)
    yield made
    made.close()


@pytest.fixture
def endpoints(db: None) -> tuple[Endpoint, Endpoint]:
    return add_endpoint(A, "a"), add_endpoint(B, "b")


@pytest.fixture
def prices(db: None) -> Iterator[list[PriceRow]]:
    with price_rows() as made:
        yield made
