"""The requests of other processes that wait for the same limits: who goes first, and how it learns that it may.

The request that waits longest goes first, in whichever process it is; those of the class bulk go last. So a process
that finds room for a request lets an older one of another process go first, and wakes that process. It does so for a
while only: that process may be stopped, or the older request may wait for an endpoint, too. A bulk request lets an
interactive one go first for as long as that one waits. A process that gives back what it has taken wakes the next one
likewise. That is the first one that may use the room: a part of each limit is kept from bulk requests.
"""

from typing import NamedTuple

from gateway.ipc.counters.counter_file import WAITING, WAITS_UNTIL
from gateway.ipc.counters.places import NoPlace
from gateway.ipc.counters.plan import HEAD_START, Plan
from gateway.ipc.counters.subject import FRESH, GIVES_WAY, MASK, Subject
from gateway.ipc.wake import Waker

PATIENCE = 250  # ms in which a process that is woken takes what it has waited for, even on a busy machine


class Wait(NamedTuple):
    """The wait of a process for a subject, as it has published it. They are sorted by who goes first."""

    gives_way: bool
    less: int  # ms that it has waited, negative
    at: int  # index of its word
    since: int  # the word's time of the begin, and its class
    subject: Subject


class OtherWaits:
    """The waits of other processes for the subjects of a plan."""

    __slots__ = ("_file", "_let_go_first", "_plan", "_waker")

    def __init__(self, plan: Plan, waker: Waker) -> None:
        self._plan = plan
        self._file = plan.file
        self._waker = waker
        # For each process and subject: the wait that was let go first, and until when (ms).
        self._let_go_first: dict[int, tuple[int, int]] = {}

    def first_before(self, since: float, *, gives_way: bool = False) -> Subject | None:
        """Return the subject of the wait that a request lets go first, although there is room. Wake its process."""
        now = self._now()
        age = now - int(since * 1000)
        for wait in self._waits(now):
            if wait.gives_way == gives_way and -wait.less - age <= HEAD_START:
                break
            if wait.gives_way and not gives_way:
                break
            if gives_way and not wait.gives_way:
                self._wake(wait)
                return wait.subject
            before, until = self._let_go_first.get(wait.at, (0, 0))
            if before != wait.since:
                until = now + PATIENCE
                self._let_go_first[wait.at] = wait.since, until
            if now < until:
                self._wake(wait)
                return wait.subject
        return None

    def pass_on(self) -> None:
        """Wake, for each subject that has room, the process whose request goes first of those that may use it.

        None is woken while requests of its own wait for the subject: some of these may go first, and wake others in
        their turn. Its own bulk requests go after the interactive ones of all others.
        """
        words, now = self._file.words, self._now()
        if words[WAITS_UNTIL] < now:  # another process may store a later time just now: then it waits for its tick
            words[WAITS_UNTIL] = 0
            return
        try:
            room = self._plan.with_room()
        except NoPlace:
            return
        for subject in list(room):
            at = subject.place + WAITING
            if self._is_fresh(at, now):
                if not words[at] & GIVES_WAY:
                    del room[subject]
                else:
                    room[subject] = False
        for wait in self._waits(now) if room else []:
            if wait.subject in room and (room[wait.subject] or not wait.gives_way):
                del room[wait.subject]
                self._wake(wait)

    def _waits(self, now: int) -> list[Wait]:
        """Return the waits that are published, those first that go first."""
        words = self._file.words
        found = []
        for at, subject in self._plan.elsewhere:
            if self._is_fresh(at, now):
                since = words[at] & MASK
                found.append(Wait(bool(since & GIVES_WAY), -(now - since & MASK), at, since, subject))
        return sorted(found)

    def _is_fresh(self, at: int, now: int) -> bool:
        word = self._file.words[at]
        return word != 0 and now - (word >> 32) & MASK <= FRESH

    def _wake(self, wait: Wait) -> None:
        self._waker.wake(self._file.row_of(wait.at))

    def _now(self) -> int:
        return int(self._file.clock() * 1000)
