"""The expected time of a choice: how long a request should take at an endpoint, and by how much it delays others there.

This is the only place of the formula. The choice (gateway.routing.adaptive), its preview, the duration that an attempt
records as expected, explanations of requests, replays, and the errors of what is learned all compute it here.

With P prompt tokens, of which `kept` are in the endpoint's prefix cache, O output tokens, n requests in flight there
and Q pending prompt tokens:

    own   = setup + read * (Q + P - kept) + O * (write + share * (n + 1))
    delay = n * (weights.decode * share * O + weights.prefill * read * (P - kept))

The delay to others is the marginal cost of a shared resource (after Pigou, "The Economics of Welfare", 1920). An
endpoint without a free slot adds the wait for one, and an engine without the model in memory the load of it. The four
parameters are learned (gateway.registry.schema.Speeds). Pure functions; all times are in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from gateway.registry.schema import Speeds
from gateway.routing.balancer import Candidate

RECENT = 0.25  # weight of the newest prompt in the mean of the last ones


class Parameters(NamedTuple):
    """The parameters of a duration, in seconds (gateway.registry.schema.Speeds)."""

    setup: float
    read: float
    write: float
    share: float

    def prefill(self, tokens: float) -> float:
        """Return the time until the endpoint has read so many prompt tokens, those of requests before included."""
        return self.setup + self.read * tokens

    def token(self, in_flight: float) -> float:
        """Return the time of an output token beside others. `in_flight`: requests, its own included; or their mean."""
        return self.write + self.share * in_flight

    def duration(self, tokens: float, output: float, in_flight: float) -> float:
        """Return the time of a whole response: `tokens` as in `prefill`, `in_flight` as in `token`."""
        return self.prefill(tokens) + output * self.token(in_flight)

    def lost_to_others(self, pending: float, output: float, in_flight: float) -> float:
        """Return the time that a request loses to the others in flight: until their prompts are read, and for each
        of its output tokens.
        """
        return self.read * pending + output * self.share * in_flight


def parameters_of(speeds: Speeds) -> Parameters:
    return Parameters(speeds.setup, speeds.read, speeds.write, speeds.share)


class DelayWeights(NamedTuple):
    """Weights of the delay to others: of their output tokens, and of their prompts."""

    decode: float
    prefill: float


DELAY_WEIGHTS = DelayWeights(0.5, 0.25)
# A bulk request has greater ones, so that it avoids endpoints where others run.
BULK_DELAY_WEIGHTS = DelayWeights(1.0, 1.0)


class Demand(NamedTuple):
    """Expected needs of a request."""

    prompt: float  # tokens
    output: float  # tokens
    kept: Mapping[str, float] = {}  # tokens of the prompt in the prefix cache, by id of the endpoint
    waited: float = 0.0  # seconds in the queue
    # Output tokens of an average request for the model: a slot is free when such a one ends. None: as many as this one.
    typical: float | None = None
    delay_weights: DelayWeights = DELAY_WEIGHTS


class LoadedCandidate(Candidate, Protocol):
    @property
    def in_flight(self) -> int:
        """Requests of this process that run there."""

    @property
    def pending(self) -> int:
        """Prompt tokens of requests of this process whose responses have not begun."""

    @property
    def recent_prompt(self) -> float:
        """Mean prompt tokens of the last requests there (`recent_mean`); 0: unknown."""


C = TypeVar("C", bound=LoadedCandidate)


@dataclass(frozen=True, slots=True, eq=False)
class Row(Generic[C]):
    """A candidate with what was learned about it. Made anew when that changes, not for each request."""

    candidate: C
    id: str
    parameters: Parameters
    slots: int  # gateway.routing.adaptive.NO_LIMIT if unknown
    few: int  # requests in flight from which on the time counts more, during the slow start; else NO_LIMIT
    load: float  # seconds until the model is loaded there; 0 if it is
    weight: float  # factor of the expected time, set by administrators
    replaced: float  # prompts that are read again if the request waits for a slot
    spill_after: float  # expected wait in seconds beyond which it counts as full if a worse tier is free


@dataclass(slots=True)
class ExpectedTime:
    """The parts of the expected time of a choice, in seconds; `total` is their sum times `factor` and `weight`."""

    own: float  # duration
    delay: float  # to the requests that run there
    load: float  # until the model is loaded, and what that takes from those that run there
    wait: float  # until a slot is free, and to read prompts again that are replaced by waiting for it
    factor: float  # more than 1 for an endpoint with few completions that has requests already
    weight: float  # of the endpoint, set by administrators

    @property
    def total(self) -> float:
        """By this, endpoints are compared."""
        return (self.own + self.delay + self.load + self.wait) * self.factor * self.weight


def expected_time(of: Row[Any], demand: Demand, in_flight: int, pending: int, waiting: int) -> ExpectedTime:
    """Return the expected time of a request at an endpoint.

    `in_flight`: requests there; `pending`: their prompt tokens that are not read yet; `waiting`: requests in the queue.
    """
    parameters, output, running = of.parameters, demand.output, in_flight
    unread = demand.prompt - demand.kept.get(of.id, 0.0)
    wait = load = 0.0
    if running >= of.slots:  # it begins when one of the running requests ends
        typical = output if demand.typical is None else demand.typical
        wait = (waiting + running - of.slots + 1) * parameters.duration(unread, typical, of.slots) / of.slots
        wait += of.replaced * parameters.read * (of.candidate.recent_prompt or demand.prompt)
        running, pending = of.slots - 1, 0
    if of.load:
        load = of.load + 0.5 * running * output * parameters.token(running)
    weights = demand.delay_weights
    delay = running * (weights.decode * parameters.share * output + weights.prefill * parameters.read * unread)
    factor = 2.0 * (running + 1) / of.few if running >= of.few else 1.0
    return ExpectedTime(
        parameters.duration(pending + unread, output, running + 1), delay, load, wait, factor, of.weight
    )


def recent_mean(mean: float, tokens: int) -> float:
    """Return `LoadedCandidate.recent_prompt` after another prompt."""
    return mean + RECENT * (tokens - mean) if mean else tokens
