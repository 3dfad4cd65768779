"""Refusals of strangers, who have sent no valid API key: all are counted, but few of a flood have their own record.

Otherwise their records could fill the journal, whose size is limited, and push out those of clients.
"""

import time
from typing import Protocol

from gateway.fast.write_batch import WriteBatch
from gateway.ipc.journal import Writer
from gateway.ipc.record import REJECTED, RequestRecord, uuid7
from gateway.ipc.request_counts import RowCounts

RECORDED_ONE_BY_ONE = 16  # refusals of a second, in each gateway


class Recorder(Protocol):
    """The part of gateway.inference.services that writes records."""

    journal: Writer | None
    writes: WriteBatch

    def record(self, record: RequestRecord) -> None: ...


class Strangers:
    """The refusals of strangers in this process."""

    def __init__(self, services: Recorder, counts: RowCounts) -> None:
        self._services = services
        self._counts = counts
        self._second = 0  # since 1970
        self._alone = 0  # records of this second with one refusal each
        self._statuses: dict[str, int] = {}  # of each code

    @property
    def waiting(self) -> bool:
        """True if refusals are counted that are in no record yet."""
        return bool(self._counts.refused)

    def refused(self, made: RequestRecord) -> None:
        """Record a refusal, or count it for a record of its second, before the response leaves."""
        second = made.completed_us // 1_000_000
        if second != self._second:
            self.write()
            self._second, self._alone = second, 0
        self._alone += 1
        if self._alone > RECORDED_ONE_BY_ONE and self._counts.count_refused(made.error or ""):
            self._statuses[made.error or ""] = made.status
        else:
            self._services.record(made)

    def write_if_due(self) -> None:
        """Write the records of a second that is over."""
        if self._counts.refused and int(time.time()) != self._second:
            self.write()

    def write(self) -> None:
        """Write one record for each code that strangers were refused with. What cannot be written is tried again.

        A kill between the record and the store after it has these refusals counted twice.
        """
        journal = self._services.journal
        if not self._counts.refused or journal is None:
            return
        self._services.writes.flush()  # so that the journal has nothing else to write
        for code, count in list(self._counts.refused.items()):
            made = RequestRecord(
                id=uuid7(),
                completed_us=self._second * 1_000_000 or time.time_ns() // 1000,
                kind="",
                model="",
                outcome=REJECTED,
                status=self._statuses.get(code, 0),
                duration_us=0,
                error=code,
                count=count,
            )
            if journal.unrecorded:  # the number of others that were lost is written first
                return
            if not journal.append(made):
                journal.unrecorded -= 1  # they stay counted here
                return
            self._counts.count_refused(code, -count)
