"""Compares every figure of API, page, admin, Prometheus text and database with the others and with the tally.

The client pauses meanwhile: nothing is in flight, so that all figures must be exactly equal.
"""

import json
import math
import re
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from gateway.ipc import record
from gateway.routing.adaptive import WAITED
from metrics.counting.choices import REASONS
from metrics.counting.stored_attempt import stored_attempts
from tests.router import PASSING, PASSWORD, RouterDash, until
from tests.routerdash.commands import manage
from tests.torture.costs import COST_METRICS, CostAudit
from tests.torture.tally import Tally

ERRORS = (record.FAILED, record.TRUNCATED, record.REFUSED, record.NO_ENDPOINT)
LARGEST = 200  # maximum tokens of one response
ALPHA = 0.2
# Kinds of tokens, and their label in the Prometheus text.
DIRECTIONS = {
    "input": "input",
    "output": "output",
    "cached": "cached_input",
    "cached_of": "cache_reporting_input",
    "cache_write": "cache_write_input",
    "reasoning": "reasoning_output",
}
ROUTING_TOTALS = (
    "late_binding_seconds_total", "expected_seconds_total", "actual_seconds_total", "cold_loads_total",
    "prefix_tokens_total expected", "prefix_tokens_total found",
)  # fmt: skip


class Auditor:
    """Audits one installation."""

    def __init__(self, router: RouterDash, costs: CostAudit) -> None:
        self.router = router
        self.costs = costs
        self.browser: urllib.request.OpenerDirector | None = None

    def audit(self, tally: Tally, kills: list[float]) -> list[str]:
        """Return a text for each wrong figure; an empty list if all figures are right."""
        until(lambda: self.router.stats()["total_active_requests"] == 0, 30)
        until(lambda: self.router.stats()["records_waiting"] == 0, 60)
        api = self.router.overview()
        stats = api["stats"]
        rows = self._history()
        unrecorded = stats["records_unrecorded"]
        wrong = tally.check(rows, unrecorded, kills)
        wrong += tally.check_rejected(stats["rejected_requests"], unrecorded)
        tokens = self._tokens()
        wrong += tally.check_tokens(tokens, unrecorded, LARGEST)
        wrong += _differences("tokens of stats and history", _reported_tokens(stats), _sums_by_kind(tokens))
        wrong += _differences("stats and history", self._reported_totals(stats), _totals(rows))
        page = self.page("/")
        wrong += _differences("stats and the page", _numbers(stats), _page_stats(page))
        wrong += _differences("stats and Prometheus", _prometheus_of(api) | self._routing(), self._prometheus())
        wrong += _differences("endpoints in the API and the database", _endpoint_rows(api), self._stored_endpoints())
        wrong += _differences("endpoints in the API and on the page", _shown_rows(api), _page_endpoints(page))
        wrong += _differences("endpoints in the API and the admin", _shown_rows(api), self._admin_attempts(api))
        wrong += _differences("timeline and history", _timeline(api), self._minutes(api))
        wrong += self._averages(api)
        wrong += self.costs.audit(tally)
        wrong += self._reconcile()
        again = self.router.stats()["figures_version"]
        if again != stats["figures_version"]:
            wrong.append(f"figures changed while nothing ran: version {stats['figures_version']}, then {again}")
        return wrong

    # The database

    def _history(self) -> Counter[tuple[str, str]]:
        counts: Counter[tuple[str, str]] = Counter()
        sql = "SELECT model, outcome, count(*), count(DISTINCT id) FROM request_history GROUP BY model, outcome"
        for model, outcome, count, different in self.router.query(sql):
            assert count == different, f"{count - different} ids of {model} are there twice"
            counts[model, outcome] = count
        return counts

    def _tokens(self) -> Counter[tuple[str, str]]:
        sums = "COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0)"
        sql = f"SELECT model, {sums} FROM request_history GROUP BY 1"
        tokens: Counter[tuple[str, str]] = Counter()
        for model, tokens_in, tokens_out in self.router.query(sql):
            tokens[model, "input"], tokens[model, "output"] = int(tokens_in), int(tokens_out)
        for model, made, attempts in self.router.query("SELECT model, input_tokens, attempts FROM request_history"):
            for last in stored_attempts(attempts)[-1:]:
                tokens[model, "cached"] += last.cached_tokens or 0
                tokens[model, "cached_of"] += 0 if last.cached_tokens is None else made
                tokens[model, "cache_write"] += last.cache_write_tokens or 0
                tokens[model, "reasoning"] += last.reasoning_tokens or 0
        return tokens

    def _stored_endpoints(self) -> dict[str, tuple[int, ...]]:
        sql = "SELECT id, total_requests, successful_requests, failed_requests FROM endpoints"
        return {str(row[0]): row[1:] for row in self.router.query(sql)}

    def _minutes(self, api: dict[str, Any]) -> dict[str, tuple[int, int]]:
        """The non-empty minutes of the last hour, by a GROUP BY over the history."""
        minute = "substr(completed_at, 1, 16)"
        if self.router.database_url:
            minute = "to_char(completed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI')"
        sql = (
            f"SELECT {minute}, SUM(CASE WHEN outcome = 'ok' THEN 1 ELSE 0 END), "
            "SUM(CASE WHEN outcome = 'ok' THEN 0 ELSE 1 END) "
            "FROM request_history WHERE outcome <> 'cancelled' GROUP BY 1"
        )
        slots = {slot["minute"][:16] for slot in api["history"]}
        return {str(slot): (int(ok), int(bad)) for slot, ok, bad in self.router.query(sql) if str(slot) in slots}

    def _averages(self, api: dict[str, Any]) -> list[str]:
        """Check the average response time and each model's speed by a recursion over the whole history."""
        wrong = []
        (count, duration), *_ = self.router.query(
            "SELECT count(*), COALESCE(SUM(duration_us), 0) FROM request_history WHERE outcome = 'ok'"
        )
        reported = api["stats"]["average_response_time_ms"]
        if count and not math.isclose(reported, int(duration) / count / 1000, rel_tol=1e-9):
            wrong.append(f"average response time: {reported} reported, {int(duration) / count / 1000} by the history")
        speeds = self._speeds()
        for row in api["endpoints"]:
            for reported in self.router.get(f"/api/endpoints/{row['id']}/model-tps").json():
                speed = speeds.get((row["id"], reported["model_id"], reported["api_kind"]))
                if not (reported["tps"] is None and speed is None) and not math.isclose(
                    reported["tps"], speed or 0, rel_tol=1e-6
                ):
                    wrong.append(
                        f"{row['name']} {reported['model_id']}: {reported['tps']} tokens/s, {speed} by the history"
                    )
        return wrong

    def _speeds(self) -> dict[tuple[str, str, str], float]:
        sql = (
            "SELECT endpoint_id, model, kind, output_tokens, duration_us, attempts FROM request_history "
            "WHERE outcome = 'ok' AND output_tokens > 0 ORDER BY completed_at, substr(CAST(id AS text), 25)"
        )
        speeds: dict[tuple[str, str, str], float] = {}
        for endpoint, model, kind, tokens, duration, attempts in self.router.query(sql):
            took = _last_duration(attempts) or duration
            speed = tokens / (took / 1e6)
            key = str(endpoint), model, kind
            speeds[key] = speed if key not in speeds else ALPHA * speed + (1 - ALPHA) * speeds[key]
        return speeds

    def _routing(self) -> dict[str, float]:
        """Return the totals of adaptive routing by the stored attempts, under their names in the Prometheus text."""
        totals = Counter(dict.fromkeys((*(f"choices_total {reason}" for reason in REASONS), *ROUTING_TOTALS), 0))
        for outcome, queue_us, stored in self.router.query("SELECT outcome, queue_us, attempts FROM request_history"):
            attempts = stored_attempts(stored)
            if not attempts or (work := attempts[-1].work) is None:
                continue
            totals.update(f"choices_total {attempt.reason}" for attempt in attempts)
            last = attempts[-1]
            if last.reason == WAITED:
                totals["late_binding_seconds_total"] += queue_us or 0
            if work.is_cold:
                totals["cold_loads_total"] += 1
            elif outcome == last.outcome == record.OK:
                totals["expected_seconds_total"] += work.expected_us
                totals["actual_seconds_total"] += last.duration_us
            if last.cached_tokens is not None:
                totals["prefix_tokens_total expected"] += work.prefix_tokens
                totals["prefix_tokens_total found"] += min(last.cached_tokens, work.prefix_tokens)
        return {
            f"routerdash_routing_{name}": value / 1e6 if "_seconds_" in name else value
            for name, value in totals.items()
        }

    def _reconcile(self) -> list[str]:
        done = manage("reconcile", **self.router.environment)
        return [] if done.code == 0 else [f"reconcile: {line}" for line in (done.out + done.err).splitlines()]

    # Pages

    def _reported_totals(self, stats: dict[str, Any]) -> dict[str, int]:
        return {name: stats[f"{name}_requests"] for name in ("successful", "failed", "cancelled")}

    def page(self, path: str) -> str:
        if self.browser is None:
            status, self.browser = self.router.log_in("admin", PASSWORD)
            assert status == 200, "the login failed"
        with self.browser.open(f"{self.router.url}{path}", timeout=30) as response:
            text: str = response.read().decode()
        return text

    def _admin_attempts(self, api: dict[str, Any]) -> dict[str, tuple[int, int]]:
        text = self.page("/admin/endpoints/endpoint/")
        rows = [row for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL) if "field-attempts" in row]
        return {
            row["id"]: (_cell(line, "attempts"), _cell(line, "failures"))
            for row in api["endpoints"]
            for line in rows
            if row["id"] in line
        }

    def _prometheus(self) -> dict[str, float]:
        text = self.router.get("/metrics").body.decode()
        return dict(_samples(text))


