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
from gateway.ipc.counters.plan import Plan
from gateway.ipc.counters.subject import FRESH, GIVES_WAY, MASK, Subject
from gateway.ipc.wake import Waker

HEAD_START = 10  # ms that a request may have waited less than one of another process, without letting it go first
PATIENCE = 250  # ms in which a process that is woken takes what it has waited for, even on a busy machine


class Wait(NamedTuple):
    """The wait of a process for a subject, as it has published it. They are sorted by who goes first."""

    gives_way: bool
    less: int  # ms that it has waited, negative
    word_index: int
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

    def exist(self) -> bool:
        """Return True if there may be any."""
        words = self._file.words
        for index, _ in self._plan.elsewhere:  # noqa: SIM110  # `any` would make a generator for each request
            if words[index]:
                return True
        return False

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
            before, until = self._let_go_first.get(wait.word_index, (0, 0))
            if before != wait.since:
                until = now + PATIENCE
                self._let_go_first[wait.word_index] = wait.since, until
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
            index = subject.place + WAITING
            if self._is_fresh(index, now):
                if not words[index] & GIVES_WAY:
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
        waits = []
        for index, subject in self._plan.elsewhere:
            if self._is_fresh(index, now):
                since = words[index] & MASK
                waits.append(Wait(bool(since & GIVES_WAY), -(now - since & MASK), index, since, subject))
        return sorted(waits)

    def _is_fresh(self, index: int, now: int) -> bool:
        word = self._file.words[index]
        return word != 0 and now - (word >> 32) & MASK <= FRESH

    def _wake(self, wait: Wait) -> None:
        self._waker.wake(self._file.row_of(wait.word_index))

    def _now(self) -> int:
        return int(self._file.clock() * 1000)
