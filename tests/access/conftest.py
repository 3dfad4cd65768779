import pytest


@pytest.fixture(autouse=True)
def _nothing_left(nothing_cached: None) -> None:
    """In every test of this room."""
