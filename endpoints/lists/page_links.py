"""Links to the other pages of a list; they keep its filters and its order."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.core.paginator import Page

NEAR, ENDS = 2, 1  # numbers beside the present page, and at both ends


@dataclass(frozen=True, slots=True)
class PageLink:
    """A page, or a gap between pages: then without a query."""

    number: int | None
    query: str = ""
    is_current: bool = False


@dataclass(frozen=True, slots=True)
class PageLinks:
    """The pages of a list with several: the neighbours of the present one, the first and the last."""

    previous: str | None  # query of a page
    next: str | None
    numbers: tuple[PageLink, ...]

    @classmethod
    def of(cls, page: Page[Any], query: Callable[..., str]) -> "PageLinks | None":
        """Return the links; None for a list of one page. `query` returns the query of a page for `page=`."""
        paginator = page.paginator
        if paginator.num_pages < 2:
            return None
        elided: Iterable[int | str] = paginator.get_elided_page_range(page.number, on_each_side=NEAR, on_ends=ENDS)
        return cls(
            query(page=str(page.number - 1)) if page.has_previous() else None,
            query(page=str(page.number + 1)) if page.has_next() else None,
            tuple(
                PageLink(number, query(page=str(number)), number == page.number)
                if isinstance(number, int)
                else PageLink(None)
                for number in elided
            ),
        )
