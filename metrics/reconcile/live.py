"""L5: figures that a running RouterDash exposes in JSON and metrics, compared with database and journals.

Figures grow while RouterDash serves. They are therefore counted before and after each request: the exposed value must
lie between both.
"""

import http.client
import json
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from typing import Any

from endpoints.local_key import local_key
from gateway.base.config import Config
from gateway.ipc.journal import START, SegmentDeleted
from metrics.reconcile import counting, journals
from metrics.reconcile.comparison import FigureDifference, Query
from metrics.reconcile.counting import CountedFigures
from metrics.reconcile.scope import Scope, read
from metrics.storage import database

TRIES = 5
SECONDS = 30.0
SLOTS = 62  # minutes of the timeline, and those that begin during the comparison

COUNTERS = ("total_requests", "successful_requests", "failed_requests", "cancelled_requests")
DETAILS = ("total_cached_tokens", "total_cache_write_tokens", "total_reasoning_tokens")  # null: not reported
STATS = (*COUNTERS, "rejected_requests", "total_input_tokens", "total_output_tokens", "total_tokens", *DETAILS)
TOTALS = {
    "requests_ok": "stats/successful_requests",
    "requests_failed": "stats/failed_requests",
    "requests_cancelled": "stats/cancelled_requests",
    "input_tokens": "stats/total_input_tokens",
    "output_tokens": "stats/total_output_tokens",
    "cached_tokens": "stats/total_cached_tokens",
    "cache_write_tokens": "stats/total_cache_write_tokens",
    "reasoning_tokens": "stats/total_reasoning_tokens",
}
DIRECTIONS = {"cached_input": "cached", "cache_write_input": "cache_write", "reasoning_output": "reasoning"}

FiguresOf = Callable[[str], dict[str, int]]  # of the body of a response, by name


class NotExposed(Exception):
    """RouterDash did not respond, or its response contains no figures."""


def compare(config: Config) -> tuple[list[FigureDifference], list[str]]:
    """Return differences, and notes about comparisons that were left out. Raises ForeignDatabase, django.db.Error."""
    if not is_running(config):
        return [], ["not running: live figures were not compared"]
    differences: list[FigureDifference] = []
    notes: list[str] = []
    headers = {"X-API-Key": local_key()}
    for path, figures_of in RESPONSES.items():
        try:
            differences += compare_response(config, path, figures_of, headers)
        except NotExposed as error:
            notes.append(f"GET {path} {error}: its figures were not compared")
        except SegmentDeleted as error:
            notes.append(f"{error}: figures of GET {path} were not compared")
    return differences, notes


def compare_response(
    config: Config, path: str, figures_of: FiguresOf, headers: Mapping[str, str]
) -> Iterator[FigureDifference]:
    """Yield the differences of one response of the running RouterDash. Raises NotExposed, SegmentDeleted."""
    low = counted(config)
    figures = figures_in(_get(config, path, headers), figures_of)
    high = counted(config)
    for name, value in figures.items():
        lowest, highest = low.get(name, 0), high.get(name, 0)
        if _is_comparable(name, low, high) and not lowest <= value <= highest:
            expected = lowest if lowest == highest else f"{lowest} to {highest}"
            yield FigureDifference("L5", name, f"GET {path}", expected, value)


def figures_in(body: str, figures_of: FiguresOf) -> dict[str, int]:
    """Return the figures of a response by name. Raises NotExposed."""
    try:
        return figures_of(body)
    except (ValueError, KeyError, TypeError) as error:
        raise NotExposed(f"does not have the format of this release ({error!r})") from None


def _is_comparable(name: str, low: CountedFigures, high: CountedFigures) -> bool:
    """Return False for an endpoint that was added or deleted meanwhile, and for figures that are not counted here."""
    return name.startswith(("history/", "rejected/")) or (name in low and name in high)


# Counting


def counted(config: Config) -> CountedFigures:
    """Count database and journals behind the positions, by name.

    Raises SegmentDeleted if segments disappear in every attempt.
    """
    for remaining in reversed(range(TRIES)):
        try:
            with database.read_moment():
                return _counted(config, will_retry=remaining > 0)
        except SegmentDeleted:
            if not remaining:
                raise
    raise AssertionError


