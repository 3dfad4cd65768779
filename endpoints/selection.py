"""Which endpoints of all: the same for the JSON API and the page."""

from collections.abc import Iterable
from dataclasses import dataclass

from endpoints.registry import Entry


@dataclass(frozen=True, slots=True)
class Selection:
    """None: any. `status` is the one that is shown: the operator's word goes before what checks say."""

    search: str | None = None
    status: str | None = None
    kind: str | None = None
    model: str | None = None
    tag: str | None = None

    def of(self, entries: Iterable[Entry]) -> list[Entry]:
        return [entry for entry in entries if self._has(entry)]

    def _has(self, entry: Entry) -> bool:
        return (
            self.status in (None, entry.shown_status)
            and self.kind in (None, entry.kind)
            and (self.model is None or _offers(entry, self.model))
            and (self.tag is None or self.tag.casefold() in (tag.casefold() for tag in entry.tags))
            and (not self.search or _mentions(entry, self.search))
        )


def _offers(entry: Entry, name: str) -> bool:
    wanted = name.casefold()
    names = (name for it in entry.models for name in (it.id, it.canonical_name) if name)
    return any(name.casefold() == wanted for name in names)


def _mentions(entry: Entry, text: str) -> bool:
    """Every word somewhere in what a person knows the endpoint by."""
    known = "\n".join((entry.name, entry.base_url, entry.notes or "", *entry.tags, *(it.id for it in entry.models)))
    known = known.casefold()
    return all(word in known for word in text.casefold().split())
