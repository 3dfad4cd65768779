"""Result of a measure, and its places in the source."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Part of a measured value; the places with the greatest `weight` are listed first."""

    path: Path
    line: int
    text: str
    weight: float = 0


@dataclass(frozen=True)
class Measure:
    """Value of a measure and the greatest allowed value; None: the value is information."""

    name: str
    value: float
    limit: float | None
    places: list[Place] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.limit is not None and self.value > self.limit

    def restricted(self, contains: Callable[[Path], bool]) -> "Measure":
        """Return the measure with the chosen places alone; its value becomes the number of different texts."""
        places = [place for place in self.places if contains(place.path)]
        return Measure(self.name, len({place.text for place in places}), self.limit, places)
