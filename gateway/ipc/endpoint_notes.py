"""Notes about endpoints in the live page, which all processes of this machine share: pauses, kinds of requests
that they lack, and models that they load.

Each note is one word of 64 bits, which any process may write; the last one wins. It has the second (since 1970) at
which it expires (of a load: at which it began), a tag of the endpoint's id, so that another endpoint in the same slot
never inherits it, and a value. Notes stay when a process ends: a provider's quota is still used up after a restart.
"""

import zlib

_UNTIL_BITS, _TAG_BITS = 32, 12
VALUE_BITS = 64 - _UNTIL_BITS - _TAG_BITS  # of a value: causes are numbers, kinds of requests are bits


def words(slots: int) -> int:
    """Return the number of words for so many slots."""
    return 2 + 3 * slots


class EndpointNotes:
    """Pauses of endpoints, the kinds of requests that they lack, and loads. All times are seconds since 1970."""

    __slots__ = ("_lacking", "_loads", "_words")

    def __init__(self, memory: memoryview, slots: int) -> None:
        """`memory`: as many words of 64 bits as `words` returns."""
        self._words = memory
        self._lacking = 1 + slots  # the first word of this section
        self._loads = 1 + 2 * slots  # likewise; the last word of the memory counts them

    @property
    def changes(self) -> int:
        """Count of changes: while it is equal, no note was written, except of loads."""
        return self._words[0]

    @property
    def loads(self) -> int:
        """Count of loads that were noted."""
        return self._words[-1]

    def pause(self, slot: int, endpoint_id: str) -> tuple[int, int]:
        """Return until when this endpoint gets no requests, and the number of the cause; zeros without a pause."""
        return self._read(1 + slot, endpoint_id)

    def set_pause(self, slot: int, endpoint_id: str, until: int, cause: int) -> None:
        self._write(1 + slot, endpoint_id, until, cause)

    def lacking(self, slot: int, endpoint_id: str) -> tuple[int, int]:
        """Return until when it is remembered that this endpoint lacks kinds of requests, and their bits."""
        return self._read(self._lacking + slot, endpoint_id)

    def set_lacking(self, slot: int, endpoint_id: str, until: int, kinds: int) -> None:
        self._write(self._lacking + slot, endpoint_id, until, kinds)

    def load(self, slot: int, endpoint_id: str) -> tuple[int, int]:
        """Return when a request last caused a load at this endpoint, and the model's number; zeros without a load."""
        return self._read(self._loads + slot, endpoint_id)

    def set_load(self, slot: int, endpoint_id: str, second: int, model: str) -> None:
        self._put(self._loads + slot, endpoint_id, second, model_number(model))
        self._count_change(-1)

    def clear_pause(self, slot: int) -> None:
        self._clear(1 + slot)

    def clear_lacking(self, slot: int) -> None:
        self._clear(self._lacking + slot)

    def _read(self, index: int, endpoint_id: str) -> tuple[int, int]:
        word = self._words[index]
        if not word or word >> VALUE_BITS & (1 << _TAG_BITS) - 1 != _tag(endpoint_id):
            return 0, 0
        return word >> _TAG_BITS + VALUE_BITS, word & (1 << VALUE_BITS) - 1

    def _write(self, index: int, endpoint_id: str, until: int, value: int) -> None:
        self._put(index, endpoint_id, until, value)
        self._count_change()

    def _put(self, index: int, endpoint_id: str, until: int, value: int) -> None:
        self._words[index] = (until << _TAG_BITS | _tag(endpoint_id)) << VALUE_BITS | value

    def _clear(self, index: int) -> None:
        if self._words[index]:
            self._words[index] = 0
            self._count_change()

    def _count_change(self, index: int = 0) -> None:
        """Count a change. Of two at the same time one may be lost, but the number changes after both."""
        self._words[index] = self._words[index] + 1 & (1 << 63) - 1


def model_number(model: str) -> int:
    """Return the number of a model in notes."""
    return zlib.crc32(model.encode()) & (1 << VALUE_BITS) - 1


def _tag(endpoint_id: str) -> int:
    return zlib.crc32(endpoint_id.encode()) & (1 << _TAG_BITS) - 1
