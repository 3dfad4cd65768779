"""List of the request history in the admin: keyset pagination instead of a count."""

from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy

from metrics.labels import OUTCOMES
from metrics.models import RequestHistory
from metrics.queries.requests.filters import BadCursor, RequestFilter
from metrics.queries.requests.lookups import request_page
from metrics.queries.requests.rows import COLUMNS
from metrics.sql import SqlRow
from metrics.times import parse_time

CURSOR = "cursor"


class HistoryFilter(admin.SimpleListFilter):
    """Filter that leaves the queryset as it is: the list passes its value to `request_page`."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[RequestHistory]) -> QuerySet[RequestHistory]:
        return queryset


class OutcomeFilter(HistoryFilter):
    """Filter by outcome, with fixed choices: no query for the values in the table."""

    title = gettext_lazy("outcome")
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return OUTCOMES.items()


class BeforeFilter(HistoryFilter):
    """Filter by age: the list starts at this moment and leads to older requests.

    Django's hierarchy of dates would read all rows for its choices. A start is found by an index.
    """

    title = gettext_lazy("completed")
    parameter_name = "before"
    hours: ClassVar = {
        "1": gettext_lazy("More than an hour ago"),
        "24": gettext_lazy("More than a day ago"),
        "72": gettext_lazy("More than three days ago"),
        "168": gettext_lazy("More than a week ago"),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return self.hours.items()


class HistoryList(ChangeList):
    """List whose cost does not depend on the number of requests: no count, no OFFSET, ordered by time."""

    cursor: str | None = None
    looked_back_to: datetime | None = None
    older: str | None = None  # URL of the next page

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> Any:
        """Store the parameters of the filters. The queryset is never evaluated."""
        self.params.pop(ORDER_VAR, None)
        self.params.pop(CURSOR, None)
        self.filter_params.pop(ORDER_VAR, None)
        self.cursor = next(iter(self.filter_params.pop(CURSOR, [])), None)
        return super().get_queryset(request, exclude_parameters)

    def get_results(self, request: HttpRequest) -> None:
        try:
            page = request_page(self._filter(), self.cursor, self.list_per_page)
        except BadCursor:
            raise IncorrectLookupParameters from None
        self.result_list = [_listed(row) for row in page.rows]
        self.result_count = self.full_result_count = len(self.result_list)
        self.show_full_result_count = self.can_show_all = self.multi_page = self.show_admin_actions = False
        self.paginator = None
        if page.next is not None:
            self.looked_back_to = page.looked_back_to
            self.older = self.get_query_string({CURSOR: page.next.encode()})

    @property
    def newest(self) -> str:
        """URL of the first page."""
        return self.get_query_string()

    def _filter(self) -> RequestFilter:
        chosen = {spec.parameter_name: spec.value() for spec in self.filter_specs if isinstance(spec, HistoryFilter)}
        outcome, hours = chosen["outcome"], chosen["before"]
        if not ((outcome is None or outcome in OUTCOMES) and (hours is None or hours in BeforeFilter.hours)):
            raise IncorrectLookupParameters
        until = None if hours is None else timezone.now() - timedelta(hours=int(hours))
        return RequestFilter(outcome=outcome, until=until, text=self.query.strip() or None)


def _listed(row: SqlRow) -> RequestHistory:
    """Return a request with the columns of the list: bodies are not read."""
    columns = dict(zip(COLUMNS, row, strict=True))
    return RequestHistory(**{**columns, "completed_at": parse_time(columns["completed_at"])})
