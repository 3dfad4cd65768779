"""Endpoints as replays know them: how fast they read and write, how many at a time, what their caches keep. Pure."""

from bisect import bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.registry.schema import Speeds
from gateway.routing.adaptive import NO_LIMIT, SLOW_START
from gateway.routing.expected_time import Parameters
from metrics.learning import fit
from metrics.learning.fit import SHORTEST
from metrics.learning.samples import UNKNOWN, SpeedSample
from metrics.replay import timeline
from metrics.replay.traffic import Group, PastRequest, PastSession, Turn

LEAST_SAMPLES = 3  # of a model and kind at an endpoint; with fewer, its speed is not known
ENDLESS = float("inf")
# As gateway.routing.affinity.affinity.AGES, in prompt tokens.
AGES = (8_192, 32_768, 131_072)
CACHE_SIZES = tuple(2_000 * 2**number for number in range(11))  # tokens
RESIDUALS_KEPT = 512
RESIDUAL_BOUNDS = (0.25, 4.0)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How an endpoint serves requests of one model and kind."""

    parameters: Parameters
    kept: tuple[float, ...]  # as Speeds.kept
    residuals: tuple[float, ...]  # actual over fitted durations
    samples: int

    @property
    def speeds(self) -> Speeds:
        """What routing would know of it."""
        return Speeds(*self.parameters, SLOW_START, self.kept)

    def seconds_alone(self, unread: int, output: int) -> float:
        """Return how long a request takes that runs alone."""
        return max(SHORTEST, self.parameters.duration(unread, output, 1))

    def slower(self, factor: float) -> "Behaviour":
        return replace(self, parameters=Parameters(*[value * factor for value in self.parameters]))


@dataclass(frozen=True, slots=True)
class Node:
    """An endpoint of a replayed fleet."""

    id: str
    name: str
    engine: str
    slots: int | None  # that routing knows
    places: int  # requests that it serves at a time; NO_LIMIT if none was seen
    cache: float  # tokens of its prefix cache
    behaviours: Mapping[Group, Behaviour]
    most: int = NO_LIMIT  # requests that were in flight there at once; how it serves more is not known
    tier: int = 1
    weight: float = 1.0  # of its expected times

    def slower(self, factor: float) -> "Node":
        return replace(
            self, behaviours={group: behaviour.slower(factor) for group, behaviour in self.behaviours.items()}
        )


@dataclass(frozen=True, slots=True)
class KnownEndpoint:
    """What is known of an endpoint besides its requests."""

    id: str
    name: str
    engine: str
    slots: int | None = None
    tier: int = 1
    weight: float = 1.0
    samples: Mapping[Group, Sequence[SpeedSample]] = field(default_factory=dict)  # earlier ones, that routing learned


class PrefixCache:
    """Prefixes in the order of their use, of which the oldest go when there is no room."""

    __slots__ = ("_room", "_tokens", "_total")

    def __init__(self, room: float) -> None:
        self._room = room
        self._tokens: OrderedDict[str, int] = OrderedDict()
        self._total = 0

    def match(self, turn: Turn) -> int:
        """Return the tokens of a prompt that are cached."""
        tokens = min(self._tokens.get(turn.system, 0), turn.system_tokens) if turn.system_tokens else 0
        if tokens == turn.system_tokens:
            tokens += min(self._tokens.get(turn.conversation, 0), turn.prefix - tokens)
        return tokens

    def keep(self, turn: Turn) -> None:
        """Keep a prompt and the response to it."""
        if turn.system_tokens:
            self._put(turn.system, turn.system_tokens)
        self._put(turn.conversation, turn.prompt + turn.output - turn.system_tokens)
        while self._total > self._room and self._tokens:
            _, tokens = self._tokens.popitem(last=False)
            self._total -= tokens

    def _put(self, name: str, tokens: int) -> None:
        before = self._tokens.pop(name, 0)
        self._tokens[name] = tokens = max(before, tokens)
        self._total += tokens - before


def age_of(tokens: int) -> int:
    """Return the age of a prefix (0 to 3) by the prompt tokens that its endpoint has read since."""
    return bisect_right(AGES, tokens)


def fit_nodes(
    requests: Sequence[PastRequest], parts: Iterable[PastSession], known: Iterable[KnownEndpoint]
) -> list[Node]:
    """Fit all endpoints to requests, which are sorted by arrival. `parts`: their sessions."""
    turns = {turn.number: turn for session in parts for turn in session.turns}
    by_endpoint: dict[str, list[int]] = defaultdict(list)
    for number in sorted(range(len(requests)), key=lambda position: requests[position].sent):
        by_endpoint[requests[number].endpoint].append(number)
    nodes = []
    for endpoint in known:
        numbers = by_endpoint.get(endpoint.id, [])
        node = _fit_node(
            endpoint, [requests[position] for position in numbers], [turns[position] for position in numbers]
        )
        if node.behaviours:
            nodes.append(node)
    return nodes


def _fit_node(endpoint: KnownEndpoint, requests: Sequence[PastRequest], turns: Sequence[Turn]) -> Node:
    """Fit an endpoint to its requests, which are sorted by their start."""
    prefixes = _expected_prefixes(requests, turns)
    unread = [
        max(1, request.prompt - (prefix if request.cached == UNKNOWN else request.cached))
        for request, (prefix, _) in zip(requests, prefixes, strict=True)
    ]
    places = min(timeline.seen_slots(requests), endpoint.slots or NO_LIMIT)
    by_group: dict[Group, list[tuple[SpeedSample, bool]]] = defaultdict(list)
    for request, sample in zip(requests, timeline.samples(requests, unread, prefixes, places), strict=True):
        by_group[request.group].append(sample)
    behaviours = {group: _behaviour(samples, endpoint.engine) for group, samples in by_group.items()}
    for group, earlier in endpoint.samples.items():
        if len(by_group.get(group, ())) < LEAST_SAMPLES <= len(earlier):
            behaviours[group] = _behaviour([(earlier_sample, True) for earlier_sample in earlier], endpoint.engine)
    behaviours = {group: behaviour for group, behaviour in behaviours.items() if behaviour.samples >= LEAST_SAMPLES}
    room = cache_room(requests, turns)
    most = timeline.most_in_flight(requests) or NO_LIMIT
    return Node(
        endpoint.id, endpoint.name, endpoint.engine, endpoint.slots, places, room, behaviours, most, endpoint.tier,
        endpoint.weight,
    )  # fmt: skip


def _expected_prefixes(requests: Sequence[PastRequest], turns: Sequence[Turn]) -> list[tuple[int, int]]:
    """Return the tokens of each prompt that were sent to the endpoint before, and their age."""
    read = 0
    last: dict[str, int] = {}  # prompt tokens that it had read by then
    prefixes = []
    for request, turn in zip(requests, turns, strict=True):
        if turn.prefix > turn.system_tokens and turn.conversation in last:
            prefixes.append((turn.prefix, age_of(read - last[turn.conversation])))
        elif turn.system_tokens and turn.system in last:
            prefixes.append((turn.system_tokens, age_of(read - last[turn.system])))
        else:
            prefixes.append((0, 0))
        read += request.prompt - max(0, request.cached)
        last[turn.conversation] = last[turn.system] = read
    return prefixes


def _behaviour(begun_samples: Sequence[tuple[SpeedSample, bool]], engine: str) -> Behaviour:
    samples = sorted(sample for sample, _ in begun_samples)
    began = sorted(sample for sample, at_once in begun_samples if at_once)
    used = began if len(began) >= LEAST_SAMPLES else samples
    parameters = fit.fit(used, engine, weights=[1.0] * len(used))
    residuals = [residual(sample, parameters) for sample in used[-RESIDUALS_KEPT:]]
    return Behaviour(parameters, fit.kept(samples), tuple(residuals), len(samples))


def residual(sample: SpeedSample, parameters: Parameters) -> float:
    """Return the actual duration of a sample over the fitted one, within bounds."""
    beside = max(1.0, sample.shared_us / sample.duration_us)
    fitted = parameters.duration(sample.read + sample.read_meanwhile, sample.output, beside)
    least, most = RESIDUAL_BOUNDS
    return min(most, max(least, sample.duration_us / 1e6 / fitted)) if fitted > 0 else 1.0


def cache_room(requests: Sequence[PastRequest], turns: Sequence[Turn]) -> float:
    """Return the tokens of a prefix cache that would have had as many hits as the requests of an endpoint report."""
    reported = sum(request.cached for request in requests if request.cached != UNKNOWN)
    if not any(request.cached != UNKNOWN for request in requests):
        return ENDLESS
    best, least = ENDLESS, abs(_hits(requests, turns, ENDLESS) - reported)
    for room in reversed(CACHE_SIZES):
        off = abs(_hits(requests, turns, room) - reported)
        if off < least:
            best, least = room, off
    return best


def _hits(requests: Sequence[PastRequest], turns: Sequence[Turn], room: float) -> int:
    cache, hits = PrefixCache(room), 0
    for request, turn in zip(requests, turns, strict=True):
        if request.cached != UNKNOWN:
            hits += cache.match(turn)
        cache.keep(turn)
    return hits
