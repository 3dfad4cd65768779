"""How many of the latest responses found a part of their prompt in the endpoint's prefix cache, over all endpoints."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from metrics.learning.samples import UNKNOWN, SpeedSample

TargetKey = tuple[str, str, str]  # endpoint, the endpoint's own id of the model, kind


class PrefixShare(NamedTuple):
    """Of `reports` responses whose endpoint reported its cached tokens, `hits` had some."""

    hits: int = 0
    reports: int = 0


def prefix_share(samples: Iterable[SpeedSample]) -> PrefixShare:
    reported = [sample.cached for sample in samples if sample.cached != UNKNOWN]
    return PrefixShare(sum(cached > 0 for cached in reported), len(reported))


class PrefixShares:
    """Shares by target, and their sum. One thread changes them; any may read `total`."""

    def __init__(self) -> None:
        self._shares: dict[TargetKey, PrefixShare] = {}
        self.total = PrefixShare()

    def put(self, target: TargetKey, samples: Sequence[SpeedSample]) -> None:
        """Replace the samples of a target."""
        self._replace(target, prefix_share(samples))

    def drop(self, target: TargetKey) -> None:
        self._replace(target, PrefixShare())

    def _replace(self, target: TargetKey, share: PrefixShare) -> None:
        before = self._shares.pop(target, PrefixShare())
        if share.reports:
            self._shares[target] = share
        hits, reports = self.total
        self.total = PrefixShare(hits - before.hits + share.hits, reports - before.reports + share.reports)
