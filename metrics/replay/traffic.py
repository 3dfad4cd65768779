"""Recorded requests, and the sessions that they belong to. Pure: no I/O.

A client sends the next turn of a conversation some time after the response to the last one, not at a time of day: if
responses take longer, its next request comes later. So requests are replayed as sessions, in which each turn follows
the end of the one before it after the same pause.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gateway.base.request_kinds import GENERATING
from metrics.learning.samples import UNKNOWN

Group = tuple[str, str]  # model, by any of its names; kind

# A prefix that several conversations of a key have in common is a system prompt. Servers that cache whole pages report
# it a little shorter than it is.
COMMON_CONVERSATIONS, COMMON_SHARE, COMMON_SPREAD = 3, 0.03, 16
LEAST_GROWTH = 0.5  # of the last response, by which the prompt of the next turn is longer: some clients drop reasoning
GUESSED_PAUSE = 1800.0  # seconds after which a request belongs to no earlier one if conversations are not recorded
GUESSED_TURNS = 64  # open conversations of a key that a guess looks at
MOST_NEW_TOKENS = 2000  # of a turn, in a guess


class PastRequest(NamedTuple):
    """A request that an endpoint answered. Times in seconds since 1970; 0 and UNKNOWN where nothing was recorded."""

    arrived: float
    sent: float
    first: float  # when the first token came; 0 if it was no stream
    ended: float
    endpoint: str
    key: str  # API key; empty without one
    model: str
    kind: str
    prompt: int  # tokens
    output: int  # tokens; 0 of kinds that generate nothing
    cached: int = UNKNOWN  # tokens
    conversation: str = ""
    balancer: str = ""  # that chose the endpoint; empty if there was no choice

    @property
    def group(self) -> Group:
        return self.model, self.kind


class Turn(NamedTuple):
    """A request of a session."""

    number: int  # of the recorded request
    key: str
    group: Group
    prompt: int  # tokens
    output: int
    think: float  # seconds from the end of the turn before it
    conversation: str
    system: str  # name of the prefix that other conversations share; empty without one
    system_tokens: int
    prefix: int  # tokens that were sent before in this conversation, those of the system prompt included


class PastSession(NamedTuple):
    start: float  # seconds since 1970
    key: str
    turns: tuple[Turn, ...]


def sessions(requests: Sequence[PastRequest]) -> tuple[list[PastSession], bool]:
    """Return the sessions of requests, which are sorted by arrival, by their start.

    The second value is True if conversations had to be guessed, because they are not recorded.
    """
    named = any(request.conversation for request in requests)
    names = [request.conversation for request in requests] if named else _guessed(requests)
    systems = _systems(requests, names)
    documents = _documents(requests, names)
    last: dict[str, int] = {}  # the latest request of a conversation
    begun: list[tuple[float, str, list[Turn]]] = []
    of_request: dict[int, list[Turn]] = {}
    for position, request in enumerate(requests):
        name = names[position] or f"#{position}"
        system, system_tokens = systems.get(name) or _usual(systems, request)
        before = last.get(name)
        previous = None if before is None else requests[before]
        follows = previous is not None and _follows(previous, request)
        prefix = system_tokens
        if follows and previous is not None:
            prefix = previous.prompt + previous.output
        elif name in documents:
            prefix = documents[name]
        prefix = max(0, min(prefix, request.prompt - 1))
        think = request.arrived - previous.ended if follows and previous is not None else 0.0
        turn = Turn(
            position, request.key, request.group, request.prompt, request.output, think, name, system,
            min(system_tokens, prefix), prefix,
        )  # fmt: skip
        turns = of_request.pop(before, None) if follows and before is not None else None
        if turns is None:
            turns = []
            begun.append((request.arrived, request.key, turns))
        turns.append(turn)
        of_request[position] = turns
        last[name] = position
    return [PastSession(start, key, tuple(turns)) for start, key, turns in begun], not named


def _follows(previous: PastRequest, request: PastRequest) -> bool:
    """Return True if a client sent this turn after the response to the previous one."""
    return request.arrived >= previous.ended and request.prompt >= previous.prompt + LEAST_GROWTH * previous.output


class _OpenTurn(NamedTuple):
    """The last turn of a conversation that may go on."""

    tokens: int  # of the prompt and the response
    ended: float
    name: str
    earlier: tuple[tuple[str, int], ...]  # endpoint and tokens of its turns


def _guessed(requests: Sequence[PastRequest]) -> list[str]:
    """Return a conversation for each request, by key and growing prompt.

    The number of cached tokens is that of an earlier turn at the same endpoint, which tells the conversation. Where
    nothing but a system prompt was cached, it is the one whose last turn is the longest that fits.
    """
    common = _common_sizes(requests)
    open_turns: dict[tuple[str, Group], list[_OpenTurn]] = defaultdict(list)  # the shortest first
    names = []
    for position, request in enumerate(requests):
        if request.kind not in GENERATING:
            names.append("")
            continue
        turns = open_turns[request.key, request.group]
        is_shown = request.cached > 0 and not _has(common[request.key, request.group], request.cached)
        followed = next(
            (number for number in _fitting(turns, request) if not is_shown or _cached(turns[number], request)), -1
        )
        before = turns.pop(followed) if followed >= 0 else None
        name, tokens = before.name if before else f"#{position}", request.prompt + request.output
        earlier = (*(before.earlier if before else ()), (request.endpoint, tokens))
        entry = _OpenTurn(tokens, request.ended, name, earlier)
        turns.insert(bisect_left(turns, entry), entry)
        if len(turns) > GUESSED_TURNS:
            turns.remove(min(turns, key=lambda one: one.ended))
        names.append(name)
    return names


def _fitting(turns: Sequence[_OpenTurn], request: PastRequest) -> Iterable[int]:
    """Yield the numbers of turns that this request may follow, the longest first."""
    for number in range(bisect_left(turns, (request.prompt,)) - 1, -1, -1):
        turn = turns[number]
        if turn.tokens < request.prompt - MOST_NEW_TOKENS:
            break
        if turn.ended <= request.arrived <= turn.ended + GUESSED_PAUSE:
            yield number


def _cached(turn: _OpenTurn, request: PastRequest) -> bool:
    return any(
        endpoint == request.endpoint and 0 <= tokens - request.cached <= COMMON_SPREAD
        for endpoint, tokens in turn.earlier
    )


def _common_sizes(requests: Iterable[PastRequest]) -> dict[tuple[str, Group], list[int]]:
    """Return the numbers of cached tokens that requests of a key have too often for a conversation of their own."""
    counts: dict[tuple[str, Group], Counter[int]] = defaultdict(Counter)
    for request in requests:
        if request.cached > 0:
            counts[request.key, request.group][request.cached] += 1
    common: dict[tuple[str, Group], list[int]] = defaultdict(list)
    for of, sizes in counts.items():
        least = max(COMMON_CONVERSATIONS, COMMON_SHARE * sum(sizes.values()))
        common[of] = [tokens for tokens, count in _clusters(sizes) if count >= least]
    return common


def _has(sizes: Iterable[int], tokens: int) -> bool:
    return any(0 <= size - tokens <= COMMON_SPREAD for size in sizes)


def _clusters(counts: Counter[int]) -> list[tuple[int, int]]:
    """Return sizes with their counts, those that are nearly equal as the largest of them."""
    clusters: list[tuple[int, int]] = []
    for tokens in sorted(counts, reverse=True):
        if clusters and clusters[-1][0] - tokens <= COMMON_SPREAD:
            clusters[-1] = clusters[-1][0], clusters[-1][1] + counts[tokens]
        else:
            clusters.append((tokens, counts[tokens]))
    return clusters


def _systems(requests: Sequence[PastRequest], names: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return the name and tokens of the system prompt of conversations, as far as cached tokens show them.

    The usual one of a key and group is there under "key", "model" and "kind", a line each.
    """
    seen: set[str] = set()
    cached: dict[tuple[str, Group], Counter[int]] = defaultdict(Counter)
    own: dict[str, tuple[tuple[str, Group], int]] = {}
    for position, request in enumerate(requests):
        name = names[position] or f"#{position}"
        if name in seen:
            continue
        seen.add(name)
        if request.cached > 0:
            cached[request.key, request.group][request.cached] += 1
            own[name] = ((request.key, request.group), request.cached)
    systems: dict[str, tuple[str, int]] = {}
    sizes: dict[tuple[str, Group], list[tuple[int, int]]] = {}  # tokens and conversations
    for of, counts in cached.items():
        sizes[of] = [cluster for cluster in _clusters(counts) if cluster[1] >= COMMON_CONVERSATIONS]
        if sizes[of]:
            tokens, _ = max(sizes[of], key=lambda cluster: cluster[1])
            systems[_usual_name(*of)] = _system(of, tokens)
    for name, (of, tokens) in own.items():
        size = next((size for size, _ in sizes[of] if 0 <= size - tokens <= COMMON_SPREAD), None)
        if size is not None:
            systems[name] = _system(of, size)
    return systems


