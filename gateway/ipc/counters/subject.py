"""One limited subject: where its places are, and its last minute. gateway.ipc.counters.plan has the rules."""

from collections.abc import Sequence

from gateway.ipc.counters.counter_file import (
    CELLS,
    CHANGES,
    IN_FLIGHT,
    REQUESTS,
    TOKENS,
    WAITING,
    WAITS_UNTIL,
    CounterFile,
)
from gateway.ipc.counters.own_place import OwnPlace
from gateway.ipc.counters.places import OwnPlaces

FRESH = 1000  # ms: a process repeats the waits of its queue many times in that time, unless it was stopped
MASK = (1 << 32) - 1
GIVES_WAY = 1  # bit of a published wait: it is that of a bulk request


class Subject:
    """One limited subject, such as an API key: where its places are, and its last minute.

    Several objects may stand for the same subject: everything that they count is in the file.
    """

    __slots__ = (
        "_file",
        "_own_places",
        "_seen",
        "_stamp_number",
        "base_requests",
        "base_tokens",
        "others",
        "place",
        "places",
        "stamp",
        "stamp_at",
        "tag",
    )

    def __init__(self, file: CounterFile, own_places: OwnPlaces, tag: int) -> None:
        self.tag = tag
        self.place = 0  # index of the first word of the own place
        self.places: list[int] = []  # in all rows
        self.others: list[int] = []  # in all rows but the own one
        self.stamp_at: list[int] = []  # indexes of the words which are as in `stamp` while `places` are all
        self.stamp: list[int] = []
        self.base_requests = self.base_tokens = 0  # in the last minute, less the sums at that time
        self._stamp_number = -1  # number of the cell in which all this was found
        self._file = file
        self._own_places = own_places
        self._seen: dict[int, tuple[int, int | None]] = {}  # generation and place in each row

    def wait_since(self, since: float, *, gives_way: bool = False) -> None:
        """Publish that a request waits for this subject's limits, since this time. It is to be repeated.

        Both times are in milliseconds, modulo 2**32: that of this call, and the earliest one. The last bit of the
        earliest one is the class. Requests that do not give way are published before those that do.
        """
        words, index = self._file.words, self.place + WAITING
        now = int(self._file.clock() * 1000)
        if words[self.place] != self.tag:
            return  # it has lost its place
        words[WAITS_UNTIL] = now + FRESH
        before, wait = words[index], _time_of(since) | gives_way
        if before and now - (before >> 32) & MASK <= FRESH:
            if gives_way and not before & GIVES_WAY:
                return
            if gives_way == bool(before & GIVES_WAY) and now - before & MASK > now - wait & MASK:
                wait = before & MASK
        words[index] = (now & MASK) << 32 | wait

    def wait_no_more(self, since: float) -> bool:
        """Withdraw the wait that is published, if it began at this time. Others are published again soon.

        Return False if it did not.
        """
        words, index = self._file.words, self.place + WAITING
        if words[self.place] != self.tag or not words[index] or words[index] & MASK & ~GIVES_WAY != _time_of(since):
            return False
        words[index] = 0
        return True

    def has_interactive_wait(self) -> bool:
        """Return True if a request of this process waits that gives way to none."""
        words = self._file.words
        word = words[self.place + WAITING] if words[self.place] == self.tag else 0
        if not word or word & GIVES_WAY:
            return False
        return int(self._file.clock() * 1000) - (word >> 32) & MASK <= FRESH

    def find_own_place(self, number: int, kept: Sequence[int]) -> OwnPlace:
        """Return the own place, or get one. The subjects with the tags `kept` keep theirs. Raises NoPlace."""
        self.place = self._own_places.get(self.tag, number, kept)
        return self._own_places.copy_of(self.place)

    def look(self, number: int) -> None:
        """Find the places in all rows, and add up their cells, unless this is known. `number` is that of now."""
        words, file = self._file.words, self._file
        if number == self._stamp_number and self.stamp == [words[index] for index in self.stamp_at]:
            return
        self.stamp_at, self.stamp, self.places = [CHANGES], [words[CHANGES]], []
        seen = {}
        for row in file.counting(number):
            index = file.generation(row, self.tag)
            generation = words[index]  # before the search
            before = self._seen.get(row)
            known = before is not None and before[0] == generation
            place = before[1] if known and before is not None else file.find(row, self.tag)
            seen[row] = (generation, place)
            self.stamp_at.append(index)
            self.stamp.append(generation)
            if place is not None:
                self.places.append(place)
        self._seen, self._stamp_number = seen, number
        own = self._own_places.copy_of(self.place)
        self.others = [place for place in self.places if place != self.place]
        requests = -own.requests - sum([words[place + REQUESTS] for place in self.others])  # before the cells
        tokens = -own.tokens - sum([words[place + TOKENS] for place in self.others])
        for place in self.places:
            more_requests, more_tokens = file.window(place, number)
            requests += more_requests
            tokens += more_tokens
        self.base_requests, self.base_tokens = requests, tokens

    def in_flight(self) -> int:
        """Return the requests in flight, over all rows, as of the last `look`."""
        return sum(self._file.words[place + IN_FLIGHT] for place in self.places)

    def minute(self, number: int) -> tuple[list[int], list[int]]:
        """Return the requests and the tokens of each cell of the last minute, the oldest first, over all rows.

        `number` is that of now. Claims are not part of it.
        """
        requests, tokens = [0] * CELLS, [0] * CELLS
        self.look(number)
        for place in self.places:
            for index, (of_requests, of_tokens) in enumerate(self._file.cells(place, number)):
                requests[index] += of_requests
                tokens[index] += of_tokens
        return requests, tokens


def _time_of(since: float) -> int:
    """Return a time as it is published: in ms, without the bit of the class."""
    return int(since * 1000) & MASK & ~GIVES_WAY
