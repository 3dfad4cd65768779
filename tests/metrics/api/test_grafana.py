"""The dashboard for Grafana uses only metrics of /metrics."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import time_machine
from prometheus_client.parser import text_string_to_metric_families

from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from gateway.ipc import record
from gateway.registry.schema import Speeds
from metrics.api import prometheus
from metrics.costs.hardware_totals import HardwareCosts
from metrics.memory.runtime import runtime
from metrics.queries.figures import Moment
from metrics.spending.used_budgets import UsedBudget, used_budgets
from tests.metrics.records import NOW, A, request
from tests.metrics.world import World, fake_installation, own_database

pytestmark = pytest.mark.django_db

DASHBOARD = json.loads((Path(__file__).resolve().parents[3] / "docs" / "grafana" / "routerdash.json").read_text())
# Keywords of PromQL in these queries.
PROMQL = {"sum", "by", "rate", "delta", "increase", "histogram_quantile", "max", "or", "le"}


def queries(part: Any = DASHBOARD) -> Iterator[str]:
    """Return the queries of panels and of the selection of endpoints."""
    if isinstance(part, list):
        for item in part:
            yield from queries(item)
    elif isinstance(part, dict):
        for name, value in part.items():
            if name in ("expr", "definition"):
                yield value
            else:
                yield from queries(value)


@pytest.fixture
def reported(
    shown_world: World, endpoints: tuple[Endpoint, Endpoint], prices: object, monkeypatch: pytest.MonkeyPatch
) -> dict[str, set[str]]:
    """The labels of each metric; every metric has a value."""
    with time_machine.travel(NOW, tick=False):
        own_database()
        shown_world.reseed()
        Endpoint.objects.filter(pk=A).update(latency_ms=120)
        endpoints[0].set_options(max_concurrency=4)
        EndpointModel(endpoint_id=A, model_id="tiny").save(force_insert=True)
        registry.reload()
        used_budgets.note([UsedBudget("key", A, "k", "money", "month", 25_500_000_000, 20_000_000_001, None, None)], 0)
        used_budgets.limits_of_everyone = {"requests": 600}
        fake_installation().speeds = lambda endpoint_id, model_id, kind: Speeds(0.1, 0.2, 0.3, 0.4)
        shown_world.gateway(request(output_tokens=100), request(record.REJECTED, error="invalid_api_key"))
        shown_world.write()
        monkeypatch.setattr(runtime.installation, "writer", shown_world.writer)
        shown_world.writer.backlog.behind_since = NOW.timestamp()
        shown_world.follower.hardware.install(HardwareCosts({(A, "EUR", True): 1}))
        labels: dict[str, set[str]] = {}
        for family in text_string_to_metric_families(prometheus.text(Moment.now()).decode()):
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
        return labels


def test_every_metric_and_label_of_a_query_exists(reported: dict[str, set[str]]) -> None:
    used_in_queries = list(queries())
    assert len(used_in_queries) > 20
    for query in used_in_queries:
        names = set(re.findall(r"routerdash_\w+", query))
        assert names, query
        assert names <= set(reported), query
        labels = {label for name in names for label in reported[name]}
        bare = re.sub(r'"[^"]*"|\$\w+|\[[^\]]*\]|\b\d+[smhd]?\b|routerdash_\w+|label_values', " ", query)
        assert set(re.findall(r"[a-z_]+", bare)) - PROMQL <= labels, query


def test_every_important_metric_is_on_the_dashboard(reported: dict[str, set[str]]) -> None:
    shown = {name for query in queries() for name in re.findall(r"routerdash_\w+", query)}
    hidden = {"routerdash_journal_damaged_bytes_total", "routerdash_average_response_time_seconds"}
    hidden |= {"routerdash_figures_restored", "routerdash_figures_version"}
    assert set(reported) - shown == hidden


def test_a_legend_uses_labels_of_its_query(reported: dict[str, set[str]]) -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            kept = set(re.findall(r"by \(([^)]*)\)", query))
            labels = {label for some in kept for label in some.split(", ")} or {
                label for name in re.findall(r"routerdash_\w+", query) for label in reported[name]
            }
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, query


def test_panels_have_unique_ids_and_places() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