def _system(of: tuple[str, Group], tokens: int) -> tuple[str, int]:
    return f"{_usual_name(*of)}\n{tokens}", tokens


def _usual_name(key: str, group: Group) -> str:
    return f"{key}\n{group[0]}\n{group[1]}"


def _usual(systems: dict[str, tuple[str, int]], request: PastRequest) -> tuple[str, int]:
    system = systems.get(_usual_name(request.key, request.group))
    return system if system is not None and system[1] < request.prompt else ("", 0)


def _documents(requests: Sequence[PastRequest], names: Sequence[str]) -> dict[str, int]:
    """Return the tokens that requests of a conversation have in common if they do not follow each other."""
    last: dict[str, PastRequest] = {}
    documents: dict[str, int] = {}
    for position, request in enumerate(requests):
        name = names[position]
        if not name:
            continue
        previous = last.get(name)
        last[name] = request
        if previous is not None and not _follows(previous, request):
            shared = request.cached if request.cached >= 0 else min(previous.prompt, request.prompt)
            documents[name] = max(documents.get(name, 0), shared)
    return {name: tokens for name, tokens in documents.items() if tokens}


def means(requests: Iterable[PastRequest]) -> dict[tuple[str, str], float]:
    """Return the mean output tokens by model and key, and by model and nothing for all keys."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for request in requests:
        if request.output:
            for key in {(request.model, request.key), (request.model, "")}:
                sums[key][0] += request.output
                sums[key][1] += 1
    return {key: total / count for key, (total, count) in sums.items()}
