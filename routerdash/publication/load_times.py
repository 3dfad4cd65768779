"""How long loads of models take at each endpoint, from their stored samples."""

from collections.abc import Iterable

from metrics.learning import fit, window_rows
from metrics.learning.fleet import Offer, Target
from metrics.learning.samples import LoadSample
from metrics.learning.window_rows import LoadKey


class LoadTimes:
    """Times by endpoint and its own id of the model. Only one thread uses it."""

    def __init__(self) -> None:
        self._keys: set[LoadKey] = set()  # that have samples, by requested model
        self._seconds: dict[tuple[str, str], float] = {}

    def add(self, keys: Iterable[LoadKey]) -> None:
        """Note that there are samples of these keys."""
        self._keys.update(keys)

    def read(self, endpoint_id: str, offered: Offer) -> None:
        """Read the samples of an endpoint, of models under all their names. Raises django.db.Error."""
        keys = [key for key in self._keys if key[0] == endpoint_id]
        by_model: dict[str, list[LoadSample]] = {}
        for (_, name), samples in (window_rows.load_windows(keys) if keys else {}).items():
            if (model := offered.model(name)) is not None:
                by_model.setdefault(model.id, []).extend(samples)
        self._seconds |= {(endpoint_id, model_id): fit.load_seconds(samples) for model_id, samples in by_model.items()}

    def seconds(self, target: Target) -> float:
        """Return the time of a load; 0 if none was seen."""
        return self._seconds.get(target[:2], 0.0)
