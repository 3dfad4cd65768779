"""Parts of a cost in adaptive routing, which `gateway.routing.adaptive.pick` adds up in one number."""

from typing import Any, NamedTuple

from gateway.routing.adaptive import C, Demand, Row

RECENT = 0.25  # weight of the newest prompt in the mean of the last ones


class CostParts(NamedTuple):
    """Parts of a cost, in seconds; `total` is their sum times `factor`."""

    own: float  # expected duration
    harm: float  # by which it delays the requests that run there
    cold: float  # until the model is loaded, and what that costs those that run there
    wait: float  # until a slot is free, and to read prompts again that are replaced by waiting for it
    factor: float  # more than 1 for an endpoint with few completions that has requests already
    weight: float = 1.0  # of the endpoint, set by staff

    @property
    def total(self) -> float:
        return (self.own + self.harm + self.cold + self.wait) * self.factor * self.weight


def cost_parts(of: Row[Any], demand: Demand, in_flight: int, pending: int, waiting: int) -> CostParts:
    """Return the parts of the cost of a request at an endpoint with these counts. `waiting`: requests in the queue."""
    unread = demand.prompt - demand.kept.get(of.id, 0.0)
    output, n, wait = demand.output, in_flight, 0.0
    decode, prefill = demand.harm
    if n >= of.slots:  # it begins when one of the running requests ends
        typical = output if demand.typical is None else demand.typical
        each = of.setup + of.read * unread + typical * (of.write + of.share * of.slots)
        wait = (waiting + n - of.slots + 1) * each / of.slots
        wait += of.replaced * of.read * (of.candidate.recent_prompt or demand.prompt)
        n, pending = of.slots - 1, 0
    own = of.setup + of.read * (pending + unread) + output * (of.write + of.share * (n + 1))
    harm = n * (decode * of.share * output + prefill * of.read * unread)
    cold = of.load + 0.5 * n * output * (of.write + of.share * n) if of.load else 0.0
    return CostParts(
        own=own / of.weight,
        harm=harm / of.weight,
        cold=cold / of.weight,
        wait=wait / of.weight,
        factor=2.0 * (n + 1) / of.few if n >= of.few else 1.0,
        weight=of.weight,
    )


def expected_seconds(of: Row[C], unread: float, output: float, in_flight: int, pending: int) -> float:
    """Return the expected duration of a request there, which is one of those in flight, without its harm to them.

    `unread`: its prompt tokens that are not in the prefix cache.
    """
    setup, read, write, share = of.unweighted
    return setup + read * (pending + unread) + output * (write + share * in_flight)


def recent_mean(mean: float, tokens: int) -> float:
    """Return `LoadedCandidate.recent_prompt` after another prompt."""
    return mean + RECENT * (tokens - mean) if mean else tokens
