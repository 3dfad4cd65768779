"""Rules for the pages of the admin, as in `tests/expected_figures.py`; lists of rows are compared with the database."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.ipc import record
from tests.displayed_figures import Place
from tests.expected_figures import ABSENT, Column, Reported, Row, Rule, Shown, error_texts, latency, table
from tests.sample_installation import local

# Kinds that generate text, so that their responses have a speed.
GENERATING = ("chat_completions", "completions", "responses", "messages")
CHECKS, HISTORY = 15, 50  # number of rows per page


def listed(count: int) -> Reported:
    """Return the figures below a list: selected rows, rows of the page, and all rows."""
    return {Place(""): [0, count, count]}


def constant(*figures: int, panel: str = "") -> Rule:
    """Return texts that a page always has."""
    return lambda _: {Place(panel): list(figures)}


def endpoints(page: Shown) -> Reported:
    rows = page.api("/api/dashboard/endpoints")
    columns: dict[str, Sequence[Column]] = {
        "Latency": [latency],
        "Attempts": ["total_requests"],
        "Failed": ["failed_requests"],
        "In flight": ["active_requests"],
    }
    return listed(len(rows)) | table("", rows, "name", columns)


TIER_HELP, WEIGHT_HELP = (1, 9, 1), (2, 0.5, 1)  # numbers in the help texts


def new_endpoint(_: Shown) -> Reported:
    return {
        Place("Checks"): [30],
        Place("Limits"): [120, 5],
        Place("Routing"): [*TIER_HELP, *WEIGHT_HELP],
    }


def endpoint(page: Shown) -> Reported:
    entry = page.api(f"/api/endpoints/{page.known['endpoint_id']}")
    row = next(row for row in page.api("/api/dashboard/endpoints") if row["id"] == entry["id"])
    limits = [
        entry[name] or ABSENT
        for name in ("idle_timeout_secs", "total_timeout_secs", "max_concurrency", "learned_slots", "assumed_slots")
    ]
    days = [day for day in daily(page) if day["endpoint_id"] == entry["id"]]
    return {
        Place("Checks"): [entry["health_check_interval_secs"]],
        Place("Limits"): [entry["inference_timeout_secs"], entry["connect_timeout_secs"] or ABSENT, 5, *limits],
        Place("Routing"): [entry["tier"] or ABSENT, *TIER_HELP, entry["cost_weight"] or ABSENT, *WEIGHT_HELP],
        Place("State"): [*latency(row), *(row[f"{name}_requests"] for name in ("total", "failed", "active"))],
        **table("Models", entry["models"], "model_id", {"Context": ["max_tokens"]}),
        **table("Latest health checks", _checks(page, entry["id"])[:CHECKS], "at", {"Latency": ["latency_ms"]}),
        **table(
            "Daily metrics",
            sorted(days, key=lambda day: day["model_id"]),
            "date",
            {"Attempts": ["attempts"], "Failed": ["failed"], "Output tokens": ["output_tokens"]},
        ),
    }


def confirmation(page: Shown) -> Reported:
    """Return the selected endpoints with their running requests; a drain also shows the meaning of a deadline of 0."""
    rows = [row for row in page.api("/api/dashboard/endpoints") if row["id"] in page.query["_selected_action"]]
    reported = table("", rows, "name", {"In flight": ["active_requests"]})
    return {Place(""): [0] if page.query["action"] == "drain" else [], **reported}


def deleted_endpoint(page: Shown) -> Reported:
    endpoint_id = page.known["endpoint_id"]
    entry = page.api(f"/api/endpoints/{endpoint_id}")
    return {Place(""): [1, len(entry["models"]), len(_checks(page, endpoint_id))]}


def edits(page: Shown) -> Reported:
    return {Place(""): [len(page.api(f"/api/endpoints/{page.known['endpoint_id']}/edits"))]}


def models(page: Shown) -> Reported:
    rows = [
        {"endpoint_id": endpoint["id"], **model}
        for endpoint in page.api("/api/endpoints")["endpoints"]
        for model in page.api(f"/api/endpoints/{endpoint['id']}/models")["models"]
    ]
    rows.sort(key=lambda row: (row["model_id"], row["endpoint_id"]))
    return {Place(""): [len(rows)]} | table("", rows, "model_id", {"Context": ["max_tokens"]})


def model_names(page: Shown) -> Reported:
    count = len(page.api("/api/model-names")["model_names"])
    return listed(count) if count else {Place(""): [0]}


SORTED_BY_TWO = (1, 1, 2, 2)  # the priorities of the columns by which a list is sorted


def prices(page: Shown) -> Reported:
    rows = page.api("/api/prices")["prices"]
    columns: dict[str, Sequence[Column]] = {
        "Input": [lambda row: row["input"] and float(row["input"])],
        "Output": [lambda row: row["output"] and float(row["output"])],
    }
    return {Place(""): [*SORTED_BY_TWO, len(rows)], **table("", rows, "pattern", columns)}


def new_price(_: Shown) -> Reported:
    """The number of a standard in a help text, and the size of prompts."""
    return {Place("Amounts"): [4217], Place("Conditions"): [0]}


def rates(page: Shown) -> Reported:
    rows = page.api("/api/currency-rates")["rates"]
    return {
        Place(""): [*SORTED_BY_TWO, len(rows)],
        **table("", rows, "currency", {"Rate": [lambda row: float(row["rate"])]}),
    }


def new_rate(_: Shown) -> Reported:
    return {Place(""): []}


def new_model_name(_: Shown) -> Reported:
    """The form of one target, the hidden one that a script copies, and an example in a help text."""
    targets = "targets-heading"
    return {
        Place("Parameters"): [0.2],
        Place(targets, "any", "Step"): [1, 1],
        Place(targets, "any", "Weight"): [1, 1],
    }


def checks(page: Shown) -> Reported:
    rows = _checks(page)
    return {Place(""): [len(rows)]} | table("", rows[:50], "at", {"Latency": ["latency_ms"]})


def _checks(page: Shown, endpoint_id: str | None = None) -> list[Row]:
    """Newest first."""
    rows = page.busy.router.query(
        "SELECT endpoint_id, checked_at, latency_ms FROM endpoint_health_checks ORDER BY id DESC"
    )
    return [
        {"at": local(checked_at).strftime("%Y-%m-%d %H:%M:%S"), "latency_ms": latency_ms}
        for of, checked_at, latency_ms in rows
        if endpoint_id in (None, str(of))
    ]


def history(page: Shown) -> Reported:
    return table(
        "",
        page.api("/api/requests", limit=HISTORY)["requests"],
        lambda row: local(row["completed_at"]).strftime("%Y-%m-%d %H:%M:%S"),
        {
            "Outcome": [lambda row: row["status_code"] or ABSENT],
            "Duration": ["duration_ms"],
            "Tokens (in / out)": [
                lambda row: None if row["total_tokens"] is None else [row["input_tokens"], row["output_tokens"]]
            ],
        },
    )


def request(page: Shown) -> Reported:
    row = page.api(f"/api/requests/{page.known['request_id']}")
    names = ("queue_ms", "duration_ms", "first_token_ms", "input_tokens", "output_tokens")
    return {
        Place("Outcome"): [row["status_code"] or ABSENT],
        **table(
            "Outcome",
            row["attempts"],
            "endpoint_name",
            {"Status code": [lambda attempt: attempt["status_code"] or None], "Duration": ["duration_ms"]},
        ),
        **table(
            "Bodies",
            error_texts(page),
            lambda row: row["attempt"],
            {
                "Attempt": ["attempt"],
                "Error": [lambda row: [int(digits) for digits in re.findall(r"\d+", row["message"])]],
            },
        ),
        Place("Metrics"): [row[name] for name in names],
    }


def looks(page: Shown) -> Reported:
    """Return the logged accesses to bodies."""
    noted = "SELECT count(*) FROM django_admin_log WHERE object_id = ?"
    ((count,),) = page.busy.router.query(noted, page.known["request_id"])
    return {Place(""): [count or ABSENT]}


def daily_figures(page: Shown) -> Reported:
    rows = list(daily(page))
    columns: dict[str, Sequence[Column]] = {
        "Attempts": ["attempts"],
        "Failed": ["failed"],
        "Output tokens": ["output_tokens"],
        "Total duration": ["duration_ms"],
    }
    return {Place(""): [len(rows)]} | table("", rows, "date", columns)


@dataclass
class _Day:
    attempts: int = 0
    failed: int = 0
    output_tokens: int = 0
    duration_ms: int = 0


def daily(page: Shown) -> Iterator[Row]:
    """Return attempts by local day, endpoint, model and kind, counted from the rows of the history."""
    days: dict[tuple[str, ...], _Day] = {}
    for row in page.busy.history():
        for attempt in row.attempts:
            if attempt["outcome"] != record.CANCELLED:
                day = days.setdefault((str(row.at.date()), attempt["endpoint_id"], row.model, row.kind), _Day())
                day.attempts += 1
                day.failed += attempt["outcome"] != record.OK
        if row.outcome == record.OK and row.tokens[1] and row.kind in GENERATING:
            day.output_tokens += row.tokens[1]
            day.duration_ms += max(1, round(row.attempts[-1]["duration_us"] / 1000))
    for key in sorted(sorted(days), key=lambda key: key[0], reverse=True):
        yield dict(zip(("date", "endpoint_id", "model_id", "kind"), key, strict=True)) | vars(days[key])


def keys(page: Shown) -> Reported:
    return listed(len(page.api("/api/me/api-keys")["api_keys"]))


def log(page: Shown) -> Reported:
    ((count,),) = page.busy.router.query("SELECT count(*) FROM django_admin_log")
    return {Place(""): [count]}