TOKENS = "routerdash_endpoint_tokens_total"
NUMBERS = ("total_requests", "cancelled_requests", "rejected_requests", "total_tokens", "total_output_tokens")


def _numbers(stats: dict[str, Any]) -> dict[str, int]:
    return {name: stats[name] for name in NUMBERS}


def _page_stats(page: str) -> dict[str, int]:
    figures = re.findall(r'data-stat="(\w+)">([\d,]+)<', page)
    return {name: _whole(text) for name, text in figures if name in NUMBERS}


def _page_endpoints(page: str) -> dict[str, tuple[int, int]]:
    rows = re.findall(r'<tr [^>]*data-endpoint="([^"]+)"[^>]*>(.*?)</tr>', page, re.DOTALL)
    return {key: (_value(row, "total_requests"), _value(row, "failed_requests")) for key, row in rows}


def _reported_tokens(stats: dict[str, Any]) -> dict[str, int]:
    return {kind: stats[f"total_{kind}_tokens"] or 0 for kind in DIRECTIONS}


def _sums_by_kind(tokens: Counter[tuple[str, str]]) -> dict[str, int]:
    """Return the tokens of all models, by kind."""
    sums = dict.fromkeys(DIRECTIONS, 0)
    for (_, kind), count in tokens.items():
        sums[kind] += count
    return sums


