"""Limits of everyone and the fullest budgets in the Prometheus text. Those of all keys would be too many series."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from gateway.prices.book import NANO
from gateway.registry.limits import EVERYONE_LEVEL, MONEY
from metrics.memory.runtime import runtime
from metrics.spending.used_budgets import used_budgets

LIMIT = ("level", "limit")
BUDGET = ("level", "subject_id", "subject_name", "unit", "period")


def limit_gauges() -> Iterator[Metric]:
    """Yield limits and budgets, with what is used of them, as control read them last."""
    most = GaugeMetricFamily("routerdash_limit", "Limits of everyone.", labels=LIMIT)
    used = GaugeMetricFamily("routerdash_limit_used", "Present use of the limits of everyone.", labels=LIMIT)
    if limits := used_budgets.limits_of_everyone:
        use = runtime.installation.limit_use(EVERYONE_LEVEL, "")
        for name, limit in limits.items():
            most.add_metric((EVERYONE_LEVEL, name), limit)
            used.add_metric((EVERYONE_LEVEL, name), getattr(use, name))
    yield from (most, used)
    amounts = GaugeMetricFamily(
        "routerdash_budget_amount",
        "Amounts of the 50 fullest budgets, in tokens or the reporting currency.",
        labels=BUDGET,
    )
    spent = GaugeMetricFamily(
        "routerdash_budget_spent", "What is spent of these budgets in their present periods.", labels=BUDGET
    )
    for budget in used_budgets.current()[0]:
        labels = (budget.level, budget.subject_id, budget.name or "", budget.unit, budget.period)
        scale = NANO if budget.unit == MONEY else 1
        amounts.add_metric(labels, budget.amount / scale)
        spent.add_metric(labels, budget.spent / scale)
    yield from (amounts, spent)
