"""Reads the all-time sums of costs that `metrics.memory.cost_totals` keeps."""

import logging
from collections import Counter

from django.db.models import Sum

from metrics.counting.plausibility import NO_ENDPOINT
from metrics.memory.cost_totals import CostTotals, CostTotalsNow
from metrics.models import CostDayRollUp, DayRollUp, JournalPosition
from metrics.storage import database

log = logging.getLogger(__name__)
_REQUESTS = ("requests_ok", "requests_failed", "requests_cancelled")


def read_again(totals: CostTotals) -> None:
    """Read the sums as of one moment. Raises django.db.Error while the database is away or locked.

    Without a table, the sums stay unknown until another process has written, so that a damaged one stops nothing else.
    """
    with database.read_moment():
        positions = {row.writer: (row.segment, row.position) for row in JournalPosition.objects.all()}
        try:
            found = sums(_finished())
        except Exception as error:
            if database.is_away(error):
                raise
            log.warning("the totals of costs cannot be read, and stay unknown: %s", error)
            found = None
    totals.install(found, positions)


def sums(requests: Counter[str]) -> CostTotalsNow:
    """Return the sums of costs, with the finished requests by endpoint. Raises django.db.Error."""
    found = CostTotalsNow(requests=requests.copy())
    costs = CostDayRollUp.objects.values_list("endpoint_id", "served", "currency")
    for endpoint_id, served, currency, cost, priced in costs.annotate(Sum("cost"), Sum("requests")).order_by():
        found.costs[str(endpoint_id), served, currency] = int(cost)
        found.priced[str(endpoint_id)] += int(priced)
    return found


def _finished() -> Counter[str]:
    days = DayRollUp.objects.exclude(endpoint_id=NO_ENDPOINT).values_list("endpoint_id")
    rows = days.annotate(*map(Sum, _REQUESTS)).order_by()
    return Counter({str(endpoint_id): sum(map(int, counts)) for endpoint_id, *counts in rows})