def _counted(config: Config, *, will_retry: bool) -> CountedFigures:
    scope = read(config)
    positions = journals.positions()
    if will_retry and any(not (scope.journal / writer).exists() for writer in positions):
        # The writer moved it into the database after this moment, or a killed process left the position.
        raise SegmentDeleted("the journal of an ended process is missing")
    figures: CountedFigures = Counter()
    endpoints = Query("SELECT id, total_requests, successful_requests, failed_requests FROM endpoints")
    present: set[str] = set()
    for endpoint_id, *counters in endpoints.rows():
        present.add(str(endpoint_id))
        for name, value in zip(COUNTERS, (*counters, 0), strict=True):
            figures[f"endpoints/{endpoint_id}/{name}"] += value
    for endpoint_id, count in Query("SELECT endpoint_id, SUM(requests_cancelled) FROM rollup_days GROUP BY 1").rows():
        figures[f"endpoints/{endpoint_id}/cancelled_requests"] += int(count)
    for name, value in Query("SELECT name, value FROM metric_totals").rows():
        exposed_as = TOTALS.get(name) or (name.replace(":", "/", 1) if name.startswith("rejected:") else "")
        if exposed_as:  # no compared page exposes the other totals
            figures[exposed_as] += value
    for minute, success, error in _minutes(scope):
        figures[f"history/{minute}/success"] += int(success)
        figures[f"history/{minute}/error"] += int(error)
    for writer in journals.writers(scope.journal, scope.database_id):
        for entries in journals.tail(scope.journal, writer, positions.get(writer, START)):
            figures.update(counting.count(entries))
    return _with_sums(figures, present)


def _minutes(scope: Scope) -> Iterator[tuple[int, int, int]]:
    """Yield the minutes of the timeline: minute, successful and failed requests."""
    rolled_up = "SELECT minute, requests_ok, requests_failed FROM rollup_minutes WHERE minute >= %s"
    yield from Query(rolled_up, (int(scope.now // 60) - SLOTS,)).rows()


def _with_sums(figures: CountedFigures, present: set[str]) -> CountedFigures:
    """Add the figures that are sums of others, and remove those of deleted endpoints, which are not exposed."""
    figures["stats/total_requests"] = figures["stats/successful_requests"] + figures["stats/failed_requests"]
    figures["stats/total_tokens"] = figures["stats/total_input_tokens"] + figures["stats/total_output_tokens"]
    figures["stats/rejected_requests"] = sum(value for name, value in figures.items() if name.startswith("rejected/"))
    for name in STATS:
        figures[f"stats/{name}"] += 0
    for name in [name for name in figures if name.startswith("endpoints/") and name.split("/")[1] not in present]:
        del figures[name]
    return figures


# Requests to control


class _SocketConnection(http.client.HTTPConnection):
    """HTTP connection to control over its Unix socket, which only this user can open."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def is_running(config: Config) -> bool:
    """Return True if control accepts connections."""
    try:
        with closing(_SocketConnection(str(config.control_socket))) as connection:
            connection.connect()
    except OSError:
        return False
    return True


def _get(config: Config, path: str, headers: Mapping[str, str]) -> str:
    try:
        with closing(_SocketConnection(str(config.control_socket))) as connection:
            connection.request("GET", path, headers={**headers, "Accept-Language": "en"})
            response = connection.getresponse()
            body = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise NotExposed(f"failed ({error or type(error).__name__})") from None
    if response.status != 200:
        raise NotExposed(f"returned status {response.status}")
    return body


# Exposed figures by name


def _overview(body: str) -> dict[str, int]:
    return _overview_figures(json.loads(body))


def _overview_figures(overview: dict[str, Any]) -> dict[str, int]:
    figures = {f"stats/{name}": overview["stats"][name] or 0 for name in STATS}
    figures |= {f"rejected/{reason}": count for reason, count in overview["stats"]["rejected_by_reason"].items()}
    for row in overview["endpoints"]:
        figures |= {f"endpoints/{row['id']}/{name}": row[name] for name in COUNTERS}
    for slot in overview["history"]:
        figures |= slot_figures(slot["minute"], slot)
    return figures


def slot_figures(minute: str, slot: dict[str, Any]) -> dict[str, int]:
    """Return the figures of a minute of the timeline, which is given in ISO 8601."""
    number = int(datetime.fromisoformat(minute).timestamp()) // 60
    return {f"history/{number}/{name}": int(slot[name]) for name in ("success", "error")}


OUTCOMES = {"ok": "successful", "failed": "failed", "cancelled": "cancelled"}
_SAMPLE = re.compile(r"^routerdash_(\w+)_total(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def _prometheus(body: str) -> dict[str, int]:
    figures: dict[str, int] = {}
    for name, labels, value in _SAMPLE.findall(body):
        label_values = dict(_LABEL.findall(labels))
        direction = label_values.get("direction", "")
        outcome = f"{OUTCOMES.get(label_values.get('outcome', 'cancelled'))}_requests"
        exposed_as = {
            "requests": f"stats/{outcome}",
            "rejected_requests": f"rejected/{label_values.get('reason')}",
            "tokens": f"stats/total_{DIRECTIONS.get(direction, direction)}_tokens",
            "endpoint_attempts": f"endpoints/{label_values.get('endpoint_id')}/{outcome}",
            "endpoint_cancelled": f"endpoints/{label_values.get('endpoint_id')}/{outcome}",
        }.get(name)
        if exposed_as is not None:
            figures[exposed_as] = int(float(value))
    return figures


RESPONSES: dict[str, FiguresOf] = {
    "/api/dashboard/overview": _overview,
    "/metrics": _prometheus,
}
