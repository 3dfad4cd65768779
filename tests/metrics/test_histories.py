"""Whatever happens in which order: figures are the plain fold of all that was recorded, each record once."""

from pathlib import Path

import pytest

from tests.metrics.histories import prepared

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("seed", range(10))
def test_any_history_ends_with_exact_figures(tmp_path: Path, endpoints: object, seed: int) -> None:
    with prepared(tmp_path / "journal", seed) as history:
        history.live(150)
        history.end()
