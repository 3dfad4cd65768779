"""The limited API keys, users and everyone: which limits they have, and how often they are used."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

KEY, USER, EVERYONE = "key", "user", "everyone"
Subject = tuple[str, str]  # level and id
EVERYBODY: Subject = (EVERYONE, "")

KEYS, KEYS_OF_A_USER = 100, 10
CAPACITY = 5  # concurrent requests of each key when places are counted at the end

# Models of the simulated servers. Each response has OUTPUT tokens, and PROMPT tokens are reported for each request.
QUICK, LONG, FLAKY = "quick", "long", "flaky"
PROMPT, OUTPUT = 40, 8
LONG_SECONDS = 1.6
USED = PROMPT + OUTPUT  # tokens of a request


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a subject. None: no limit. `waiting`: limits over which a request waits."""

    concurrency: int | None = None
    requests: int | None = None
    tokens: int | None = None
    waiting: tuple[str, ...] = ()

    def scaled(self, factor: float) -> "Limits":
        """Return the limits times a factor, and at least 1."""
        return replace(
            self,
            concurrency=_scaled(self.concurrency, factor),
            requests=_scaled(self.requests, factor),
            tokens=None if self.tokens is None else max(2 * USED, round(self.tokens * factor)),
        )


def _scaled(value: int | None, factor: float) -> int | None:
    return None if value is None else max(1, round(value * factor))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of API key: its limits, the model it uses, and its requests a second, which are three times the limits."""

    name: str
    limits: Limits
    model: str
    rate: float
    edited: bool = True  # its limits are edited under load


CONCURRENCY, REQUESTS, TOKENS = "concurrency", "requests", "tokens"
_MINUTE = 12  # requests
KINDS = (
    Kind("concurrency, refused", Limits(concurrency=1), LONG, 3 / LONG_SECONDS),
    Kind("concurrency, waiting", Limits(concurrency=1, waiting=(CONCURRENCY,)), LONG, 3 / LONG_SECONDS),
    Kind("requests, steady", Limits(requests=_MINUTE), QUICK, 3 * _MINUTE / 60, edited=False),
    Kind("requests, refused", Limits(requests=_MINUTE), FLAKY, 3 * _MINUTE / 60),
    Kind("requests, waiting", Limits(requests=_MINUTE, waiting=(REQUESTS,)), QUICK, 3 * _MINUTE / 60),
    Kind("tokens, steady", Limits(tokens=_MINUTE * USED), QUICK, 3 * _MINUTE / 60, edited=False),
    Kind("tokens, refused", Limits(tokens=_MINUTE * USED), QUICK, 3 * _MINUTE / 60),
    Kind("tokens, waiting", Limits(tokens=_MINUTE * USED, waiting=(TOKENS,)), QUICK, 3 * _MINUTE / 60),
    Kind(
        "all three",
        Limits(concurrency=2, requests=4 * _MINUTE, tokens=4 * _MINUTE * USED, waiting=(CONCURRENCY,)),
        LONG,
        6 / LONG_SECONDS,
    ),
    Kind("limits of its user", Limits(), LONG, 1.0),
)
# The keys of a user are of one kind in each tenth place, so that the last kind shares the limits of all ten users.
OF_A_USER = Limits(concurrency=9, requests=400, tokens=500 * USED, waiting=(CONCURRENCY,))
OF_EVERYONE = Limits(concurrency=70, requests=4000, tokens=5000 * USED)


def kind_of(number: int) -> Kind:
    """Return the kind of the key with this number. Each user has one key of each kind."""
    return KINDS[number % len(KINDS)]


def rates() -> list[float]:
    """Return the requests a second of each key."""
    return [kind_of(number).rate for number in range(KEYS)]


def first_limits(keys: list[str], users: list[str]) -> Iterator[tuple[Subject, Limits]]:
    """Yield the limits with which the test begins. `keys`, `users`: their ids; those of keys by number."""
    for number, key_id in enumerate(keys):
        if kind_of(number).limits != Limits():
            yield (KEY, key_id), kind_of(number).limits
    for user_id in users:
        yield (USER, user_id), OF_A_USER
    yield EVERYBODY, OF_EVERYONE
