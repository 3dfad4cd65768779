"""Choices of the filters by endpoint, model and API key: all of a small installation, else the busiest of an hour.

The page of an endpoint, of a model or of a user's keys leads to the requests of all others.
"""

from collections.abc import Iterable, Mapping
from heapq import nsmallest

from endpoints.registry import registry
from metrics.memory import last_hour
from metrics.queries.api_keys import key_names, recently_used, some_keys
from metrics.queries.figures import Moment

MAX_OPTIONS = 200


def endpoints(moment: Moment, chosen: str = "") -> dict[str, str]:
    """Return names by id."""
    names = {entry.id: entry.name for entry in moment.entries}
    return _with(_limited(names, _busiest(moment, last_hour.ATTEMPTS)), chosen, registry.name(chosen))


def models(moment: Moment, chosen: str = "") -> dict[str, str]:
    """Return the names that endpoints have for their models, by themselves."""
    names = {model.id: model.id for entry in moment.entries for model in entry.models}
    return _with(_limited(names, _busiest(moment, last_hour.MODEL)), chosen, chosen)


def keys(moment: Moment, chosen: str = "") -> dict[str, str]:
    """Return names by id; of more than MAX_OPTIONS keys, the busiest and the last used ones. At most four queries."""
    names = some_keys(MAX_OPTIONS + 1)
    if len(names) > MAX_OPTIONS:
        used = dict.fromkeys([*_busiest(moment, last_hour.KEY), *recently_used()])
        names = key_names(list(used)[:MAX_OPTIONS])
    return _with(names, chosen, None if not chosen or chosen in names else key_names([chosen]).get(chosen))


def _busiest(moment: Moment, kind: str) -> list[str]:
    return [name for name, _count in last_hour.ranked(moment.figures.hour, kind, MAX_OPTIONS)]


def _limited(names: Mapping[str, str], busiest: Iterable[str]) -> dict[str, str]:
    """Return at most MAX_OPTIONS names: the busiest, then the first ones."""
    if len(names) <= MAX_OPTIONS:
        return dict(names)
    first = nsmallest(MAX_OPTIONS, names, key=lambda value: names[value].casefold())
    values = dict.fromkeys([*(value for value in busiest if value in names), *first])
    return {value: names[value] for value in list(values)[:MAX_OPTIONS]}


def _with(names: dict[str, str], chosen: str, name: str | None) -> dict[str, str]:
    """Return the names with the chosen value, which may be deleted."""
    return names if not chosen or chosen in names else {**names, chosen: name or chosen}
