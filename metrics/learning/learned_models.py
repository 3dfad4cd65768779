"""What adaptive routing has learned about an endpoint, for people: by model and kind of request, with its samples.

The parameters are those that gateways use (gateway.registry.schema.Speeds); the samples are those that they were
learned from (metrics.learning.samples). What neither of them tells is None.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, TypedDict

from endpoints import model_aliases
from endpoints.openapi.payload_fields import Choices, Help, TimeText
from endpoints.registry import Entry
from gateway.base.request_kinds import GENERATING
from gateway.registry.schema import Speeds
from gateway.routing.adaptive import SLOW_START
from gateway.routing.expected_time import parameters_of
from metrics.counting.speeds import current
from metrics.learning.fleet import merged
from metrics.learning.prefixes import PrefixShare, prefix_share
from metrics.learning.samples import WINDOW, SpeedSample, unpack_speeds
from metrics.learning.tables import SpeedWindow
from metrics.memory.runtime import runtime
from metrics.queries import figures
from metrics.queries.figures import Moment
from metrics.times import json_time

FOUR = 4  # requests in flight, beside one
FEW, SOME, MANY = "few", "some", "many"  # how sure routing is
MANY_SAMPLES = 64
LEAST_OUTPUT = 8  # tokens; in shorter responses, the time per token is mostly that of something else
# Parameters begin from what is usual for an engine. So a figure is shown only if as many samples tell something of it.
TELLING_SAMPLES = 5
LEAST_PROMPT = 100  # tokens; the time to read a shorter prompt is lost in that of the rest
BESIDE = 2.0  # mean requests in flight, from which on a sample tells how they slow each other down


class LearnedPointPayload(TypedDict):
    in_flight: Annotated[float, Help("Mean requests in flight over the response, itself included.")]
    token_ms: Annotated[float, Help("Time for each output token after the prompt.")]


class LearnedPayload(TypedDict):
    """What adaptive routing has learned about requests of one kind to a model of an endpoint."""

    model_id: str
    kind: str
    samples: Annotated[int, Help("Responses that it was learned from, at most 256.")]
    newest: Annotated[TimeText | None, Help("Completion of the last of them.")]
    confidence: Annotated[
        str,
        Choices((FEW, SOME, MANY)),
        Help(f"`{FEW}`: fewer than {SLOW_START} samples; `{MANY}`: at least {MANY_SAMPLES}."),
    ]
    tokens_per_second_alone: Annotated[
        float | None, Help("Output tokens per second of a request that runs alone. Null if nothing is learned.")
    ]
    tokens_per_second_with_four: Annotated[float | None, Help("Output tokens per second of each of four requests.")]
    prompt_tokens_per_second: Annotated[
        float | None, Help("Prompt tokens per second, of those that are not in the prefix cache.")
    ]
    setup_ms: Annotated[float | None, Help("Time for each request.")]
    load_ms: Annotated[float | None, Help("Time for loading the model; null if never seen.")]
    ratio_p50: Annotated[float | None, Help("Actual over predicted duration, median; null with fewer than five.")]
    ratio_p90: Annotated[float | None, Help("The same, 90th percentile.")]
    prefix_hit_rate: Annotated[
        float | None,
        Help("Share of responses with a cached part of the prompt; null if the endpoint does not report it."),
    ]
    prefix_reports: Annotated[int, Help("Responses that reported cached tokens, or that none were.")]
    points: Annotated[list[LearnedPointPayload], Help("The samples as points of the curve, oldest first.")]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A response: mean requests in flight over it, and milliseconds for each output token after the prompt."""

    in_flight: float
    token_ms: float


