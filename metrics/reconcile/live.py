"""L5: what a running RouterDash tells, in JSON, on its pages and in the admin, against database and journals.

While it serves, figures grow. So they are counted before and after it is asked: what it tells lies between.
"""

import http.client
import json
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from html.parser import HTMLParser
from importlib import import_module
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth import get_user_model

from gateway.config import Config
from gateway.journal import START, Gone
from metrics import database
from metrics.reconcile import counting, journals
from metrics.reconcile.comparison import Difference, Query
from metrics.reconcile.counting import Figures
from metrics.reconcile.scope import Scope, read

TRIES = 5
SECONDS = 30.0
SLOTS = 62  # the timeline's minutes, and those that begin while it is asked

COUNTERS = ("total_requests", "successful_requests", "failed_requests", "cancelled_requests")
STATS = (*COUNTERS, "rejected_requests", "total_input_tokens", "total_output_tokens", "total_tokens")
TOTALS = {
    "requests_ok": "stats/successful_requests",
    "requests_failed": "stats/failed_requests",
    "requests_cancelled": "stats/cancelled_requests",
    "input_tokens": "stats/total_input_tokens",
    "output_tokens": "stats/total_output_tokens",
}


class Untold(Exception):
    """It did not answer, or not with figures."""


def compare(config: Config) -> tuple[list[Difference], list[str]]:
    """Differences, and what was left out, and why. Raises NotOurs, Error."""
    if not _answers(config):
        return [], ["not running: live figures were not compared"]
    cookie = _cookie()
    if cookie is None:
        return [], ["there is no administrator to ask as: live figures were not compared"]
    differences: list[Difference] = []
    notes: list[str] = []
    for path in TOLD:
        try:
            differences += _compare(config, path, cookie)
        except Untold as error:
            notes.append(f"GET {path} {error}: its figures were not compared")
        except Gone as error:
            notes.append(f"{error}: figures of GET {path} were not compared")
    return differences, notes


def _compare(config: Config, path: str, cookie: str) -> Iterator[Difference]:
    low = counted(config)
    figures = _figures(path, _get(config, path, cookie))
    high = counted(config)
    for name, value in figures.items():
        lowest, highest = low.get(name, 0), high.get(name, 0)
        if _is_known(name, low, high) and not lowest <= value <= highest:
            expected = lowest if lowest == highest else f"{lowest} to {highest}"
            yield Difference("L5", name, f"GET {path}", expected, value)


def _figures(path: str, body: str) -> dict[str, int]:
    try:
        return TOLD[path](body)
    except (ValueError, KeyError, TypeError) as error:
        raise Untold(f"is not as this release tells it ({error!r})") from None


def _is_known(name: str, low: Figures, high: Figures) -> bool:
    """An endpoint may have come or gone in between, and pages tell more than what is counted here."""
    return name.startswith(("history/", "rejected/")) or (name in low and name in high)


# Counting


def counted(config: Config) -> Figures:
    """Database and tails of the journals, by name. Raises Gone when RouterDash is too fast for it, again and again."""
    for left in reversed(range(TRIES)):
        try:
            with database.read_moment():
                return _counted(config, patient=left > 0)
        except Gone:
            if not left:
                raise
    raise AssertionError


def _counted(config: Config, *, patient: bool) -> Figures:
    scope = read(config)
    known = journals.positions()
    if patient and any(not (scope.journal / writer).exists() for writer in known):
        raise Gone("a dead writer's journal")  # into the database, behind this moment; or a kill left its position
    figures: Figures = Counter()
    endpoints = Query("SELECT id, total_requests, successful_requests, failed_requests FROM endpoints")
    present: set[str] = set()
    for endpoint_id, *counters in endpoints.rows():
        present.add(str(endpoint_id))
        for name, value in zip(COUNTERS, (*counters, 0), strict=True):
            figures[f"endpoints/{endpoint_id}/{name}"] += value
    for endpoint_id, count in Query("SELECT endpoint_id, SUM(requests_cancelled) FROM rollup_days GROUP BY 1").rows():
        figures[f"endpoints/{endpoint_id}/cancelled_requests"] += int(count)
    for name, value in Query("SELECT name, value FROM metric_totals").rows():
        told_as = TOTALS.get(name) or (name.replace(":", "/", 1) if name.startswith("rejected:") else "")
        if told_as:  # others are told by nothing that is compared
            figures[told_as] += value
    for minute, success, error in _minutes(scope):
        figures[f"history/{minute}/success"] += int(success)
        figures[f"history/{minute}/error"] += int(error)
    for writer in journals.writers(scope.journal, scope.database_id):
        for entries in journals.tail(scope.journal, writer, known.get(writer, START)):
            figures.update(counting.of(entries))
    return _summed(figures, present)


