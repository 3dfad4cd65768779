"""Prices of models and rates of currencies, as the registry store has them while a budget of money exists."""

import msgspec

DAY_MINUTES, EVERY_DAY = 1440, 0b1111111
AMOUNTS = ("input", "cached", "write_short", "write_long", "output", "reasoning", "request", "image", "minute")


class PriceWindow(msgspec.Struct, frozen=True, array_like=True):
    """Hours of the day at which a price counts, UTC.

    `start` and `end` are minutes of the day, `end` excluded. A window with `end` ≤ `start` lasts until the next day,
    and belongs to the weekday of its start. Bit 0 of `weekdays` is Monday.
    """

    start: int
    end: int
    weekdays: int = EVERY_DAY

    def contains(self, moment: float) -> bool:
        """Return True if the window is open at a moment, in seconds since 1970 UTC."""
        day, minute = divmod(int(moment // 60), DAY_MINUTES)
        if self.start < self.end:
            return self.start <= minute < self.end and self._is_on(day)
        return (minute >= self.start and self._is_on(day)) or (minute < self.end and self._is_on(day - 1))

    def _is_on(self, day: int) -> bool:
        return bool(self.weekdays >> ((day + 3) % 7) & 1)  # 1970-01-01 was a Thursday


class Price(msgspec.Struct, frozen=True, array_like=True):
    """One row of the price book (gateway.prices.book). Amounts are in 10⁻⁹ of the currency.

    Per million tokens: `input` (tokens of the prompt that no other amount is for), `cached` (read from a prompt
    cache), `write_short` and `write_long` (written to a cache with a short or a long lifetime), `output`, `reasoning`.
    Without an amount of its own, a kind of tokens costs as the kind that it is part of: `cached` and `write_short` as
    `input`, `write_long` as `write_short`, `reasoning` as `output`.
    """

    id: int  # of the database; negative: a row of the catalogue
    pattern: str  # over the served model and its canonical name; `*` stands for any characters
    endpoint_id: str  # empty: any
    provider: str  # type of the endpoint; empty: any
    valid_from: int  # seconds since 1970 UTC
    valid_until: int | None  # excluded; None: open
    currency: str  # ISO 4217
    min_prompt: int  # 0, or the row counts only for prompts of more tokens, and then for all of their tokens
    tier: str  # service tier; empty: the default one
    window: PriceWindow | None = None
    input: int | None = None
    cached: int | None = None
    write_short: int | None = None
    write_long: int | None = None
    output: int | None = None
    reasoning: int | None = None
    request: int | None = None  # per thousand requests
    image: int | None = None  # per thousand images
    minute: int | None = None  # per thousand minutes of audio
    source: str = ""

    def counts_at(self, moment: float) -> bool:
        """Return True if the row is valid at a moment in seconds since 1970 UTC, which is in its hours of the day."""
        return (
            self.valid_from <= moment
            and (self.valid_until is None or moment < self.valid_until)
            and (self.window is None or self.window.contains(moment))
        )

    @property
    def counts_for_all(self) -> bool:
        """True if neither the prompt nor the service tier of a request matters."""
        return not self.min_prompt and not self.tier


class DatedRate(msgspec.Struct, frozen=True, array_like=True):
    """Worth of one unit of a currency in 10⁻⁹ of another one, from a moment on."""

    currency: str
    reporting: str
    valid_from: int  # seconds since 1970 UTC
    rate: int


class PriceFacts(msgspec.Struct, frozen=True, array_like=True):
    """Row of the table `prices`: the rows of the price book with one pattern, or the rates of all currencies."""

    prices: tuple[Price, ...] = ()
    reporting: str = ""  # the currency of budgets; only in the row of rates
    rates: tuple[DatedRate, ...] = ()


NO_PRICES = PriceFacts()
