"""Figures equal the plain fold of all records, each counted once, after any sequence of events."""

from pathlib import Path

import pytest

from tests.metrics.histories import prepared

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("seed", range(10))
def test_any_history_ends_with_exact_figures(tmp_path: Path, endpoints: object, seed: int) -> None:
    with prepared(tmp_path / "journal", seed) as history:
        history.live(150)
        history.end()
