"""The limits of one subject, taken with few steps: those of most requests that have limits."""

from gateway.ipc.counters.counter_file import CHANGES
from gateway.ipc.counters.own_place import OwnPlace
from gateway.ipc.counters.plan import NEVER, Excess, Plan, full_cell, load_counts
from gateway.ipc.live_page import memory_barrier


class PlanOfOne(Plan):
    """The same for one subject that has a limit a minute, without loops over subjects.

    The counts of the own place are known when they are stored, so that only the places of other rows are loaded. While
    no other process counts, a request needs no claim: it is counted if there is room, and given back if another process
    has begun to count meanwhile.
    """

    __slots__ = ("_most", "_one")

    _one: OwnPlace
    # The word CHANGES, while no other row counts; and the limits as of `_checks`.
    _most: tuple[int, int, int, int]

    def enter(self, tokens: int = 0) -> list[int] | Excess:
        clock = self.clock
        if clock() >= self._until:  # until then the subject keeps its place
            return super().enter(tokens)
        changes, most_flying, most_requests, most_tokens = self._most
        if changes == NEVER:
            return self._enter_beside_others(tokens)
        own = self._one
        flying, requests, of_tokens = own.in_flight + 1, own.requests + 1, own.tokens + tokens
        if flying > most_flying or requests > most_requests or of_tokens > most_tokens:
            return super().enter(tokens)
        try:
            self._shorts[own.request_cell_at] = cell_requests = own.cell_requests + 1
            self._halves[own.token_cell_at] = own.cell_tokens = own.cell_tokens + tokens
        except ValueError:
            raise full_cell() from None
        own.cell_requests, own.requests, own.tokens = cell_requests, requests, of_tokens
        words = self._words
        words[own.in_flight_at] = own.in_flight = flying
        memory_barrier()
        if words[CHANGES] != changes:  # another process counts, which may not have seen this request
            self.leave(self.number, 1, tokens)
            return super().enter(tokens)
        return [most_flying - flying, most_requests - requests, most_tokens - of_tokens]

    def _enter_beside_others(self, tokens: int) -> list[int] | Excess:
        words = self._words
        own = self._one
        words[own.in_flight_at] = own.in_flight = flying = own.in_flight + 1
        words[own.claim_at] = own.claim = tokens + 1
        memory_barrier()
        requests, of_tokens = own.requests + 1, own.tokens + tokens
        most_flying, most_requests, most_tokens = self._most_beside_others()
        if flying > most_flying or requests > most_requests or of_tokens > most_tokens:
            self._undo()
            return super().enter(tokens)
        try:
            self._shorts[own.request_cell_at] = own.cell_requests = own.cell_requests + 1
            words[own.requests_at] = own.shared_requests = own.shared_requests + 1
            self._halves[own.token_cell_at] = own.cell_tokens = own.cell_tokens + tokens
            words[own.tokens_at] = own.shared_tokens = own.shared_tokens + tokens
        except ValueError:
            self._undo()
            raise full_cell() from None
        words[own.claim_at] = own.claim = 0
        own.requests, own.tokens = requests, of_tokens
        return [most_flying - flying, most_requests - requests, most_tokens - of_tokens]

    def leave(self, number: int, requests: int, tokens: int) -> None:
        if requests or tokens < 0:
            super().leave(number, requests, tokens)
            return
        own = self._one
        if number == own.number:
            self._halves[own.token_cell_at] = own.cell_tokens = own.cell_tokens - tokens
        else:
            own.give_back(number, 0, tokens)
        self._words[own.in_flight_at] = own.in_flight = own.in_flight - 1

    def _renew(self, now: float) -> None:
        super()._renew(now)
        (self._one,) = self._own

    def _most_beside_others(self) -> tuple[int, int, int]:
        """Return up to which counts of the own place the limits hold, beside those of other rows now."""
        words = self._words
        if self._load_stamp(words) != self._stamp:
            return NEVER, NEVER, NEVER
        ((_, places, in_flight, requests, tokens),) = self._checks
        for place in places:
            others_flying, claim, others_requests, others_tokens = load_counts(words, place)
            in_flight -= others_flying
            requests -= others_requests
            tokens -= others_tokens
            if claim:
                requests -= 1
                tokens -= claim - 1
        return in_flight, requests, tokens

    def _look(self) -> None:
        super()._look()
        ((subject, _, in_flight, requests, tokens),) = self._checks
        self._most = subject.stamp[0] if subject.is_alone else NEVER, in_flight, requests, tokens
