"""The places of a process's own row: a subject gets one when it is first counted, and an idle one is given up."""

from collections.abc import Collection

from gateway.ipc.counters.counter_file import (
    BUCKET_SIZE,
    BUCKETS,
    CELLS,
    IN_FLIGHT,
    MAX_SUBJECTS,
    NEWEST,
    PLACE_WORDS,
    TAG,
    WAITING,
    CounterFile,
    short_tag,
)
from gateway.ipc.counters.own_place import OwnPlace

LOOKED_AT = 4  # places that are given up, if they are idle, each time a subject gets one


class NoPlace(Exception):
    """The row has no place for another subject, so that it cannot be counted."""


class OwnPlaces:
    """Gives the places of a row to subjects. Only the row's own process may use it."""

    def __init__(self, file: CounterFile, row: int) -> None:
        """Take over the places of the row's earlier process: their counts are part of the last minute."""
        self._file = file
        self._row = row
        self._words = file.words
        self._first = file.place(row, 0)
        self.given_up = 0  # number of places that were taken from their subjects
        self._next = 0  # number of the place that is looked at next
        self._full_at = -1  # number of the cell in which no place was idle
        tags, numbers = file.bucket(row, 0)
        room = BUCKETS * BUCKET_SIZE
        entries = zip(file.shorts[tags : tags + room].tolist(), file.shorts[numbers : numbers + room], strict=True)
        taken = [self._place(number) for short, number in entries if short]
        self._places = {self._words[place + TAG]: place for place in taken}
        self._copies: dict[int, OwnPlace] = {}  # of the places that this process uses
        self._free = list({self._place(number) for number in range(file.used(row))}.difference(taken))
        for bucket in range(BUCKETS):  # its process may have been killed before it stored a new generation
            self._words[file.generation(row, bucket)] += 1

    def __len__(self) -> int:
        """Return the number of subjects that have a place."""
        return len(self._places)

    def get(self, tag: int, number: int, kept: Collection[int] = ()) -> int:
        """Return the place of a subject, which gets one if it has none. `number`: that of the present cell.

        A later call may give the place to another subject, unless a request is in flight, or was counted within the
        last minute, or the tag is among those that are to be `kept`. Raises NoPlace.
        """
        place = self._places.get(tag)
        return self._add(tag, number, kept) if place is None else place

    def copy_of(self, place: int) -> OwnPlace:
        """Return the counts of a place."""
        own_place = self._copies.get(place)
        if own_place is None:
            own_place = self._copies[place] = OwnPlace(self._file, place)
        return own_place

    def _add(self, tag: int, number: int, kept: Collection[int]) -> int:
        file, words = self._file, self._words
        place = self._idle_place(number, kept)
        tags, numbers = file.bucket(self._row, tag)
        bucket = file.shorts[tags : tags + BUCKET_SIZE].tolist()
        if 0 not in bucket:
            self._free.append(place)
            raise NoPlace(f"{BUCKET_SIZE} subjects of one bucket are in use")
        index = bucket.index(0)
        words[place + TAG], words[place + WAITING] = tag, 0
        file.shorts[numbers + index] = (place - self._first) // PLACE_WORDS
        file.shorts[tags + index] = short_tag(tag)  # from here on, readers find it
        words[file.generation(self._row, tag)] += 1
        self._places[tag] = place
        return place

    def _place(self, number: int) -> int:
        return self._first + number * PLACE_WORDS

    def _idle_place(self, number: int, kept: Collection[int]) -> int:
        """Return a place without a subject, and give up some others that are idle."""
        used = self._file.used(self._row)
        for _ in range(min(LOOKED_AT, used)):
            self._give_up_if_idle(used, number, kept)
        if self._free:
            return self._free.pop()
        if used < MAX_SUBJECTS:
            self._file.set_used(self._row, used + 1)
            return self._place(used)
        if self._full_at != number:
            for _ in range(used):
                self._give_up_if_idle(used, number, kept)
                if self._free:
                    return self._free.pop()
            self._full_at = number
        raise NoPlace(f"{MAX_SUBJECTS:,} subjects are in use")

    def _give_up_if_idle(self, used: int, number: int, kept: Collection[int]) -> None:
        """Look at the next place. If it is idle, take it from its subject."""
        words = self._words
        place = self._place(self._next)
        self._next = (self._next + 1) % used
        tag, newest = words[place + TAG], words[place + NEWEST]
        if self._places.get(tag) != place or words[place + IN_FLIGHT] or tag in kept:
            return
        if newest and number - newest < CELLS:
            return
        file = self._file
        tags, numbers = file.bucket(self._row, tag)
        for index in range(BUCKET_SIZE):
            if file.shorts[tags + index] and self._place(file.shorts[numbers + index]) == place:
                file.shorts[tags + index] = 0
        words[file.generation(self._row, tag)] += 1
        words[place + TAG] = 0  # its sums remain: readers use differences of them
        self.given_up += 1
        del self._places[tag]
        self._free.append(place)
