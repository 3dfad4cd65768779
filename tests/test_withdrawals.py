"""How a change that is answered before it is in effect everywhere is awaited."""

import pytest

from tests.withdrawals import Late, acknowledged


def test_a_late_change_is_awaited_and_its_reason_kept() -> None:
    looks = iter([False, False, True])
    with pytest.raises(Late, match="the gateway 7"):
        acknowledged((202, {"pending": "the gateway 7"}), 204, lambda: next(looks))
    assert list(looks) == []


def test_another_status_is_a_failure() -> None:
    acknowledged((204, None), 204, lambda: False)
    with pytest.raises(AssertionError):
        acknowledged((200, {}), 204, lambda: True)
