"""GET /metrics: figures of metrics.queries.figures, labels with any text, restarts, permissions."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.db.models import Sum
from prometheus_client.parser import text_string_to_metric_families

from access.models import INFERENCE, MANAGE_ENDPOINTS, READ_ENDPOINTS, READ_METRICS, User
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from gateway.ipc import record
from gateway.ipc.counters.limit_use import LimitUse
from gateway.registry.schema import Speeds
from gateway.routing.adaptive import FASTEST, PROBE, WAITED
from metrics.api import prometheus
from metrics.costs.hardware_totals import HardwareCosts
from metrics.memory.runtime import runtime
from metrics.models import DayRollUp
from metrics.queries import figures
from metrics.queries.figures import Moment
from metrics.spending.used_budgets import UsedBudget, used_budgets
from tests.access.people import Api, key_for, make_user, session_of, with_key
from tests.metrics.learning.work import answered
from tests.metrics.records import NOW, A, B, load, request
from tests.metrics.world import World, add_endpoint, fake_installation, forget_figures, own_database

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

DOCUMENTED = Path(__file__).resolve().parents[3] / "docs" / "reference" / "metrics.md"
ODD = ['a "quoted"', "two\nlines", "back\\slash", "\\n", "日本語", "a{b=c},d", "", " ", "\u2028\r\t", "{}", "🦙"]

OK = ("requests_total", frozenset({("outcome", "ok")}))


@pytest.fixture
def restored(shown_world: World) -> World:
    """The state after a start with an empty database."""
    own_database()
    shown_world.reseed()
    return shown_world


@pytest.fixture
def served(restored: World, endpoints: tuple[Endpoint, Endpoint]) -> World:
    """Every metric has a value; two gateways have written."""
    Endpoint.objects.filter(pk=A).update(latency_ms=120, status="online")
    endpoints[0].set_options(max_concurrency=4)
    EndpointModel(endpoint_id=A, model_id="tiny").save(force_insert=True)
    registry.reload()
    restored.gateway(*load(seed=7, count=60))
    restored.gateway(request(output_tokens=100, input_tokens=3), request(record.REJECTED, error="invalid_api_key"))
    used_budgets.note([UsedBudget("key", A, "k", "money", "month", 25_500_000_000, 20_000_000_001, None, None)], 0)
    used_budgets.limits_of_everyone = {"requests": 600}
    fake_installation().in_flight = lambda: {A: 3, "gone": 1}
    fake_installation().speeds = lambda endpoint_id, model_id, kind: Speeds(0.1, 0.2, 0.3, 0.4)
    return restored


@pytest.fixture
def scraper(admin: User) -> Api:
    return with_key(key_for(admin, READ_METRICS), "Authorization")


def read(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample by name and labels; fail on duplicates."""
    samples = [sample for family in text_string_to_metric_families(text.decode()) for sample in family.samples]
    values = {
        (sample.name.removeprefix("routerdash_"), frozenset(sample.labels.items())): sample.value for sample in samples
    }
    assert len(values) == len(samples)
    return values


class Scrape:
    """The samples of a scrape, by name and labels."""

    def __init__(self, text: bytes | None = None) -> None:
        self.samples = read(prometheus.text(Moment.now()) if text is None else text)

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.samples.get((name, frozenset(labels.items())))

    def all(self, name: str) -> list[dict[str, str]]:
        """Return the labels of each sample."""
        return [dict(labels) for sample_name, labels in self.samples if sample_name == name]

    @property
    def counters(self) -> dict[Any, float]:
        ends = ("_total", "_bucket", "_count", "_sum")
        return {key: value for key, value in self.samples.items() if key[0].endswith(ends)}


def of(row: Mapping[str, Any]) -> dict[str, str]:
    return {"endpoint_id": row["id"], "endpoint_name": row["name"]}


def change(**fields: Any) -> None:
    Endpoint.objects.filter(pk=A).update(**fields)
    registry.reload()


# The figures


