import pytest

from benchmarks import sustained


@pytest.mark.timeout(120)
def test_streams_of_many_clients_leave_nothing_behind() -> None:
    assert sustained.run(clients=50, seconds=4) == []


def test_growth_compares_the_last_third_with_the_second() -> None:
    assert sustained.growth([1, 1, 10, 10, 12, 12]) == 1.2
    assert sustained.growth([1, 2, 3]) == 1.0


def test_missing_measurements_are_reported() -> None:
    stats = {"total_active_requests": 0, "successful_requests": 0, "failed_requests": 0, "total_output_tokens": 0}
    wrong = sustained.report(sustained.Tally(memory={"gateway": [1]}), stats, 1)
    assert wrong == ["no stream was received whole", "the memory of control was not seen"]
