"""The value of a copy of a model in an endpoint's memory: the time of requests that it saves.

Each choice between endpoints says how much more time the request would take without a copy. That is added to the value
of a copy that is there, and to that of one that might be. Values fade, so that the last minutes count. A load pays when
the copy, had it been there, had saved more than the load takes and more than the copy that must leave has saved. This
is the rule of the ski rental problem: it does without knowing the future, and never takes many times as long.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

MEMORY_SECONDS = 120.0  # after which a saving counts 1/e


class Option(NamedTuple):
    """An endpoint in a choice. Seconds are multiplied by `weight`."""

    endpoint_id: str
    model: str  # the endpoint's own id
    seconds: float  # expected time with the model in memory
    load: float  # seconds that a load of the model takes
    is_there: bool  # the model is in memory, or is being loaded
    weight: float = 1.0  # of the endpoint


class CopyValues:
    """Values of copies, in seconds, as far as this process has seen requests."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, tuple[float, float]]] = {}  # by endpoint and model: value, and at which time

    def of(self, endpoint_id: str, model: str, now: float) -> float:
        """Return the value of a copy at a moment."""
        of_endpoint = self._values.get(endpoint_id)
        if of_endpoint is None or model not in of_endpoint:
            return 0.0
        value, moment = of_endpoint[model]
        return value * math.exp((moment - now) / MEMORY_SECONDS)

    def note(self, options: Sequence[Option], chosen: str, now: float) -> None:
        """Note the expected times of a request at each endpoint, of which one was chosen."""
        starts_load = any(option.endpoint_id == chosen and not option.is_there for option in options)
        times = [option.seconds if option.is_there else option.seconds + option.load for option in options]
        least = min(range(len(times)), key=times.__getitem__)
        second = min((seconds for position, seconds in enumerate(times) if position != least), default=math.inf)
        for position, option in enumerate(options):
            if starts_load and option.endpoint_id != chosen and not option.is_there:
                continue  # the new copy saves that from now on
            other = second if position == least else times[least]
            saved = min(other - option.seconds, option.load)
            if saved > 0.0:
                value = self.of(option.endpoint_id, option.model, now) + saved / option.weight
                self._values.setdefault(option.endpoint_id, {})[option.model] = value, now

    def raise_to(self, endpoint_id: str, model: str, value: float, now: float) -> None:
        """Let a copy have this value at least."""
        if value > self.of(endpoint_id, model, now):
            self._values.setdefault(endpoint_id, {})[model] = value, now

    def drop(self, endpoint_id: str, model: str) -> None:
        """Forget the savings of a copy that might be: there is another one now."""
        self._values.get(endpoint_id, {}).pop(model, None)

    def forget(self, endpoint_id: str) -> None:
        """Forget a deleted endpoint."""
        self._values.pop(endpoint_id, None)
