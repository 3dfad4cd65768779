"""Filter of endpoints, shared by the JSON API and the page."""

from collections.abc import Iterable
from dataclasses import dataclass

from endpoints.registry import Entry


@dataclass(frozen=True, slots=True)
class Selection:
    """Filter values; None matches any endpoint.

    `status` is the status shown: the administrative state takes precedence over the result of health checks.
    """

    search: str | None = None
    status: str | None = None
    kind: str | None = None
    model: str | None = None
    tag: str | None = None

    def of(self, entries: Iterable[Entry]) -> list[Entry]:
        return [entry for entry in entries if self._matches(entry)]

    def _matches(self, entry: Entry) -> bool:
        return (
            self.status in (None, entry.shown_status)
            and self.kind in (None, entry.kind)
            and (self.model is None or _offers(entry, self.model))
            and (self.tag is None or self.tag.casefold() in (tag.casefold() for tag in entry.tags))
            and (not self.search or _mentions(entry, self.search))
        )


def _offers(entry: Entry, name: str) -> bool:
    requested = name.casefold()
    names = (name for model in entry.models for name in (model.id, model.canonical_name) if name)
    return any(name.casefold() == requested for name in names)


def _mentions(entry: Entry, search: str) -> bool:
    """Return True if each word occurs in the name, base URL, notes, tags or model names."""
    text = "\n".join(
        (entry.name, entry.base_url, entry.notes or "", *entry.tags, *(model.id for model in entry.models))
    )
    text = text.casefold()
    return all(word in text for word in search.casefold().split())
