"""Tables with figures: their keys and their counts. Repeats the names of the columns, and imports no other code."""

DIMENSIONS = ("endpoint_id", "model", "kind", "api_key_id")
CELL = (
    "requests_ok", "requests_failed", "requests_cancelled", "attempts_ok", "attempts_failed", "input_tokens",
    "output_tokens", "ok_duration_us",
)  # fmt: skip
NEWER = ("requests_rejected", "first_token_us")  # null in rows of releases that did not count them
DETAILS = (  # null without any request that reported them
    "cached_tokens", "cached_of_tokens", "cache_reports", "cache_hits", "cache_write_tokens", "cache_write_reports",
    "reasoning_tokens", "reasoning_of_tokens", "reasoning_reports",
)  # fmt: skip
COUNTERS = ("total_requests", "successful_requests", "failed_requests")
SPEED = ("total_output_tokens", "total_duration_ms")
DAILY = ("endpoint_id", "model_id", "date", "api_kind")
CLIENT_HOUR = ("hour", "client_ip")
CLIENT_DAY = ("day", "client_ip", "api_key_id", "model")
CLIENT = ("requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens")
SERVED_DAY = ("date", *DIMENSIONS, "served", "canonical", "step")
SERVED_SUMS = (
    "requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens", "ok_duration_us",
)  # fmt: skip
COST_DAY = (*SERVED_DAY, "price_id", "currency")
COSTS = ("requests", "estimated_requests", "cost", "estimated_cost")
HARDWARE_DAY = ("date", "endpoint_id", "rate_id", "currency", "model", "kind", "api_key_id")
HARDWARE_SUMS = (
    "seconds", "busy_us", "work_us", "requests", "input_tokens", "output_tokens", "cached_tokens", "write_tokens",
    "long_write_tokens", "reasoning_tokens", "cost",
)  # fmt: skip
TOTALS = ("requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens", *DETAILS)

# Key and counts of each table. No count is ever negative.
TABLES = {
    "endpoints": (("id",), COUNTERS),
    "endpoint_daily_stats": (DAILY, COUNTERS + SPEED),
    "endpoint_baselines": (("endpoint_id",), (*COUNTERS, "daily_total", "daily_successful", "daily_failed")),
    "rollup_minutes": (("minute", *DIMENSIONS), CELL + NEWER + DETAILS),
    "rollup_days": (("date", *DIMENSIONS), CELL + NEWER + DETAILS),
    "rollup_months": (("month", *DIMENSIONS), CELL + NEWER + DETAILS),
    "rollup_served_days": (SERVED_DAY, SERVED_SUMS + DETAILS),
    "rollup_cost_days": (COST_DAY, COSTS),
    "rollup_hardware_days": (HARDWARE_DAY, HARDWARE_SUMS),
    "rollup_refused_days": (("date", "api_key_id", "code", "limit_name"), ("requests_rejected",)),
    "rollup_client_hours": (CLIENT_HOUR, CLIENT),
    "rollup_client_days": (CLIENT_DAY, CLIENT),
    "rollup_all_clients": (("hour",), (*CLIENT, "clients")),
    "metric_totals": (("name",), ("value",)),
}


def one_if(condition: str, name: str = "") -> str:
    """Return an expression that is 1 in rows with this condition, else 0. Its sum is the number of such rows."""
    return f"CASE WHEN {condition} THEN 1 ELSE 0 END" + (f" AS {name}" if name else "")


# Requests of one row by outcome, for `history.counted`.
OUTCOMES = (
    one_if("outcome = 'ok'", "requests_ok"),
    one_if("outcome NOT IN ('ok', 'cancelled')", "requests_failed"),
    one_if("outcome = 'cancelled'", "requests_cancelled"),
)
