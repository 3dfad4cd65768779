"""A place of the own row: others read its counts in the file, and this process in copies."""

from gateway.ipc.counters.counter_file import (
    CELLS,
    CLAIM,
    IN_FLIGHT,
    MAX_TOKENS_IN_CELL,
    NEWEST,
    REQUEST_CELLS,
    REQUESTS,
    TOKEN_CELLS,
    TOKENS,
    CounterFile,
)


class OwnPlace:
    """The counts of one subject in the own row. There is one such object for each place.

    Only this process stores them. So it keeps a copy of each, as a load from the file takes as many instructions as
    fifteen loads of an attribute. Who stores a count sets its copy, too.

    `requests` and `tokens` are the sums of all that was ever counted in this place.
    """

    __slots__ = (
        "_file",
        "cell_requests",
        "cell_tokens",
        "claim",
        "claim_at",
        "in_flight",
        "in_flight_at",
        "number",
        "place",
        "request_cell_at",
        "requests",
        "requests_at",
        "token_cell_at",
        "tokens",
        "tokens_at",
    )

    def __init__(self, file: CounterFile, place: int) -> None:
        """`place`: index of its first word. Earlier processes may have counted in it."""
        self._file = file
        self.place = place
        # Indexes of words
        self.in_flight_at, self.claim_at = place + IN_FLIGHT, place + CLAIM
        self.requests_at, self.tokens_at = place + REQUESTS, place + TOKENS
        self.in_flight = file.words[self.in_flight_at]
        self.claim = file.words[self.claim_at]
        self.requests = file.words[self.requests_at]
        self.tokens = file.words[self.tokens_at]
        self._enter_cell(file.words[place + NEWEST])

    def begin_cell(self, number: int) -> None:
        """Clear the cells since the newest one, all of which are older than a minute."""
        newest = self.number
        if number == newest:
            return
        file, place = self._file, self.place
        for skipped in range(max(newest, number - CELLS) + 1, number + 1):
            file.shorts[4 * place + REQUEST_CELLS + skipped % CELLS] = 0
            file.halves[2 * place + TOKEN_CELLS + skipped % CELLS] = 0
        file.words[place + NEWEST] = number
        self._enter_cell(number)

    def _enter_cell(self, number: int) -> None:
        cell = number % CELLS
        self.number = number
        self.request_cell_at = 4 * self.place + REQUEST_CELLS + cell  # of `shorts`
        self.token_cell_at = 2 * self.place + TOKEN_CELLS + cell  # of `halves`
        self.cell_requests = self._file.shorts[self.request_cell_at]
        self.cell_tokens = self._file.halves[self.token_cell_at]

    def give_back(self, number: int, requests: int, tokens: int) -> None:
        """Lower the counts of a cell, unless it has left the last minute."""
        file = self._file
        if number == self.number:
            file.shorts[self.request_cell_at] = self.cell_requests = self.cell_requests - requests
            file.halves[self.token_cell_at] = self.cell_tokens = self.cell_tokens - tokens
        elif self.number - number < CELLS:
            cell = number % CELLS
            file.shorts[4 * self.place + REQUEST_CELLS + cell] -= requests
            file.halves[2 * self.place + TOKEN_CELLS + cell] -= tokens

    def add_tokens(self, number: int, tokens: int) -> None:
        """Count tokens that exceed the reservation of a request in flight."""
        self.begin_cell(number)
        file, tokens = self._file, min(tokens, MAX_TOKENS_IN_CELL - self.cell_tokens)
        file.halves[self.token_cell_at] = self.cell_tokens = self.cell_tokens + tokens
        file.words[self.tokens_at] = self.tokens = self.tokens + tokens
