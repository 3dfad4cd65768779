"""Which records of the journals are needed until their epoch is included."""

from zoneinfo import ZoneInfo

import pytest

from gateway.ipc.record import OK, RequestRecord, uuid7
from gateway.limits.periods import Days
from metrics.spending.totals import SpendingTotals

pytestmark = pytest.mark.every_database


def test_a_process_may_have_records_of_an_epoch_in_several_journals() -> None:
    totals = SpendingTotals(Days(ZoneInfo("UTC")), lambda row, epoch: True)
    totals.included = {0: 4}
    entry = RequestRecord(uuid7(), 10**15, "chat_completions", "m", OK, 200, 1000, row=0, epoch=5, budgets=1)
    for writer, position in (("first", (1, 40)), ("second", (1, 90)), ("second", (1, 10)), ("first", (2, 0))):
        totals.keep(writer, entry, position)
    assert [totals.first_kept(writer) for writer in ("first", "second", "third")] == [(1, 40), (1, 10), None]
    totals.include({0: 5})
    assert [totals.first_kept(writer) for writer in ("first", "second")] == [None, None]
