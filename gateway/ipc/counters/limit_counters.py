"""The limits as one gateway process takes them (gateway.ipc.counters.plan)."""

from gateway.ipc.counters.counter_file import WAITS_UNTIL
from gateway.ipc.counters.places import OwnPlaces
from gateway.ipc.counters.plan import Allowance, Plan
from gateway.ipc.counters.subject import Subject
from gateway.ipc.live_page import LivePage, Row
from gateway.ipc.wake import Waker


class LimitCounters:
    """The limits as one process takes them."""

    def __init__(self, page: LivePage, row: Row) -> None:
        """`row`: this process's own row of the page."""
        self._file = page.counters
        self.waits = self._file.words[WAITS_UNTIL : WAITS_UNTIL + 1]  # not 0 while a request of any process waits
        self.waker = Waker(page)
        self._row = row.number
        self._places = OwnPlaces(self._file, row.number)

    def subject(self, level: str, subject_id: str) -> Subject:
        """Return a subject. Keep it while it is used: looking it up costs more than taking from it."""
        return Subject(self._file, self._places, self._file.tag(level, subject_id))

    def plan(self, *demands: tuple[Subject, Allowance]) -> Plan:
        """Return a plan to take from the limits of different subjects. Keep it while the limits are the same."""
        return Plan(self._file, self._row, self._places, demands)
