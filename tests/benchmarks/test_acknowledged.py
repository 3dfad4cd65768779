"""How rounds of benchmarks.scale.acknowledged are counted."""

import pytest

from benchmarks.scale.acknowledged import repeat
from tests.withdrawals import Late, acknowledged


def test_rounds_that_fail_and_rounds_that_are_late_are_counted_apart() -> None:
    errors = [AssertionError(), None, Late("a gateway has not confirmed it"), TimeoutError(), Late("the same")]

    def play(number: int) -> None:
        if (error := errors[number]) is not None:
            raise error

    failed, late = repeat("key", rounds=5, seconds=60, play=play)
    assert (failed.value, failed.bound) == (2, 0)
    assert (late.value, late.bound) == (2, None)


def test_a_late_change_is_awaited_and_its_reason_kept() -> None:
    looks = iter([False, False, True])
    with pytest.raises(Late, match="the gateway 7"):
        acknowledged((202, {"pending": "the gateway 7"}), 204, lambda: next(looks))
    assert list(looks) == []


def test_another_status_is_a_failure() -> None:
    acknowledged((204, None), 204, lambda: False)
    with pytest.raises(AssertionError):
        acknowledged((200, {}), 204, lambda: True)
