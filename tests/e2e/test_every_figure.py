"""Every figure on every page equals that of the JSON API, the sent requests, the history and the audit's recount.

The tests find pages by their paths, and figures by reading them (`tests/displayed_figures.py`). A page or a figure
without a rule fails. A rule (`tests/expected_figures.py`) gives the figures of the API for each place of a page. The
tests query the API before and after they read a page, since some figures move with the clock (ages, uptime): the
displayed figure lies between.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl

import pytest
from django.urls import reverse
from playwright.sync_api import Browser, Page, expect

from benchmarks.simulator import Simulator
from gateway.ipc import record
from tests import displayed_figures, expected_by_machines, expected_prices, expected_usage
from tests import expected_figures as expected
from tests import expected_in_admin as in_admin
from tests import expected_in_keys as in_keys
from tests import expected_in_rollups as in_rollups
from tests import expected_in_routing as in_routing
from tests import sample_installation as sample
from tests.browser import log_in
from tests.conftest import drop_database, new_database
from tests.expected_figures import Reported, Rule, Shown
from tests.pages import BEFORE_LOGIN, admin_pages, own_pages
from tests.router import RouterDash, until
from tests.sample_installation import Busy, Ended
from tests.slices import slice_tests

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(180)]

# Elements whose digits all belong to texts.
DOCUMENTATION = {"api-docs"}

PASSWORD_RULES = (8, 12, 72)  # minimum characters of a password, of an administrator's password, and maximum bytes

ENDPOINT = in_routing.together(expected.endpoint, in_routing.learned)
PAGES: dict[str, list[tuple[str, Rule]]] = {
    "overview": [("", expected.overview)],
    "endpoints": [
        ("", expected.endpoints),
        ("status=offline", expected.endpoints),
        ("q=basement", expected.endpoints),
    ],
    "endpoint-add": [("", expected.nothing)],
    "discover": [("", expected.nothing)],
    "endpoint": [
        ("", ENDPOINT),
        *((f"days={days}", ENDPOINT) for days in (1, 7, 90)),
    ],
    "models": [
        ("", in_routing.together(expected.models, in_routing.model_names)),
        ("state=ready", in_routing.together(expected.models, in_routing.model_names)),
        ("sort=requests", in_routing.together(expected.models, in_routing.model_names)),
    ],
    "model": [("", in_routing.together(expected.model, in_routing.route))],
    "model-name": [("", in_routing.model_name)],
    "requests": [
        ("limit=500", expected.requests),
        ("limit=500&outcome=error", expected.requests),
        ("limit=500&retried=true", expected.requests),
        (f"limit=500&client_ip={sample.CLIENTS[0]}&min_tokens=14", expected.requests),
        ("limit=20&id={request_id}", expected.drawer),
    ],
    "request": [("", in_routing.together(expected.request, in_routing.explanation))],
    "request-bodies": [("", in_routing.together(expected.bodies, in_routing.explanation))],
    "conversations": [
        ("", in_routing.conversations),
        (f"model={sample.SHARED}", in_routing.conversations),
        ("api_key_id={key_id}&endpoint_id={endpoint_id}", in_routing.conversations),
    ],
    "conversation": [("", in_routing.conversation)],
    "keys": [("", in_keys.keys)],
    "key": [("", in_keys.key)],
    "limits": [("", expected.nothing)],
    "limits-everyone": [("", expected.nothing)],
    "limits-key": [("", expected.nothing)],
    "limits-keys": [("", expected.nothing)],
    "limits-user": [("", expected.nothing)],
    "key-delete": [("", expected.nothing)],
    "key-rotate": [("", expected.nothing)],
    "connect": [("", expected.nothing)],
    "live": [("", expected.live)],
    "playground": [("", expected.nothing)],
    "usage": [
        *((f"by={by}&range=90d", expected_usage.usage) for by in expected_usage.CALLED),
        *(
            (f"by={by}&measure=requests&range={span}", expected_usage.usage)
            for by, span in (("model", "30d"), ("key", "7d"))
        ),
        (f"by=key&range=90d&model={sample.LARGE}", expected_usage.usage),
        ("by=model&api_key_id={key_id}&endpoint_id={endpoint_id}", expected_usage.usage),
    ],
    "clients": [(f"range={span}", expected.clients) for span in ("24h", "7d", "30d")],
    "client": [("", expected.client), ("range=30d", expected.client)],
    "prices": [("", expected_prices.prices), ("q=org", expected_prices.prices)],
    "search": [("q=org", expected.nothing)],
    "admin:index": [("", expected.nothing)],
    "admin:endpoints_endpoint_changelist": [("", in_admin.endpoints)],
    "admin:endpoints_namedmodel_changelist": [("", in_admin.model_names)],
    "admin:endpoints_namedmodel_add": [("", in_admin.new_model_name)],
    "admin:metrics_pricerow_changelist": [("", in_admin.prices)],
    "admin:metrics_pricerow_add": [("", in_admin.new_price)],
    "admin:metrics_currencyrate_changelist": [("", in_admin.rates)],
    "admin:metrics_currencyrate_add": [("", in_admin.new_rate)],
    "admin:endpoints_endpoint_add": [("", in_admin.new_endpoint)],
    "admin:endpoints_endpoint_change": [("", in_admin.endpoint)],
    "admin:endpoints_endpoint_history": [("", in_admin.edits)],
    "admin:endpoints_endpoint_delete": [("", in_admin.deleted_endpoint)],
    "admin:endpoints_endpointmodel_changelist": [("", in_admin.models)],
    "admin:endpoints_healthcheck_changelist": [("", in_admin.checks)],
    "admin:metrics_dailystat_changelist": [("", in_admin.daily_figures)],
    "admin:metrics_minuterollup_changelist": [
        (query, in_rollups.cells(in_rollups.MINUTE, 10))
        for query in ("", "date={day}", "date={hour}", "endpoint={endpoint_id}", "kind=embeddings")
    ],
    "admin:metrics_dayrollup_changelist": [
        (query, in_rollups.cells(in_rollups.DAY, 7))
        for query in ("", "date={month}", "date={day}", "endpoint={endpoint_id}", "kind=embeddings")
    ],
    "admin:metrics_monthrollup_changelist": [
        (query, in_rollups.cells(in_rollups.MONTH, 7))
        for query in ("", "date={month}", "endpoint={endpoint_id}", "kind=embeddings")
    ],
    "admin:metrics_allclientsrollup_changelist": [
        (query, in_rollups.hours_of_all_clients) for query in ("", "date={month}", "date={day}")
    ],
    "admin:metrics_clienthourrollup_changelist": [
        (query, in_rollups.hours_of_clients) for query in ("", "date={month}", "date={day}", "q={address}")
    ],
    "admin:metrics_clientdayrollup_changelist": [
        (query, in_rollups.days_of_clients) for query in ("", "date={month}", "date={day}", "q={address}")
    ],
    "admin:metrics_requesthistory_changelist": [("", in_admin.history)],
    "admin:metrics_requesthistory_change": [("", in_admin.request)],
    "admin:metrics_requesthistory_history": [("", in_admin.looks)],
    "admin:access_apikey_changelist": [("", in_admin.keys)],
    "admin:access_apikey_add": [("", expected.nothing)],
    "admin:access_apikey_change": [("", expected.nothing)],
    "admin:access_apikey_history": [("", expected.nothing)],
    "admin:access_apikey_delete": [("", in_admin.constant(1))],
    "admin:access_user_changelist": [("", in_admin.constant(0, 1, 1))],
    "admin:access_user_add": [("", in_admin.constant(*PASSWORD_RULES))],
    "admin:admin_logentry_changelist": [("", in_admin.log)],
    "account": [("", expected.nothing)],
    "password-change": [("", in_admin.constant(*PASSWORD_RULES, panel="change"))],
}
for _of_slice in slice_tests():
    PAGES.update(_of_slice.pages)


@dataclass(frozen=True)
class Case:
    """A page with its query and the arguments of its path."""

    name: str
    query: str
    rule: Rule | None
    arguments: tuple[str, ...]

    def path(self, known: dict[str, str]) -> str:
        """The admin calls its only argument by its own name."""
        values = {name: known[name] for name in self.arguments}
        return reverse(self.name, args=[*values.values()]) if ":" in self.name else reverse(self.name, kwargs=values)

    def __str__(self) -> str:
        return f"{self.name}?{self.query}" if self.query else self.name


def cases() -> Iterator[Case]:
    own = {str(page.name): tuple(page.pattern.converters) for page in own_pages()}
    of_admin = {name: (argument,) if argument else () for name, argument in admin_pages()}
    for name, arguments in (own | of_admin).items():
        if name not in BEFORE_LOGIN | DOCUMENTATION:
            yield from (Case(name, query, rule, arguments) for query, rule in PAGES.get(name, [("", None)]))


CASES = list(cases())


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, simulator: Simulator) -> Iterator[Busy]:
    router = RouterDash(tmp_path_factory.mktemp("busy"), new_database(), **sample.ENVIRONMENT)
    with ExitStack() as stack:
        stack.callback(drop_database, router.database_url)
        stack.callback(router.kill)
        yield sample.start(router, simulator, stack)


# Possible values of an argument; the first ones also for filtered pages.
EXAMPLES: dict[str, Callable[[Busy], Iterable[str]]] = {
    "endpoint_id": lambda busy: busy.ids.values(),
    "request_id": lambda busy: requests_of_each_kind(busy).values(),
    "conversation": lambda busy: [row["conversation"] for row in busy.api("/api/conversations")["conversations"]],
    "name_id": lambda busy: [named(busy)],
    "key_id": lambda busy: [busy.keys["laptop"], busy.keys["bootstrap"]],
    "user_id": lambda busy: [
        str(user) for (user,) in busy.router.query("SELECT id FROM users ORDER BY username LIMIT 1")
    ],
    "name": lambda busy: [name for server in busy.simulated.values() for name in server.behaviour.models],
    "month": lambda busy: moments(busy, "%Y-%m"),
    "day": lambda busy: moments(busy, "%Y-%m-%d"),
    "hour": lambda busy: moments(busy, "%Y-%m-%d+%H"),
    "address": lambda _: sample.CLIENTS,
    "client": lambda _: [
        sample.CLIENTS[0],
        "2001:db8::/64",
        "127.0.0.1",
        sample.CLIENTS[2],
        "203.0.113.9",
    ],
}
for _of_slice in slice_tests():
    EXAMPLES.update(_of_slice.examples)


def requests_of_each_kind(busy: Busy) -> dict[Any, str]:
    rows = busy.api("/api/requests?limit=500")["requests"]
    return {(row["outcome"], row["streamed"], *map(is_explained, row["attempts"])): row["id"] for row in rows}


def is_explained(attempt: dict[str, Any]) -> bool:
    return attempt["work"] is not None


def named(busy: Busy) -> str:
    """Return the id of a model name without requests, whose steps lead to a shared model."""
    for name in busy.api("/api/model-names")["model_names"]:
        return str(name["id"])
    steps = [{"targets": [{"model": sample.SHARED}]}]
    return str(busy.change("POST", "/api/model-names", {"name": "own-name", "steps": steps})["id"])


def moments(busy: Busy, form: str) -> list[str]:
    """Return the times at which requests ended, the latest first."""
    return sorted({request.at.strftime(form) for request in busy.history()}, reverse=True)


def examples(busy: Busy, case: Case) -> list[dict[str, str]]:
    names = [*case.arguments, *re.findall(r"{(\w+)}", case.query)]
    rows = zip(*(EXAMPLES[name](busy) for name in names), strict=False) if names else [()]
    choices = [dict(zip(names, row, strict=True)) for row in rows]
    return choices[:2] if case.query and "request_id" not in names else choices


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_page_shows_the_figures_of_the_api(busy: Busy, case: Case) -> None:
    rule = case.rule
    assert rule is not None, f"add a rule to PAGES for the page {case.name}"
    wrong: list[str] = []
    for known in examples(busy, case):
        query = case.query.format(**known)
        path = case.path(known)
        page = Shown(busy, dict(parse_qsl(query)), known)
        wrong += differences(rule, page, path, partial(busy.page, f"{path}?{query}"))
    assert not wrong, "\n".join(wrong)


def test_every_rule_belongs_to_a_page() -> None:
    assert PAGES.keys() | SCRIPTED.keys() <= {case.name for case in CASES}


# Pages that respond to forms, by the sent fields.

Fields = Callable[[Busy], dict[str, Any]]
CHOSEN = ("holder", "drained", sample.BUSIEST)


def chosen(name: str, action: str) -> Fields:
    return lambda busy: {"action": action, name: [busy.ids[server] for server in CHOSEN]}


def at_server(name: str) -> Fields:
    return lambda busy: {"look": "yes", "base_url": (busy.beside | busy.simulated)[name].url}


REQUESTED = ("drain", "disable", "reset_breaker")  # before it is done
RESPONSES: list[tuple[str, str, Fields, Rule]] = [
    *((action, "endpoints-act", chosen("endpoint", action), expected.confirmation) for action in REQUESTED),
    *(
        (action, "admin:endpoints_endpoint_changelist", chosen("_selected_action", action), in_admin.confirmation)
        for action in REQUESTED
    ),
    ("found", "discover", lambda _: {}, expected.discovered),
    *(
        (f"look {name}", "endpoint-add", at_server(name), expected.detected)
        for name in ("several", "alone", sample.BUSIEST)
    ),
]


@pytest.mark.parametrize(
    ("_", "name", "fields", "rule"), RESPONSES, ids=[f"{response[1]} {response[0]}" for response in RESPONSES]
)
def test_a_response_to_a_form_shows_the_figures_of_the_api(
    busy: Busy, _: str, name: str, fields: Fields, rule: Rule
) -> None:
    sent, path = fields(busy), reverse(name)
    wrong = differences(rule, Shown(busy, sent, {}), path, partial(busy.submit, path, sent))
    assert not wrong, "\n".join(wrong)


def differences(rule: Rule, shown_page: Shown, path: str, read: Callable[[], str]) -> list[str]:
    """Return differences between a page and the API; try again after a new minute or health check."""

    def look() -> tuple[Reported, str, Reported] | None:
        before, page, after = rule(shown_page), read(), rule(shown_page)
        return (before, page, after) if expected.shape(before) == expected.shape(after) else None

    before, page, after = until(look)
    texts = displayed_figures.places(displayed_figures.main_of(displayed_figures.parsed(page)))
    return [f"{path} {text}" for text in expected.differences(texts, before, after, shown_page.busy.names)]


def grouped(busy: Busy, by: Callable[[Ended], Any]) -> dict[Any, list[Ended]]:
    groups: dict[Any, list[Ended]] = {}
    for request in busy.history():
        groups.setdefault(by(request), []).append(request)
    return groups


# Figures that scripts write and draw

# Pages with figures written by scripts, and the sign that the script has written them.
SCRIPTED: dict[str, tuple[Rule, str]] = {
    "overview": (expected.overview_with_script, "[data-read=rate]"),
    "endpoints": (expected.endpoints, "[data-chosen]"),
    "endpoint": (in_routing.together(expected.endpoint_with_script, in_routing.learned), "[data-running-count]"),
    "live": (expected.live_with_script, "[data-clock]"),
    "usage": (expected_usage.usage_with_script, "[data-read=one]"),
    "clients": (expected.clients_with_script, "[data-read=clients]"),
    "client": (expected.client_with_script, "[data-read=good]"),
}


def opened(page: Page, path: str, written: str) -> str:
    page.goto(path)
    expect(page.locator(written)).not_to_be_empty(timeout=20_000)
    return page.content()


@pytest.mark.needs("chromium")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_scripts_write_the_figures_of_the_api(busy: Busy, browser: Browser) -> None:
    page = browser.new_context(base_url=busy.router.url, locale="en", timezone_id=sample.ZONE.key).new_page()
    log_in(page, "/keys")
    wrong: list[str] = []
    known = {"endpoint": {"endpoint_id": busy.ids["holder"]}, "client": {"client": sample.CLIENTS[0]}}
    for name, (rule, written) in SCRIPTED.items():
        shown_page = Shown(busy, {}, known.get(name, {}))
        path = reverse(name, kwargs=shown_page.known)
        wrong += differences(rule, shown_page, path, partial(opened, page, path, written))
    assert not wrong, "\n".join(wrong)


@pytest.mark.needs("chromium")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_form_shows_the_details_of_a_server(busy: Busy, browser: Browser) -> None:
    page = browser.new_context(base_url=busy.router.url, locale="en").new_page()
    log_in(page, "/endpoints/add")
    with page.expect_response("**/api/endpoints/detect") as detection:
        page.get_by_label("Address").fill(busy.beside["several"].url)
        page.keyboard.press("Tab")
    api = expected.detected_details(detection.value.json())
    expect(page.locator("[data-kind]")).not_to_be_empty()
    texts = displayed_figures.places(displayed_figures.main_of(displayed_figures.parsed(page.content())))
    assert list(expected.differences(texts, api, api, busy.names)) == []


def same(read: Callable[[], Any], page: Callable[[], Any]) -> tuple[Any, Any]:
    """Compare a page with the API before and after it: a new minute or a health check may change figures."""

    def look() -> tuple[Any, Any] | None:
        before, shown, after = read(), page(), read()
        return (shown, before) if before == after else None

    figures: tuple[Any, Any] = until(look)
    return figures


def script(busy: Busy, path: str, name: str) -> Any:
    return json.loads(displayed_figures.embedded(displayed_figures.parsed(busy.page(path)), name))


def test_events_give_the_overviews_script_the_figures_of_the_api(busy: Busy) -> None:
    page = Shown(busy, {}, {})
    event, api = same(
        lambda: expected_by_machines.overview(page),
        lambda: expected_by_machines.event(busy.page("/api/dashboard/events?once=1")),
    )
    event["stats"] = expected_by_machines.steady(event["stats"])
    del event["generated_at"]
    assert event == expected_by_machines.scripted(event, api)
    assert len(event["endpoints"]) == len(api["endpoints"])


def test_the_overview_gives_its_script_the_state_of_the_api(busy: Busy) -> None:
    page = Shown(busy, {}, {})
    state, api = same(lambda: expected_by_machines.overview(page), lambda: script(busy, "/", "shown"))
    assert [row["slots"] for row in state["endpoints"]].count(None) < len(state["endpoints"])
    endpoints = {row["id"]: {name: row[name] for name in ("id", "slots")} for row in api["endpoints"]}
    assert {row["id"]: row for row in state.pop("endpoints")} == endpoints
    count, marks = len(api["attention"]), expected_by_machines.marks(api)
    assert state == {"attention": api["attention"], "attention_count": count, "marks": marks}


def test_the_chart_of_the_overview_is_drawn_from_the_figures_of_the_api(busy: Busy) -> None:
    drawn, api = same(
        lambda: busy.api("/api/dashboard/request-history"),
        lambda: re.findall(r'data-minute="([^"]*)"\s+data-success="(\d+)"\s+data-error="(\d+)"', busy.page("/")),
    )
    assert sum(row["success"] for row in api) > 0
    minutes = [(row["minute"], str(row["success"]), str(row["error"])) for row in reversed(api)]
    assert drawn == minutes


@pytest.mark.parametrize("by", ["day", "month", "model"])
def test_the_chart_of_usage_is_drawn_from_the_figures_of_the_api(busy: Busy, by: str) -> None:
    page, since = Shown(busy, {}, {}), expected.today() - timedelta(days=89)
    api = page.api("/api/usage", by="month" if by == "month" else "day", since=since, until=expected.today())["rows"]
    slots = script(busy, f"/usage?by={by}&range=90d", "series")["slots"]
    names = ("input_tokens", "output_tokens", "successful_requests", "failed_requests")
    drawn = {slot["at"]: [slot[name] for name in names] for slot in slots if any(slot[name] for name in names)}
    assert drawn == {row.get("day", row.get("month")): [row[name] for name in names] for row in api}


@pytest.mark.parametrize("span", ["24h", "30d"])
@pytest.mark.parametrize("client", ["", f"/{sample.CLIENTS[0]}"])
def test_the_chart_of_clients_is_drawn_from_the_figures_of_the_api(busy: Busy, client: str, span: str) -> None:
    path = f"/api/dashboard/clients{client}/timeline?range={span}"
    drawn, api = same(lambda: busy.api(path), lambda: script(busy, f"/clients{client}?range={span}", "slots"))
    assert drawn == api


# Prometheus, and the sent requests


def test_prometheus_has_the_figures_of_the_api(busy: Busy) -> None:
    page = Shown(busy, {}, {})
    scraped, api = same(lambda: expected_by_machines.prometheus(page), lambda: expected_by_machines.scraped(page))
    scraped = {key: value for key, value in scraped.items() if key[0] != expected_by_machines.LEARNED}
    assert scraped.keys() == api.keys()
    assert scraped == pytest.approx(api)


def test_prometheus_has_what_the_api_tells_of_learned_speeds(busy: Busy) -> None:
    page = Shown(busy, {}, {})
    learned = expected_by_machines.learned_seconds(page)
    rows = {
        (endpoint_id, row["kind"], row["model_id"]): row
        for endpoint_id in busy.ids.values()
        for row in page.api(f"/api/endpoints/{endpoint_id}/learned")
        if row["tokens_per_second_alone"]
    }
    assert rows
    for key, row in rows.items():
        assert 1000 * learned[key]["setup"] == pytest.approx(row["setup_ms"])
        assert learned[key]["write"] + learned[key]["share"] == pytest.approx(1 / row["tokens_per_second_alone"])


def test_the_totals_equal_the_sent_requests(busy: Busy) -> None:
    stats = busy.api("/api/dashboard/stats")
    ended = Counter(request.outcome for request in busy.ledger)
    assert stats["successful_requests"] == ended.pop(record.OK)
    assert stats["cancelled_requests"] == ended.pop(record.CANCELLED)
    assert stats["failed_requests"] == ended.total()
    assert stats["rejected_by_reason"] == busy.rejected
    sums = [sum(tokens) for tokens in zip(*(request.tokens for request in busy.ledger), strict=True)]
    assert [stats["total_input_tokens"], stats["total_output_tokens"]] == sums


def test_the_history_equals_the_sent_requests(busy: Busy) -> None:
    history = Counter(
        (request.model, request.outcome, request.client, *request.tokens, request.key_id) for request in busy.history()
    )
    assert history == Counter(
        (request.model, request.outcome, request.client, *request.tokens, busy.keys[request.key])
        for request in busy.ledger
    )


@pytest.mark.parametrize(("by", "name"), [("model", "model_id"), ("key", "api_key_id")])
def test_usage_equals_the_sent_requests(busy: Busy, by: str, name: str) -> None:
    since = expected.today() - timedelta(days=expected_by_machines.EVER)
    rows = Shown(busy, {}, {}).api("/api/usage", by=by, since=since, until=expected.today())["rows"]
    of = {(request.model if by == "model" else busy.keys[request.key]) for request in busy.ledger}
    assert {usage[name] for usage in rows if usage[name]} == of
    for row in (usage for usage in rows if usage[name]):
        sent = [request for request in busy.ledger if row[name] in (request.model, busy.keys[request.key])]
        ended = Counter(request.outcome for request in sent)
        assert row["successful_requests"] == ended[record.OK], row
        assert row["cancelled_requests"] == ended[record.CANCELLED], row
        assert row["requests"] + row["cancelled_requests"] == len(sent), row
        assert [row["input_tokens"], row["output_tokens"]] == [
            sum(request.tokens[position] for request in sent) for position in (0, 1)
        ], row


@pytest.mark.parametrize("client", [*sample.CLIENTS, "127.0.0.1"])
def test_figures_of_a_client_equal_its_sent_requests(busy: Busy, client: str) -> None:
    reported = busy.api(f"/api/dashboard/clients/{client}/detail")
    sent = [request for request in busy.ledger if request.client == client]
    ended = Counter(request.outcome for request in sent)
    assert reported["total_requests"] == len(sent)
    assert reported["cancelled_requests"] == ended[record.CANCELLED]
    assert reported["failed_requests"] == len(sent) - ended[record.OK] - ended[record.CANCELLED]
    assert [reported["input_tokens"], reported["output_tokens"]] == [
        sum(request.tokens[position] for request in sent) for position in (0, 1)
    ]


def test_endpoints_have_the_attempts_that_they_received(busy: Busy) -> None:
    # Served by another endpoint; connection refused; a kept connection and then a new one reset within one attempt.
    unseen = Counter({sample.BUSIEST: len(sample.DAYS_AGO) - 1, "drained": 1, "gone": 1, "fragile & <old>": -1})
    for row in busy.api("/api/dashboard/endpoints"):
        seen = busy.simulated[row["name"]].seen.started + unseen[row["name"]]
        assert row["total_requests"] + row["cancelled_requests"] + row["active_requests"] == seen, row


# Sums that the test computes from the history itself


def counted(rows: Iterable[Ended]) -> tuple[int, int, int]:
    """Return served, failed and cancelled requests."""
    ended = Counter(row.outcome for row in rows)
    ok, cancelled = ended[record.OK], ended[record.CANCELLED]
    return ok, ended.total() - ok - cancelled, cancelled


def test_days_equal_the_history(busy: Busy) -> None:
    since = expected.today() - timedelta(days=expected_by_machines.EVER)
    rows = Shown(busy, {}, {}).api("/api/usage", by="day", since=since, until=expected.today())["rows"]
    names = ("successful_requests", "failed_requests", "cancelled_requests")
    days = {row["day"]: tuple(row[name] for name in names) for row in rows}
    assert days == {str(day): counted(ended) for day, ended in grouped(busy, lambda request: request.at.date()).items()}


def test_minutes_equal_the_history(busy: Busy) -> None:
    minutes = {row["minute"][:16]: (row["success"], row["error"]) for row in busy.api("/api/dashboard/request-history")}
    by_minute = grouped(busy, lambda request: request.at.astimezone(UTC).isoformat()[:16])
    ended = {minute: counted(rows)[:2] for minute, rows in by_minute.items() if minute in minutes}
    assert {minute: reported for minute, reported in minutes.items() if any(reported)} == ended


def test_hours_equal_the_history(busy: Busy) -> None:
    hours = {row["hour"][:13]: row for row in busy.api("/api/dashboard/clients/timeline?range=30d")}
    by_hour = grouped(busy, lambda request: request.at.astimezone(UTC).isoformat()[:13])
    for hour, row in hours.items():
        ended = by_hour.get(hour, [])
        assert (row["request_count"], row["failed_count"]) == (len(ended), counted(ended)[1]), hour
        assert row["unique_ips"] == len({sample.NETWORKS.get(request.client, request.client) for request in ended}), (
            hour
        )


def test_models_equal_the_history(busy: Busy) -> None:
    today, week = expected.today(), expected.today() - timedelta(days=6)
    by_model = grouped(busy, lambda request: request.model)
    for row in busy.api("/api/dashboard/models")["data"]:
        ended = [request for name in {row["id"], *row["aliases"]} for request in by_model.get(name, [])]
        for since, name in ((today, "today"), (week, "7_days")):
            ok, failed, cancelled = counted(request for request in ended if request.at.date() >= since)
            assert row[f"requests_{name}"] == ok + failed, row
            assert (row[f"failed_{name}"], row[f"cancelled_{name}"]) == (failed, cancelled), row


def test_conversations_equal_the_history(busy: Busy) -> None:
    by_conversation: dict[str, list[dict[str, Any]]] = {}
    for row in reversed(busy.api("/api/requests?limit=500")["requests"]):
        if row["conversation"]:
            by_conversation.setdefault(row["conversation"], []).append(row)
    conversations = {row["conversation"]: row for row in busy.api("/api/conversations?limit=50")["conversations"]}
    assert conversations.keys() == by_conversation.keys()
    for key, ended in by_conversation.items():
        endpoint_ids = [row["endpoint_id"] for row in ended]
        assert conversations[key]["turns"] == len(ended)
        assert conversations[key]["moves"] == sum(last != this for last, this in pairwise(endpoint_ids))
        for name in ("input_tokens", "output_tokens", "cached_tokens"):
            assert (conversations[key][name] or 0) == sum(row[name] or 0 for row in ended)
    assert any(row["moves"] for row in conversations.values())
    assert any(row["cached_tokens"] for row in conversations.values())


@pytest.mark.parametrize("days", [1, 7, 90])
def test_an_endpoints_days_equal_the_history(busy: Busy, days: int) -> None:
    page, since = Shown(busy, {}, {}), str(expected.today() - timedelta(days=days - 1))
    sums: Counter[tuple[str, ...]] = Counter()
    for row in in_admin.daily(page):
        if row["endpoint_id"] in busy.ids.values() and row["date"] >= since:
            for of in (row["date"], row["model_id"]):
                sums[row["endpoint_id"], of, "total"] += row["attempts"]
                sums[row["endpoint_id"], of, "failed"] += row["failed"]
    reported = {
        (endpoint_id, row[of], name): row[f"{name}_requests"]
        for endpoint_id in busy.ids.values()
        for path, of in (("daily-stats", "date"), ("model-stats", "model_id"))
        for row in page.api(f"/api/endpoints/{endpoint_id}/{path}", days=days)
        for name in ("total", "failed")
    }
    assert reported == sums


def test_the_last_hour_equals_the_history(busy: Busy) -> None:
    overview, busiest = busy.api("/api/dashboard/overview"), busy.api("/api/dashboard/busiest")
    since = datetime.fromisoformat(overview["history"][0]["minute"])
    ended = [request for request in busy.history() if request.at >= since]
    tries = [attempt for request in ended for attempt in request.attempts if attempt["outcome"] != record.CANCELLED]
    for row in overview["endpoints"]:
        outcomes = Counter(attempt["outcome"] for attempt in tries if attempt["endpoint_id"] == row["id"])
        assert row["recent_attempts"] == outcomes.total(), row
        assert row["recent_failures"] == outcomes.total() - outcomes[record.OK], row
    models = Counter(request.model for request in ended if request.outcome != record.CANCELLED)
    assert {row["model_id"]: row["requests"] for row in busiest["models"]}.items() <= models.items()
    assert [row["requests"] for row in busiest["models"]] == sorted(models.values(), reverse=True)[:5]


def test_the_busiest_clients_equal_the_history(busy: Busy) -> None:
    """Requests of the current and the previous hour in UTC."""

    def counts() -> list[tuple[str, int]]:
        since = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
        ended = Counter(
            sample.NETWORKS.get(request.client, request.client) for request in busy.history() if request.at >= since
        )
        return sorted(ended.items(), key=lambda client_and_count: (-client_and_count[1], client_and_count[0]))[:5]

    clients, ended = same(counts, lambda: busy.api("/api/dashboard/busiest")["clients"])
    assert [(row["ip"], row["requests"]) for row in clients] == ended


def test_speeds_of_endpoints_equal_todays_responses(busy: Busy) -> None:
    def speeds() -> dict[str, float]:
        tokens, took = Counter[str](), Counter[str]()
        for row in in_admin.daily(Shown(busy, {}, {})):
            if row["date"] == str(expected.today()):
                tokens[row["endpoint_id"]] += row["output_tokens"]
                took[row["endpoint_id"]] += row["duration_ms"]
        return {
            endpoint_id: 1000 * tokens[endpoint_id] / took[endpoint_id]
            for endpoint_id in busy.ids.values()
            if took[endpoint_id]
        }

    endpoints, served = same(speeds, lambda: busy.api("/api/dashboard/endpoints"))
    assert {
        endpoint["id"]: endpoint["tokens_per_second"] for endpoint in endpoints if endpoint["tokens_per_second"]
    } == pytest.approx(served)


def test_costs_equal_the_tally_of_the_sent_requests(busy: Busy) -> None:
    """Each with its price and nothing of the history but cached tokens, which only the earlier requests have."""
    tally: Counter[str] = Counter()
    for request in busy.ledger:
        if request.model not in sample.PRICES or (request.outcome != record.OK and not any(request.tokens)):
            continue
        price = sample.PRICES[request.model]
        fee = Fraction(price.get("request", "0")) * 1000
        parts = zip(("input", "output"), request.tokens, strict=True)
        exact = sum((Fraction(price.get(name, "0")) * count for name, count in parts), fee)
        tally[price["currency"]] += int(exact * 1000 + Fraction(1, 2))  # 10⁻⁹
    less = Fraction(sample.PRICES[sample.LARGE]["input"]) - Fraction(sample.PRICES[sample.LARGE]["cached"])
    for row in busy.api(f"/api/requests?limit=500&model={sample.LARGE}")["requests"]:
        tally["USD"] -= round((row["cached_tokens"] or 0) * less * 1000)
    euros = sum(
        (2 * cost * round(Fraction(sample.EURO) * 10**9) + 10**9) // (2 * 10**9)
        for (cost,) in busy.router.query("SELECT cost FROM rollup_cost_days WHERE currency = 'EUR'")
    )
    stored = dict(busy.router.query("SELECT currency, SUM(cost) FROM rollup_cost_days GROUP BY currency"))
    assert {name: int(cost) for name, cost in stored.items()} == tally
    span = f"since={expected.today() - timedelta(days=400)}"
    for by in expected_usage.CALLED:
        usage = busy.api(f"/api/usage?by={by}&{span}")
        shown = {each["currency"]: round(Fraction(each["cost"]) * 10**9) for each in usage["costs"]}
        assert shown == {"USD": tally["USD"] + euros, "CHF": tally["CHF"]}, by


def test_times_equal_the_history(busy: Busy) -> None:
    """Requests of the last 24 hours."""
    took = sorted(
        request.duration_ms
        for request in busy.history()
        if request.outcome == record.OK and request.at > datetime.now(UTC) - timedelta(days=1)
    )
    stats = busy.api("/api/dashboard/stats")
    assert stats["average_response_time_ms"] == pytest.approx(sum(took) / len(took))
    assert took[len(took) // 2 - 1] * 15 / 16 <= stats["p50_response_time_ms"] <= took[len(took) // 2] * 17 / 16


def test_alternative_paths_return_the_same(busy: Busy) -> None:
    overview = busy.api("/api/dashboard/overview")
    assert expected_by_machines.steady(overview["stats"]) == expected_by_machines.steady(
        busy.api("/api/dashboard/stats")
    )
    stats, tokens = overview["stats"], busy.api("/api/dashboard/stats/tokens")
    assert tokens == {name: stats[name] for name in tokens}
    for path in ("daily?days=150", "monthly"):
        rows = busy.api(f"/api/dashboard/stats/tokens/{path}")
        assert sum(row["total_tokens"] for row in rows) == stats["total_tokens"]
        assert sum(row["request_count"] for row in rows) == len(busy.ledger)


def test_paths_of_llmlb_return_the_same(busy: Busy) -> None:
    responses, rows = (
        busy.api("/api/dashboard/request-responses?per_page=100"),
        busy.api("/api/requests?limit=100")["requests"],
    )
    names = ("id", "completed_at", "model", "client_ip", "api_key_id", "input_tokens", "output_tokens")
    assert responses["total_count"] == len(busy.ledger)
    assert [[response.get(name) for name in names] for response in responses["records"]] == [
        [row[name] for name in names] for row in rows
    ]
    assert [response["duration_ms"] for response in responses["records"]] == [
        max(1, round(row["duration_ms"])) for row in rows
    ]
    models, listed = busy.api("/api/dashboard/models")["data"], busy.api("/api/models")
    assert {model["name"]: model["status"] == "available" for model in listed} == {
        model["id"]: model["ready"] for model in models
    }


def test_an_export_equals_the_api(busy: Busy) -> None:
    lines = busy.page("/requests/export?format=jsonl").splitlines()
    listed = busy.api("/api/requests?limit=500")["requests"]
    assert [json.loads(line) for line in lines] == [{**row, "hardware_costs": []} for row in listed]


def test_reconcile_finds_no_difference(busy: Busy) -> None:
    done = busy.router.manage("reconcile", "--thorough")
    assert (done.stdout, done.stderr, done.returncode) == ("all figures agree\n", "", 0)
