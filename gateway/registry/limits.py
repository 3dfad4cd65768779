"""Limits and budgets of an API key, of a user with all keys, and of everyone, as the registry store has them."""

import msgspec

# Levels. The subject of EVERYONE_LEVEL has the id "".
KEY_LEVEL, USER_LEVEL, EVERYONE_LEVEL = "key", "user", "everyone"
LEVELS = (KEY_LEVEL, USER_LEVEL, EVERYONE_LEVEL)
LEVEL_LETTERS = {KEY_LEVEL: b"k", USER_LEVEL: b"u", EVERYONE_LEVEL: b"e"}  # with which the keys of rows begin
Subject = tuple[str, str]  # that may have limits: level and id

# Names of limits.
CONCURRENCY, REQUESTS, TOKENS = "concurrency", "requests", "tokens"
LIMITS_OF_A_SUBJECT = (CONCURRENCY, REQUESTS, TOKENS)

MONEY = "money"
UNITS = (TOKENS, MONEY)  # of budgets
DAY, WEEK, MONTH, TOTAL = "day", "week", "month", "total"
PERIODS = (DAY, WEEK, MONTH, TOTAL)  # of budgets: those of the Usage page, in the time zone of the installation


class Budget(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Allowance of a subject in each period."""

    id: str  # of the row of the table `budgets`
    unit: str  # TOKENS or MONEY
    period: str  # one of PERIODS
    amount: int  # tokens, or 10⁻⁹ of the reporting currency
    hard: bool = False  # reserves the most that a request can use, instead of the expectation
    refuses_unpriced: bool = False  # of money: refuses requests for models without a price, instead of counting nothing
    instead: str | None = None  # model name to which requests go once it is spent; None: they are refused


class LimitFacts(msgspec.Struct, frozen=True, array_like=True):
    """Limits and budgets of one subject, over all gateways. None: no limit."""

    concurrency: int | None = None  # requests in flight
    requests: int | None = None  # in any 60 seconds
    tokens: int | None = None  # in any 60 seconds, of input and output
    waiting: tuple[str, ...] = (CONCURRENCY,)  # limits over which a request waits; over the others it is refused
    budgets: tuple[Budget, ...] = ()


NO_LIMITS = LimitFacts()
