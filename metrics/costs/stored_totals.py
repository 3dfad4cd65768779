"""Reads the all-time sums of costs that `metrics.costs.totals` keeps."""

import logging
from collections import Counter

from django.db.models import Sum

from metrics.costs.totals import CostTotals, CostTotalsNow
from metrics.counting.plausibility import NO_ENDPOINT
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
            present_totals = sums(_finished())
        except Exception as error:
            if database.is_away(error):
                raise
            log.warning("the totals of costs cannot be read, and stay unknown: %s", error)
            present_totals = None
    totals.install(present_totals, positions)


def sums(requests: Counter[str]) -> CostTotalsNow:
    """Return the sums of costs, with the finished requests by endpoint. Raises django.db.Error."""
    present_totals = CostTotalsNow(requests=requests.copy())
    costs = CostDayRollUp.objects.values_list("endpoint_id", "served", "currency")
    for endpoint_id, served, currency, cost, priced in costs.annotate(Sum("cost"), Sum("requests")).order_by():
        present_totals.costs[str(endpoint_id), served, currency] = int(cost)
        present_totals.priced[str(endpoint_id)] += int(priced)
    return present_totals


def _finished() -> Counter[str]:
    days = DayRollUp.objects.exclude(endpoint_id=NO_ENDPOINT).values_list("endpoint_id")
    rows = days.annotate(*map(Sum, _REQUESTS)).order_by()
    return Counter({str(endpoint_id): sum(map(int, counts)) for endpoint_id, *counts in rows})