def _minutes(scope: Scope) -> Iterator[tuple[int, int, int]]:
    """Minutes of the timeline."""
    rolled_up = "SELECT minute, requests_ok, requests_failed FROM rollup_minutes WHERE minute >= %s"
    yield from Query(rolled_up, (int(scope.now // 60) - SLOTS,)).rows()


def _summed(figures: Figures, present: set[str]) -> Figures:
    """With the figures that are sums of others; without endpoints that are no more, of whom nothing is told."""
    figures["stats/total_requests"] = figures["stats/successful_requests"] + figures["stats/failed_requests"]
    figures["stats/total_tokens"] = figures["stats/total_input_tokens"] + figures["stats/total_output_tokens"]
    figures["stats/rejected_requests"] = sum(value for name, value in figures.items() if name.startswith("rejected/"))
    for name in STATS:
        figures[f"stats/{name}"] += 0
    for name in [name for name in figures if name.startswith("endpoints/") and name.split("/")[1] not in present]:
        del figures[name]
    return figures


# Asking


class _OverSocket(http.client.HTTPConnection):
    """HTTP to control itself, over its Unix socket, which this user alone can open."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _answers(config: Config) -> bool:
    try:
        with closing(_OverSocket(str(config.control_socket))) as connection:
            connection.connect()
    except OSError:
        return False
    return True


def _cookie() -> str | None:
    """For the first administrator: whoever can read the secret key and reaches control's socket may ask as anybody."""
    users = get_user_model().objects.filter(role="admin", must_change_password=False)
    user = users.order_by("created_at").first()
    if user is None:
        return None
    cookie: str = import_module(settings.SESSION_ENGINE).local_cookie(user)
    return cookie


def _get(config: Config, path: str, cookie: str) -> str:
    headers = {"Cookie": cookie, "Accept-Language": "en"}
    try:
        with closing(_OverSocket(str(config.control_socket))) as connection:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise Untold(f"failed ({error or type(error).__name__})") from None
    if response.status != 200:
        raise Untold(f"answered {response.status}")
    return body


# What is told, by name


def _overview(body: str) -> dict[str, int]:
    return _of_overview(json.loads(body))


def _of_overview(told: dict[str, Any]) -> dict[str, int]:
    figures = {f"stats/{name}": told["stats"][name] for name in STATS}
    figures |= {f"rejected/{reason}": count for reason, count in told["stats"]["rejected_by_reason"].items()}
    for row in told["endpoints"]:
        figures |= {f"endpoints/{row['id']}/{name}": row[name] for name in COUNTERS}
    for slot in told["history"]:
        minute = int(datetime.fromisoformat(slot["minute"]).timestamp()) // 60
        figures |= {f"history/{minute}/{name}": slot[name] for name in ("success", "error")}
    return figures


def _page(body: str) -> dict[str, int]:
    """The page twice: what stands on it, and what its script draws."""
    page = _Page()
    page.feed(body)
    return _of_overview(json.loads(page.script)) | page.figures


def _admin(body: str) -> dict[str, int]:
    page = _Page()
    page.feed(body)
    return page.figures


OUTCOMES = {"ok": "successful", "failed": "failed", "cancelled": "cancelled"}
_SAMPLE = re.compile(r"^routerdash_(\w+)_total(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def _prometheus(body: str) -> dict[str, int]:
    figures: dict[str, int] = {}
    for name, labels, value in _SAMPLE.findall(body):
        at = dict(_LABEL.findall(labels))
        outcome = f"{OUTCOMES.get(at.get('outcome', 'cancelled'))}_requests"
        told_as = {
            "requests": f"stats/{outcome}",
            "rejected_requests": f"rejected/{at.get('reason')}",
            "tokens": f"stats/total_{at.get('direction')}_tokens",
            "endpoint_attempts": f"endpoints/{at.get('endpoint_id')}/{outcome}",
            "endpoint_cancelled": f"endpoints/{at.get('endpoint_id')}/{outcome}",
        }.get(name)
        if told_as is not None:
            figures[told_as] = int(float(value))
    return figures


class _Page(HTMLParser):
    """Collects the figures that are marked as such on the overview, and columns of the admin's list of endpoints."""

    COLUMNS: ClassVar = {"field-attempts": "total_requests", "field-failures": "failed_requests"}

    def __init__(self) -> None:
        super().__init__()
        self.figures: dict[str, int] = {}
        self.script = ""
        self._endpoint = self._name = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        at = {name: value or "" for name, value in attrs}
        if "data-endpoint" in at or at.get("name") == "_selected_action":
            self._endpoint = at.get("data-endpoint") or at["value"]
        column = at.get("data-value") or self.COLUMNS.get(at.get("class", ""))
        if "data-stat" in at:
            self._name = f"stats/{at['data-stat']}"
        elif column:
            self._name = f"endpoints/{self._endpoint}/{column}"
        elif tag == "script" and at.get("id") == "live":
            self._name = "script"

    def handle_endtag(self, tag: str) -> None:
        self._name = ""

    def handle_data(self, data: str) -> None:
        number = data.strip().replace(",", "")
        if self._name == "script":
            self.script += data
        elif self._name and number.isdigit():
            self.figures[self._name] = int(number)


TOLD: dict[str, Callable[[str], dict[str, int]]] = {
    "/api/dashboard/overview": _overview,
    "/": _page,
    "/admin/endpoints/endpoint/": _admin,
    "/metrics": _prometheus,
}
