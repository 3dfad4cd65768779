"""All models of some endpoints by their names.

Endpoints with the same canonical name for a model are one row, as in GET /v1/models. A request counts for the row that
its model's name leads to: an equal name first, then one that differs in case.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from endpoints import capabilities, model_aliases
from endpoints.models import Status
from endpoints.registry import Entry, ModelEntry


@dataclass(slots=True)
class CatalogueModel:
    """A model, and the ids of the endpoints that have it, each with its own name for it."""

    name: str
    offers: list[tuple[str, ModelEntry]] = field(default_factory=list)
    aliases: set[str] = field(default_factory=set)
    capabilities: set[str] = field(default_factory=set)
    all_capabilities_known: bool = True  # its capabilities, at every endpoint


class Catalogue:
    """All models of all endpoints. `find` leads from any name to the row.

    The rows are built again only when the models of an endpoint have changed, not with its status.
    """

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self._entries = {entry.id: entry for entry in entries}
        self._rows = _rows_of(entries)

    @property
    def all(self) -> Mapping[str, CatalogueModel]:
        return self._rows.all

    def find(self, name: str) -> str | None:
        """Return the name of the row that a request for this name counts for."""
        return self._rows.exact.get(name) or self._rows.folded.get(name.casefold())

    def offers(self, listed: CatalogueModel) -> list[tuple[Entry, ModelEntry]]:
        """Return the endpoints that have a model."""
        return [(self._entries[endpoint_id], model) for endpoint_id, model in listed.offers]

    def online(self, listed: CatalogueModel) -> int:
        """Return the number of endpoints with a model that are online."""
        return sum(self._entries[endpoint_id].shown_status == Status.ONLINE for endpoint_id, _ in listed.offers)


class _Rows:
    """The rows of some endpoints, and the way from each name to its row."""

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self._built_from = {entry.id: (entry.models, entry.capabilities) for entry in entries}
        self.all: dict[str, CatalogueModel] = {}
        self.exact: dict[str, str] = {}
        self.folded: dict[str, str] = {}
        for entry in entries:
            added = capabilities.added(list(entry.capabilities))
            for model in entry.models:
                self._add(entry, model, added)
        for listed in self.all.values():
            for alias in sorted(listed.aliases):
                self.exact.setdefault(alias, listed.name)
        for name in self.all:
            self.exact[name] = name
        for name, row in self.exact.items():
            self.folded.setdefault(name.casefold(), row)

    def fit(self, entries: tuple[Entry, ...]) -> bool:
        """Return True if these endpoints have the same models, in the same order."""
        if len(entries) != len(self._built_from):
            return False
        for entry, (endpoint_id, (models, added)) in zip(entries, self._built_from.items(), strict=True):
            if entry.id != endpoint_id or entry.capabilities != added:
                return False
            if entry.models is not models and list(map(_facts, entry.models)) != list(map(_facts, models)):
                return False
        return True

    def _add(self, entry: Entry, model: ModelEntry, added: tuple[str, ...]) -> None:
        name = model.canonical_name or model.id
        listed = self.all.get(name)
        if listed is None:
            listed = self.all[name] = CatalogueModel(name)
        listed.offers.append((entry.id, model))
        listed.aliases.add(model.id)
        listed.aliases.update(_aliases(model.id, model.canonical_name))
        able = _together(model.capabilities, added)
        listed.capabilities.update(able)
        listed.all_capabilities_known = listed.all_capabilities_known and bool(able)


def _facts(model: ModelEntry) -> tuple[object, ...]:
    """Return what rows depend on: not the time of the last sync."""
    return model.id, model.canonical_name, model.capabilities, model.max_tokens


_last: list[_Rows] = []  # the rows built last


def _rows_of(entries: tuple[Entry, ...]) -> _Rows:
    if not (_last and _last[0].fit(entries)):
        _last[:] = [_Rows(entries)]
    return _last[0]


_aliases = lru_cache(maxsize=65536)(model_aliases.aliases)
_together = lru_cache(maxsize=1024)(capabilities.combined)
