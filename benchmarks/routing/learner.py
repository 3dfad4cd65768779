"""What the product's learner makes of the responses of simulated endpoints."""

from collections import defaultdict

from benchmarks.routing.virtual import Request, View
from gateway.registry.schema import Speeds
from gateway.routing.adaptive import UNKNOWN_OUTPUT
from metrics.learning.fit import LEAST_ALPHA
from metrics.learning.fleet import Fleet, Target
from metrics.learning.samples import UNKNOWN, WINDOW, SpeedSample

NEWS = 16  # a fit waits until one sample in so many is new: less work, and nearly the same parameters
CHAT, EMBEDDINGS = "chat_completions", "embeddings"


def kind_of(request: Request) -> str:
    return CHAT if request.job.output else EMBEDDINGS


class Learner:
    def __init__(self) -> None:
        self.speeds: dict[Target, Speeds] = {}
        self._fleet = Fleet()
        self._samples: dict[Target, list[SpeedSample]] = defaultdict(list)
        self._engines: dict[Target, str] = {}
        self._news: dict[Target, int] = defaultdict(int)
        self._starts: dict[str, int] = {}  # microseconds at which the slow start of endpoints began
        self._number = 0

    def add(self, request: Request, view: View, now: float) -> None:
        """Learn from a response, unless the model was loaded for it."""
        if request.is_cold:
            return
        job, target = request.job, (view.id, request.job.model, kind_of(request))
        self._number += 1
        first = request.first - request.sent if request.was_idle and job.output else 0.0
        sample = SpeedSample(
            completed_us=int(now * 1e6),
            number=self._number,
            duration_us=int((request.ended - request.sent) * 1e6),
            read=request.pending_before + job.prompt - job.cached,
            read_meanwhile=view.read - request.read_before,
            output=job.output,
            shared_us=int((view.shared(now) - request.shared_before) * 1e6),
            first_us=int(first * 1e6) or UNKNOWN,
            prefix=int(request.expected_prefix),
            prefix_age=max(0, request.age),
            cached=job.cached,
            expected_us=0,
        )
        samples = self._samples[target]
        samples.append(sample)
        del samples[:-WINDOW]
        self._engines[target] = view.server.shape.kind
        self._news[target] += 1

    def returned(self, view: View, now: float) -> None:
        """Begin the slow start of an endpoint that was away, with the speeds that it had."""
        self._starts[view.id] = int(now * 1e6)
        for target, samples in self._samples.items():
            if target[0] == view.id:
                self._put(target, samples)
        self.speeds.update(self._fleet.take())

    def fit(self) -> bool:
        """Fit what has enough news, and return whether there was any."""
        due = [target for target, count in self._news.items() if count * NEWS >= len(self._samples[target])]
        for target in due:
            del self._news[target]
            self._put(target, self._samples[target])
        if due:
            self.speeds.update(self._fleet.take())
        return bool(due)

    def _put(self, target: Target, samples: list[SpeedSample]) -> None:
        endpoint_id, model, kind = target
        self._fleet.put(target, (model, kind), self._engines[target], self._starts.get(endpoint_id, 0), samples)


class Lengths:
    """Mean output tokens by model, and by model and client, moved as metrics.learning.fit moves them."""

    def __init__(self) -> None:
        self._means: dict[tuple[str, str], tuple[float, int]] = {}

    def add(self, model: str, client: str, output: int) -> None:
        for key in ((model, client), (model, "")):
            mean, count = self._means.get(key, (0.0, 0))
            self._means[key] = mean + max(1 / (count + 1), LEAST_ALPHA) * (output - mean), count + 1

    def of(self, model: str, client: str = "") -> float:
        """Return the mean of a client, or of all clients."""
        mean_and_count = self._means.get((model, client)) or self._means.get((model, ""))
        return mean_and_count[0] if mean_and_count else UNKNOWN_OUTPUT