def _totals(rows: Counter[tuple[str, str]]) -> dict[str, int]:
    def of(*outcomes: str) -> int:
        return sum(count for (_, outcome), count in rows.items() if outcome in outcomes)

    return {"successful": of(record.OK), "failed": of(*ERRORS), "cancelled": of(record.CANCELLED)}


def _endpoint_rows(api: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {
        row["id"]: (row["total_requests"], row["successful_requests"], row["failed_requests"])
        for row in api["endpoints"]
    }


def _shown_rows(api: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {row["id"]: (row["total_requests"], row["failed_requests"]) for row in api["endpoints"]}


def _timeline(api: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {
        slot["minute"][:16]: (slot["success"], slot["error"])
        for slot in api["history"]
        if slot["success"] or slot["error"]
    }


def _prometheus_of(api: dict[str, Any]) -> dict[str, float]:
    """Return the API's figures under their names in the Prometheus text."""
    stats = api["stats"]
    reported = {
        "routerdash_requests_total ok": stats["successful_requests"],
        "routerdash_requests_total failed": stats["failed_requests"],
        "routerdash_requests_total cancelled": stats["cancelled_requests"],
    }
    for kind, direction in DIRECTIONS.items():
        if (count := stats[f"total_{kind}_tokens"]) is not None:
            reported[f"routerdash_tokens_total {direction}"] = count
    for reason, count in stats["rejected_by_reason"].items():
        reported[f"routerdash_rejected_requests_total {reason}"] = count
    for bound, count in stats["bound_hits"].items():
        reported[f"routerdash_bound_hits_total {bound}"] = count
    for row in api["endpoints"]:
        reported[f"routerdash_endpoint_attempts_total {row['id']} ok"] = row["successful_requests"]
        reported[f"routerdash_endpoint_attempts_total {row['id']} failed"] = row["failed_requests"]
        reported[f"routerdash_endpoint_cancelled_total {row['id']}"] = row["cancelled_requests"]
    # No endpoint is deleted here, and no other program creates endpoints.
    reported[f"{TOKENS} input"], reported[f"{TOKENS} output"] = (
        stats["total_input_tokens"],
        stats["total_output_tokens"],
    )
    return reported


def _samples(text: str) -> Iterator[tuple[str, float]]:
    """Return the counters of the Prometheus text: name and labels without the endpoint's name, and the value."""
    tokens = Counter[str]()  # over all endpoints
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == TOKENS:
                tokens[f"{TOKENS} {sample.labels['direction']}"] += int(sample.value)
            elif sample.name in COST_METRICS:
                pass  # see tests.torture.costs
            elif sample.name.endswith("_total") and not sample.name.startswith("routerdash_journal"):
                labels = [value for label, value in sample.labels.items() if label != "endpoint_name"]
                yield " ".join((sample.name, *labels)), sample.value
    yield from tokens.items()


def _differences(what: str, one: dict[Any, Any], other: dict[Any, Any]) -> list[str]:
    keys = sorted({*one, *other}, key=str)
    return [f"{what}: {key} is {one.get(key)} and {other.get(key)}" for key in keys if one.get(key) != other.get(key)]


def _last_duration(attempts: Any) -> int | None:
    parsed = json.loads(attempts) if isinstance(attempts, str) else attempts
    return parsed[-1]["duration_us"] if parsed else None


def _whole(text: str) -> int:
    return int(text.replace(",", ""))


def _value(row: str, name: str) -> int:
    match = re.search(rf'data-value="{name}">([\d,]+)<', row)
    assert match, f"the page does not show {name}"
    return _whole(match[1])


def _cell(row: str, name: str) -> int:
    match = re.search(rf'class="field-{name}[^"]*">([\d,]+)<', row)
    assert match, f"the admin does not show {name}"
    return _whole(match[1])


def identical(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the fields of the overview that a clean restart changed; times of checks and versions may change."""
    return _differences("before and after the restart", _lasting_fields(before), _lasting_fields(after))


def _lasting_fields(api: dict[str, Any]) -> dict[str, Any]:
    stats = {name: value for name, value in api["stats"].items() if name not in PASSING}
    checked = ("latency_ms", "last_seen", "last_error", "error_count", "status", "breaker", "breaker_trial_due")
    endpoints = {
        row["id"]: {name: value for name, value in row.items() if name not in checked} for row in api["endpoints"]
    }
    return {
        **{f"stats.{name}": value for name, value in stats.items() if not name.endswith("_runtimes")},
        **endpoints,
        "tps": sorted(api["endpoint_tps"], key=lambda row: str(row["endpoint_id"])),
    }
