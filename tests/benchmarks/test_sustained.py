import pytest

from benchmarks import sustained


@pytest.mark.timeout(120)
def test_streams_of_many_clients_leave_nothing_behind() -> None:
    assert sustained.run(clients=50, seconds=4) == []


def test_growth_compares_the_last_third_with_the_second() -> None:
    assert sustained.growth([1, 1, 10, 10, 12, 12]) == 1.2
    assert sustained.growth([1, 2, 3]) == 1.0