def test_requests_tokens_and_rejections_are_those_of_the_stats(served: World) -> None:
    scrape, stats = Scrape(), dict[str, Any](figures.stats(Moment.now()))
    for outcome, name in (("ok", "successful"), ("failed", "failed"), ("cancelled", "cancelled")):
        assert scrape("requests_total", outcome=outcome) == stats[f"{name}_requests"] > 0
    for direction in ("input", "output"):
        assert scrape("tokens_total", direction=direction) == stats[f"total_{direction}_tokens"] > 0
    reasons = {
        labels["reason"]: scrape("rejected_requests_total", **labels)
        for labels in scrape.all("rejected_requests_total")
    }
    assert reasons == stats["rejected_by_reason"]
    assert reasons["invalid_api_key"] == 1


@pytest.mark.parametrize(
    ("name", "stat"),
    [
        ("in_flight_requests", "total_active_requests"),
        ("records_waiting", "records_waiting"),
        ("records_unrecorded", "records_unrecorded"),
        ("figures_restored", "figures_restored"),
        ("figures_version", "figures_version"),
    ],
)
def test_gauges_equal_those_of_the_stats(served: World, name: str, stat: str) -> None:
    fake_installation().unrecorded = lambda: 2
    assert Scrape()(name) == dict[str, Any](figures.stats(Moment.now()))[stat] > 0


def test_damaged_bytes_are_those_of_the_stats(restored: World) -> None:
    assert Scrape()("journal_damaged_bytes_total") == 0
    (segment,) = restored.path(restored.gateway(request())).iterdir()
    segment.write_bytes(b"nonsense" + segment.read_bytes())
    assert Scrape()("journal_damaged_bytes_total") == figures.stats(Moment.now())["journal_damaged_bytes"] == 8


