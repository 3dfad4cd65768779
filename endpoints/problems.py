"""Problems of a document that cannot be saved, by their places in it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a document cannot be saved. `place` is a path in its JSON, such as `steps[0].targets[1].model`."""

    place: str
    text: str


def texts_by_place(errors: Any) -> dict[str, list[str]]:
    """Return the nested errors of a serializer by their places."""
    texts: dict[str, list[str]] = {}
    for place, text in _texts(errors, ""):
        texts.setdefault(place, []).append(text)
    return texts


def _texts(errors: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(errors, dict):
        for name, inner in errors.items():
            inner_place = f"{place}[{name}]" if isinstance(name, int) else f"{place}.{name}".lstrip(".")
            yield from _texts(inner, place if name == "non_field_errors" and place else inner_place)
    elif isinstance(errors, list):
        for index, inner in enumerate(errors):
            yield from _texts(inner, f"{place}[{index}]" if isinstance(inner, dict) else place)
    else:
        yield place, str(errors)
