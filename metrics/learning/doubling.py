"""The load at which an output token takes twice as long as alone, once enough requests have run at that load."""

from collections.abc import Sequence
from math import floor

from gateway.registry.schema import Speeds
from metrics.learning.samples import SpeedSample

LEAST_SAMPLES = 64  # with fewer, the parameters are not certain enough
TELLING_SAMPLES = 8  # that had the load, or a higher one
LEAST_OUTPUT = 8  # tokens; in shorter responses, the time per token is mostly that of something else
MOST = 10_000  # as the limit that administrators may enter


def doubling_load(speeds: Speeds) -> int | None:
    """Return the number of requests in flight up to which a token takes at most twice as long as alone.

    With n requests, it takes `write + share * n` seconds. None: other requests do not slow it down noticeably.
    """
    if speeds.write <= 0 or speeds.share * MOST <= speeds.write:
        return None
    return floor(speeds.write / speeds.share) + 2


def telling_load(samples: Sequence[SpeedSample]) -> float:
    """Return the mean requests in flight that TELLING_SAMPLES of an endpoint had at least; 0 if there are too few."""
    loads = sorted(
        (
            sample.shared_us / sample.duration_us
            for sample in samples
            if sample.duration_us > 0 and sample.output >= LEAST_OUTPUT
        ),
        reverse=True,
    )
    return loads[TELLING_SAMPLES - 1] if len(loads) >= LEAST_SAMPLES else 0.0
