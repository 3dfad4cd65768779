"""Circuit breakers as they are told: the same everywhere, and by time alone from open to half open."""

from typing import Any

import pytest
import time_machine

from endpoints.models import Endpoint
from metrics import breakers, prometheus, queries
from metrics import teller as teller_module
from metrics.queries import Moment
from tests.access.people import Api
from tests.metrics.records import AT, NOW, A, B
from tests.metrics.test_prometheus import Scrape

pytestmark = pytest.mark.django_db

DUE = int(AT) + 5


@pytest.fixture(autouse=True)
def clock(endpoints: tuple[Endpoint, Endpoint]) -> Any:
    """A's breaker is open for five seconds more."""
    teller_module.surroundings.trials = lambda: {A: DUE}
    with time_machine.travel(NOW, tick=False) as travelled:
        yield travelled


def told() -> dict[str, tuple[str, str | None]]:
    return {row["id"]: (row["breaker"], row["breaker_trial_due"]) for row in queries.endpoints(Moment.now())}


@pytest.mark.parametrize(("due", "state"), [(0, "closed"), (11, "open"), (10, "half_open"), (9, "half_open")])
def test_a_breaker_has_one_of_three_states(due: int, state: str) -> None:
    assert breakers.state(due, 10.0) == state


def test_it_is_told_with_its_endpoint() -> None:
    assert told() == {A: ("open", "2026-03-10T12:00:35.000Z"), B: ("closed", None)}


def test_past_its_time_it_is_half_open(clock: Any) -> None:
    clock.shift(6)
    assert told()[A] == ("half_open", "2026-03-10T12:00:35.000Z")


def test_open_pages_are_told() -> None:
    rows = {row["id"]: row["breaker"] for row in queries.live()["endpoints"]}
    assert rows == {A: "open", B: "closed"}


def test_prometheus_knows_the_open_ones(clock: Any) -> None:
    found = Scrape()
    assert found("endpoint_breaker_open", endpoint_id=A, endpoint_name="a") == 1
    assert found("endpoint_breaker_open", endpoint_id=B, endpoint_name="b") == 0
    clock.shift(6)
    assert Scrape(prometheus.text(Moment.now()))("endpoint_breaker_open", endpoint_id=A, endpoint_name="a") == 0


def test_the_overview_shows_what_is_not_closed(as_viewer: Api) -> None:
    html = as_viewer.get("/").content.decode()
    rows = {key: html.split(f'data-endpoint="{key}"')[1].split("</tr>")[0] for key in (A, B)}
    assert 'data-breaker="open">' in rows[A]
    assert "Breaker open" in rows[A]
    assert 'data-breaker="closed">' in rows[B]


def test_an_endpoints_page_shows_it_always(as_viewer: Api) -> None:
    shown = [as_viewer.get(f"/endpoints/{key}").content.decode() for key in (A, B)]
    assert 'data-breaker="open">' in shown[0]
    assert 'data-breaker="closed">' in shown[1]


def test_the_admin_lists_it(as_admin: Api) -> None:
    html = as_admin.get("/admin/endpoints/endpoint/").content.decode()
    assert (html.count('data-breaker="open"'), html.count('data-breaker="closed"')) == (1, 1)


def test_waiting_requests_are_told_everywhere(as_viewer: Api) -> None:
    teller_module.surroundings.waiting = lambda: 7
    assert queries.stats(Moment.now())["queued_requests"] == Scrape()("queued_requests") == 7
    assert '<span data-stat="queued_requests">7</span>' in as_viewer.get("/").content.decode()
