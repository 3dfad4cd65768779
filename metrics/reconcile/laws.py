"""Laws of docs/concepts/counting.md as SQL comparisons, in the order of a repair.

These modules repeat the rules of counting on purpose: they share no code with metrics.counting, and must reach the same
sums.
"""

from metrics.reconcile import checks, client_laws, detail_laws, endpoint_laws, key_laws, request_laws
from metrics.reconcile.slices import Law, audited_slices

# Derived figures: each is compared with its source, which is closer to the requests. A repair uses the same order.
DERIVED: tuple[Law, ...] = (
    request_laws.minutes,
    request_laws.first_tokens,
    detail_laws.minutes,
    request_laws.days,
    request_laws.days_of_requests,
    request_laws.newer_columns_of_days,
    request_laws.months,
    detail_laws.served,
    client_laws.hours,
    client_laws.days,
    client_laws.all_clients,
    client_laws.different_clients,
    endpoint_laws.daily_attempts,
    endpoint_laws.daily_speeds,
    endpoint_laws.daily_sums,
    endpoint_laws.counters,
    endpoint_laws.counter_sums,
    endpoint_laws.totals,
)

# Comparisons that a repair does not use.
CHECKED_ONLY: tuple[Law, ...] = (checks.timeline, checks.refusals, key_laws.refusals)


def derived() -> list[Law]:
    """Return the laws of derived figures, those of slices last."""
    return [*DERIVED, *(law for one in audited_slices() for law in one.laws())]