def test_damaged_bytes_survive_a_restart(restored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (segment,) = restored.path(restored.gateway(request())).iterdir()
    segment.write_bytes(b"nonsense" + segment.read_bytes())
    restored.write()
    forget_figures(monkeypatch, restored.root)
    restored.reseed()
    assert Scrape()("journal_damaged_bytes_total") == 8


def test_attempts_cancelled_and_in_flight_are_those_of_each_endpoint(served: World) -> None:
    scrape, rows = Scrape(), figures.endpoints(Moment.now())
    assert len(rows) == 2
    for row in rows:
        assert scrape("endpoint_attempts_total", **of(row), outcome="ok") == row["successful_requests"] > 0
        assert scrape("endpoint_attempts_total", **of(row), outcome="failed") == row["failed_requests"] > 0
        assert scrape("endpoint_cancelled_total", **of(row)) == row["cancelled_requests"]
        assert scrape("endpoint_in_flight_requests", **of(row)) == row["active_requests"]


def test_responses_are_counted_by_their_duration(restored: World, endpoints: object) -> None:
    durations = (1, 8191, 8192, 50_000, 2_000_000, 2**28 - 1, 2**28, 10**10)
    restored.gateway(*[request(duration_us=duration) for duration in durations], request(record.FAILED))
    scrape = Scrape()
    for bound in (0.008192, 0.016384, 0.065536, 2.097152, 268.435456):
        assert scrape("answer_seconds_bucket", le=str(bound)) == sum(duration / 1e6 < bound for duration in durations)
    assert scrape("answer_seconds_bucket", le="+Inf") == scrape("answer_seconds_count") == len(durations)
    assert scrape("answer_seconds_sum") == pytest.approx(sum(durations) / 1e6)


def test_responses_of_an_endpoint_equal_its_roll_ups(served: World) -> None:
    served.write()
    scrape = Scrape()
    for row in figures.endpoints(Moment.now()):
        days = DayRollUp.objects.filter(endpoint_id=row["id"])
        sums = days.aggregate(*map(Sum, ("requests_ok", "ok_duration_us", "input_tokens", "output_tokens")))
        assert scrape("endpoint_answer_seconds_count", **of(row)) == sums["requests_ok__sum"] > 0
        assert scrape("endpoint_answer_seconds_sum", **of(row)) == pytest.approx(sums["ok_duration_us__sum"] / 1e6)
        for name in ("input", "output"):
            assert scrape("endpoint_tokens_total", **of(row), direction=name) == sums[f"{name}_tokens__sum"] > 0


def test_slots_are_left_out_without_a_limit(served: World) -> None:
    assert Scrape().all("endpoint_slots") == [{"endpoint_id": A, "endpoint_name": "a"}]


def test_speeds_are_those_of_each_model(served: World) -> None:
    scrape, moment = Scrape(), Moment.now()
    reported = [(A, "a", row) for row in figures.model_tps(A, moment)] + [
        (B, "b", row) for row in figures.model_tps(B, moment)
    ]
    for endpoint_id, name, row in reported:
        labels = {"model": row["model_id"], "kind": row["api_kind"], "endpoint_id": endpoint_id, "endpoint_name": name}
        assert scrape("endpoint_tokens_per_second", **labels) == row["tps"]


def test_times_are_in_seconds(restored: World, endpoints: object) -> None:
    change(latency_ms=120)
    restored.gateway(request(duration_us=250_000))
    scrape = Scrape()
    assert scrape("endpoint_latency_seconds", endpoint_id=A, endpoint_name="a") == 0.12
    assert scrape("average_response_time_seconds") == 0.25


def test_the_age_of_waiting_records_is_in_seconds(restored: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.installation, "writer", restored.writer)
    restored.writer.backlog.behind_since = NOW.timestamp() - 5
    assert Scrape()("records_waiting_seconds") == 5


def test_an_endpoint_has_exactly_one_status(endpoints: object) -> None:
    change(status="error")
    statuses = ("pending", "online", "error", "offline")
    labels = {"endpoint_id": A, "endpoint_name": "a"}
    assert [Scrape()("endpoint_status", **labels, status=status) for status in statuses] == [0, 0, 1, 0]


def test_an_endpoint_has_exactly_one_operator_state(endpoints: tuple[Endpoint, Endpoint]) -> None:
    endpoints[0].set_operator_state("draining")
    registry.reload()
    labels = {"endpoint_id": A, "endpoint_name": "a"}
    states = ("enabled", "draining", "disabled")
    assert [Scrape()("endpoint_operator_state", **labels, state=state) for state in states] == [0, 1, 0]


def test_values_that_were_never_measured_are_left_out(restored: World, endpoints: object) -> None:
    restored.gateway(request(record.FAILED))
    scrape = Scrape()
    names = ("endpoint_latency_seconds", "endpoint_tokens_per_second", "average_response_time_seconds")
    assert [scrape.all(name) for name in (*names, "records_waiting_seconds")] == [[], [], [], []]


def test_large_counts_are_written_as_integers(restored: World) -> None:
    restored.gateway(*[request(output_tokens=1 << 40) for _ in range(3)], request(output_tokens=1))
    assert Scrape()("tokens_total", direction="output") == 3 * 2**40 + 1


def test_an_empty_installation_counts_zeros(restored: World) -> None:
    scrape = Scrape()
    assert set(scrape.counters.values()) == {0}
    assert scrape("requests_total", outcome="ok") == scrape("in_flight_requests") == 0
    assert scrape.all("endpoint_status") == []


# Restarts


def test_a_new_process_continues_the_counters(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    served.write()
    before = Scrape().counters
    forget_figures(monkeypatch, served.root)
    served.reseed()
    assert Scrape().counters == before


def test_waiting_journal_records_are_counted_after_a_restart(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    served.write()
    served.gateway(request(), request(record.FAILED))
    before = Scrape().counters
    forget_figures(monkeypatch, served.root)
    served.reseed()
    assert Scrape().counters == before


def test_no_counter_is_exposed_before_all_are_restored(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus would take smaller values for a reset, and restored values for new ones."""
    forget_figures(monkeypatch, served.root)
    served.follower.database_id = "of this test"
    scrape = Scrape()
    assert (scrape("figures_restored"), scrape.counters) == (0, {})
    assert scrape("endpoint_status", endpoint_id=A, endpoint_name="a", status="online") == 1


def test_a_deleted_endpoint_removes_only_its_own_counters(served: World, endpoints: tuple[Endpoint, Endpoint]) -> None:
    before = Scrape()
    endpoints[1].delete()
    registry.reload()
    after = Scrape()
    assert after("requests_total", outcome="ok") == before("requests_total", outcome="ok")
    assert {labels["endpoint_id"] for labels in after.all("endpoint_attempts_total")} == {A}


# Labels


@pytest.mark.parametrize("model", ODD)
def test_any_model_can_be_a_label(restored: World, endpoints: object, model: str) -> None:
    restored.gateway(request(model=model, output_tokens=100))
    (labels,) = Scrape().all("endpoint_tokens_per_second")
    assert labels == {"endpoint_id": A, "endpoint_name": "a", "model": model, "kind": "chat_completions"}


@pytest.mark.parametrize("name", ODD)
def test_any_name_of_an_endpoint_can_be_a_label(name: str) -> None:
    add_endpoint(A, name, base_url="http://a.invalid")
    (labels,) = Scrape().all("endpoint_in_flight_requests")
    assert labels == {"endpoint_id": A, "endpoint_name": name}


def test_endpoints_with_the_same_name_are_separate(restored: World, endpoints: object) -> None:
    entries = tuple(replace(entry, name="same") for entry in registry.all())
    moment = replace(Moment.now(), entries=entries)
    scrape = Scrape(prometheus.text(moment))
    assert sorted(labels["endpoint_id"] for labels in scrape.all("endpoint_cancelled_total")) == [A, B]


# Consistency


def test_a_scrape_is_of_one_moment(served: World) -> None:
    moment = Moment.now()
    before = prometheus.text(moment)
    served.gateway(request())
    Moment.now()
    assert Scrape(before).counters == Scrape(prometheus.text(moment)).counters


def test_api_page_and_metrics_of_one_version_agree(served: World, as_admin: Api) -> None:
    stats = as_admin.call("GET", "/api/dashboard/stats").json()
    html = as_admin.get("/").content.decode()
    scrape = Scrape(as_admin.get("/metrics").content)
    assert scrape("figures_version") == stats["figures_version"]
    assert f'data-figures-version="{stats["figures_version"]}"' in html
    assert scrape("requests_total", outcome="failed") == stats["failed_requests"]
    assert f'data-stat="failed_requests">{stats["failed_requests"]}<' in html


def test_the_next_scrape_counts_the_last_request(served: World, scraper: Api) -> None:
    before = Scrape(scraper.get("/metrics").content)
    served.gateway(request())
    after = Scrape(scraper.get("/metrics").content)
    assert after.counters[OK] == before.counters[OK] + 1


def test_a_scrape_needs_no_database(served: World, scraper: Api, django_assert_num_queries: Any) -> None:
    scraper.get("/metrics")
    with django_assert_num_queries(0):
        scraper.get("/metrics")


# The response, and access


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "text/plain",
        "application/json",
        "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.1",
    ],
)
def test_the_format_is_always_the_same(scraper: Api, accept: str) -> None:
    response = scraper.get("/metrics?format=json", headers={"Accept": accept})
    assert (response.status_code, response["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert response.content.startswith(b"# HELP routerdash_")


def test_head_returns_the_same_headers_without_a_body(scraper: Api) -> None:
    response = scraper.head("/metrics")
    assert (response.status_code, response["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert response.content == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_metrics_are_read_only(scraper: Api, method: str) -> None:
    response = scraper.call(method, "/metrics")
    assert (response.status_code, response["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_a_key_can_read_metrics(admin: User, header: str) -> None:
    assert with_key(key_for(admin, READ_METRICS), header).get("/metrics").status_code == 200


def test_a_viewers_key_can_read_metrics(viewer: User) -> None:
    assert with_key(key_for(viewer, READ_METRICS)).get("/metrics").status_code == 200


def test_a_key_needs_the_permission(admin: User) -> None:
    response = with_key(key_for(admin, INFERENCE, READ_ENDPOINTS, MANAGE_ENDPOINTS)).call("GET", "/metrics")
    assert (response.status_code, response.json()) == (
        403,
        {"error": "This API key lacks the permission metrics.read."},
    )


def test_users_can_read_metrics(as_viewer: Api) -> None:
    assert as_viewer.get("/metrics").status_code == 200


def test_metrics_need_credentials(anybody: Api) -> None:
    response = anybody.call("GET", "/metrics")
    assert (response.status_code, response["WWW-Authenticate"]) == (401, "Bearer")
    assert with_key("sk_unknown").call("GET", "/metrics").status_code == 401


def test_a_generated_password_gives_no_access(db: None) -> None:
    response = session_of(make_user(must_change_password=True)).call("GET", "/metrics")
    assert (response.status_code, response.json()) == (403, {"error": "password_change_required"})


def test_the_path_has_no_trailing_slash(scraper: Api) -> None:
    assert scraper.get("/metrics/").status_code == 404


def test_every_metric_is_documented_correctly(served: World, prices: object, monkeypatch: pytest.MonkeyPatch) -> None:
    served.write()
    monkeypatch.setattr(runtime.installation, "writer", served.writer)
    served.writer.backlog.behind_since = NOW.timestamp()
    served.follower.hardware.install(HardwareCosts({(A, "EUR", True): 1}))
    text = DOCUMENTED.read_text()
    families = list(prometheus.MomentCollector(Moment.now()).collect())
    for family in families:
        labels = ", ".join(f"`{name}`" for name in family.samples[0].labels)
        name = family.samples[0].name
        assert f"| `{name}` | {family.type} | {labels} | {family.documentation} |" in text
    assert text.count("| `routerdash_") == len(families)


def test_limits_and_the_fullest_budgets(served: World) -> None:
    fake_installation().limit_use = lambda level, subject_id: LimitUse(1, 7, 3)
    scrape = Scrape()
    assert scrape("limit", level="everyone", limit="requests") == 600
    assert scrape("limit_used", level="everyone", limit="requests") == 7
    labels = {"level": "key", "subject_id": A, "subject_name": "k", "unit": "money", "period": "month"}
    assert (scrape("budget_amount", **labels), scrape("budget_spent", **labels)) == (25.5, 20.000000001)


def test_what_adaptive_routing_did_is_counted(restored: World, endpoints: object) -> None:
    waited = answered(reason=WAITED, queue_us=1_500_000, cached_tokens=300, work={"prefix_tokens": 400})
    restored.gateway(waited, answered(reason=FASTEST, work={"is_cold": True}), request(output_tokens=5))
    scrape = Scrape()
    assert [scrape("routing_choices_total", reason=reason) for reason in (WAITED, FASTEST, PROBE)] == [1, 1, 0]
    assert scrape("routing_late_binding_seconds_total") == 1.5
    assert scrape("routing_cold_loads_total") == 1
    assert scrape("routing_expected_seconds_total") == 1.5
    assert scrape("routing_actual_seconds_total") == 2.0
    assert scrape("routing_prefix_tokens_total", prefix="expected") == 400
    assert scrape("routing_prefix_tokens_total", prefix="found") == 300
    restored.write()
    restored.reseed()
    after = Scrape().samples  # a restart resets nothing
    counted = {key: value for key, value in scrape.samples.items() if key[0].startswith("routing_")}
    assert {key: after[key] for key in counted} == counted


def test_learned_parameters_are_those_of_present_models(served: World) -> None:
    scrape = Scrape()
    assert {labels["model"] for labels in scrape.all("endpoint_learned_seconds")} == {"tiny"}
    kind = scrape.all("endpoint_learned_seconds")[0]["kind"]
    for parameter, seconds in (("setup", 0.1), ("read", 0.2), ("write", 0.3), ("share", 0.4)):
        labels = {"endpoint_id": A, "endpoint_name": "a", "model": "tiny", "kind": kind, "parameter": parameter}
        assert scrape("endpoint_learned_seconds", **labels) == seconds