@dataclass(frozen=True, slots=True)
class LearnedModel:
    """What was learned about requests of one kind to a model of an endpoint."""

    model_id: str
    kind: str
    speeds: Speeds | None  # as published; None: nothing is yet
    samples: Sequence[SpeedSample]  # oldest first

    @property
    def generates(self) -> bool:
        return self.kind in GENERATING

    @property
    def newest(self) -> datetime | None:
        return datetime.fromtimestamp(self.samples[-1].completed_us / 1e6, UTC) if self.samples else None

    @property
    def confidence(self) -> str:
        """Return FEW (the slow start), SOME or MANY."""
        count = len(self.samples)
        return FEW if count < SLOW_START else SOME if count < MANY_SAMPLES else MANY

    @property
    def is_measured(self) -> bool:
        """Return True if the published parameters were learned from samples, rather than assumed."""
        return self.speeds is not None and len(self.samples) >= TELLING_SAMPLES

    def token_seconds(self, in_flight: float) -> float | None:
        """Return the learned time for each output token beside this many requests, itself included."""
        if self.speeds is None or not self.is_measured or not self.generates:
            return None
        return parameters_of(self.speeds).token(in_flight) or None

    @property
    def speed_alone(self) -> float | None:
        """Output tokens per second of a request that runs alone."""
        seconds = self.token_seconds(1)
        return 1 / seconds if seconds else None

    @property
    def speed_with_four(self) -> float | None:
        """Output tokens per second of each of four requests; None if it has hardly run any beside others."""
        beside = sum(sample.shared_us >= BESIDE * sample.duration_us for sample in self.samples)
        seconds = self.token_seconds(FOUR) if beside >= TELLING_SAMPLES else None
        return 1 / seconds if seconds else None

    @property
    def prompt_speed(self) -> float | None:
        """Prompt tokens per second, of those that are not in the prefix cache; None if prompts were short."""
        long = sum(sample.read >= LEAST_PROMPT for sample in self.samples)
        return 1 / self.speeds.read if self.speeds and self.speeds.read and long >= TELLING_SAMPLES else None

    @property
    def setup_ms(self) -> float | None:
        return 1000 * self.speeds.setup if self.speeds and self.is_measured else None

    @property
    def load_ms(self) -> float | None:
        """Time for loading the model; None if it was never seen."""
        return 1000 * self.speeds.load if self.speeds and self.speeds.load else None

    @property
    def points(self) -> list[CurvePoint]:
        """Return the samples as points of the curve of `token_seconds`; none without it."""
        if self.speeds is None or not self.is_measured or not self.generates:
            return []
        return [
            _point(sample, self.speeds)
            for sample in self.samples
            if sample.output >= LEAST_OUTPUT and sample.duration_us
        ]

    def ratio(self, percent: int) -> float | None:
        """Return a percentile (nearest rank) of actual over predicted durations; None of too few predictions."""
        ratios = sorted(sample.duration_us / sample.expected_us for sample in self.samples if sample.expected_us > 0)
        return ratios[-(-percent * len(ratios) // 100) - 1] if len(ratios) >= TELLING_SAMPLES else None

    @property
    def ratio_p50(self) -> float | None:
        return self.ratio(50)

    @property
    def ratio_p90(self) -> float | None:
        return self.ratio(90)

    @property
    def prefix_reports(self) -> int:
        """Number of responses in which the endpoint reported cached tokens, also none of them."""
        return prefix_share(self.samples).reports

    @property
    def prefix_hits(self) -> int:
        """Number of responses whose prompt had a part in the prefix cache."""
        return prefix_share(self.samples).hits

    @property
    def payload(self) -> LearnedPayload:
        reports = self.prefix_reports
        return {
            "model_id": self.model_id,
            "kind": self.kind,
            "samples": len(self.samples),
            "newest": json_time(self.newest),
            "confidence": self.confidence,
            "tokens_per_second_alone": self.speed_alone,
            "tokens_per_second_with_four": self.speed_with_four,
            "prompt_tokens_per_second": self.prompt_speed,
            "setup_ms": self.setup_ms,
            "load_ms": self.load_ms,
            "ratio_p50": self.ratio_p50,
            "ratio_p90": self.ratio_p90,
            "prefix_hit_rate": self.prefix_hits / reports if reports else None,
            "prefix_reports": reports,
            "points": [{"in_flight": point.in_flight, "token_ms": point.token_ms} for point in self.points],
        }


def _point(sample: SpeedSample, speeds: Speeds) -> CurvePoint:
    reading = speeds.setup + speeds.read * (sample.read + sample.read_meanwhile)
    writing = max(0.0, sample.duration_us / 1e6 - reading)
    return CurvePoint(max(1.0, sample.shared_us / sample.duration_us), 1000 * writing / sample.output)


def learned_models(entry: Entry) -> list[LearnedModel]:
    """Return what was learned about an endpoint's present models, busiest first. One query. Raises django.db.Error.

    A model is one however its requests name it.
    """
    rows = SpeedWindow.objects.filter(endpoint_id=entry.id).values_list("model", "kind", "samples")
    now = time.time()
    by_model: dict[tuple[str, str], list[list[SpeedSample]]] = {}
    exact, folded = model_aliases.by_name(entry.models)
    for name, kind, packed in rows:
        window = current(unpack_speeds(bytes(packed)), now, WINDOW)
        model = exact.get(name) or folded.get(name.casefold())
        if model is not None and window:
            by_model.setdefault((model.id, kind), []).append(window)
    models = [
        LearnedModel(model_id, kind, runtime.installation.speeds(entry.id, model_id, kind), merged(of))
        for (model_id, kind), of in by_model.items()
    ]
    return sorted(models, key=lambda learned: (-len(learned.samples), learned.model_id, learned.kind))


def learned_speeds(moment: Moment) -> Iterator[tuple[Entry, str, str, Speeds]]:
    """Yield the published speeds of models that have a moving average: endpoint, its own id of the model, kind."""
    for entry in moment.entries:
        exact, folded = model_aliases.by_name(entry.models)
        offered: set[tuple[str, str]] = set()
        for row in figures.model_tps(entry.id, moment):
            model = exact.get(row["model_id"]) or folded.get(row["model_id"].casefold())
            if model is not None:
                offered.add((model.id, row["api_kind"]))
        for model_id, kind in sorted(offered):
            speeds = runtime.installation.speeds(entry.id, model_id, kind)
            if speeds is not None:
                yield entry, model_id, kind, speeds


def share_of_models(models: Iterable[LearnedModel]) -> PrefixShare:
    """Return in how many responses a part of the prompt was cached, of those that tell it."""
    return prefix_share(sample for model in models for sample in model.samples)
