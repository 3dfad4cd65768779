"""Circuit breakers are shown consistently everywhere, and become half-open by time alone."""

from typing import Any

import pytest
import time_machine

from endpoints.models import Endpoint
from gateway.routing.set_aside import AsideNote
from metrics.api import prometheus
from metrics.queries import breakers, figures, overview
from metrics.queries.figures import Moment
from tests.access.people import Api
from tests.metrics.api.test_prometheus import Scrape
from tests.metrics.records import AT, NOW, A, B
from tests.metrics.world import fake_installation

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

DUE = int(AT) + 5


@pytest.fixture(autouse=True)
def clock(endpoints: tuple[Endpoint, Endpoint]) -> Any:
    """The breaker of A is open for five more seconds."""
    fake_installation().trials = lambda: {A: DUE}
    with time_machine.travel(NOW, tick=False) as travelled:
        yield travelled


def shown_breakers() -> dict[str, tuple[str, str | None]]:
    return {row["id"]: (row["breaker"], row["breaker_trial_due"]) for row in figures.endpoints(Moment.now())}


@pytest.mark.parametrize(("due", "state"), [(0, "closed"), (11, "open"), (10, "half_open"), (9, "half_open")])
def test_a_breaker_has_one_of_three_states(due: int, state: str) -> None:
    assert breakers.state(due, 10.0) == state


def test_a_breaker_is_shown_with_its_endpoint() -> None:
    assert shown_breakers() == {A: ("open", "2026-03-10T12:00:35.000Z"), B: ("closed", None)}


def test_a_breaker_is_half_open_after_its_time(clock: Any) -> None:
    clock.shift(6)
    assert shown_breakers()[A] == ("half_open", "2026-03-10T12:00:35.000Z")


def test_open_pages_receive_breaker_changes() -> None:
    rows = {row["id"]: row["breaker"] for row in overview.live()["endpoints"]}
    assert rows == {A: "open", B: "closed"}


def test_prometheus_has_the_open_breakers(clock: Any) -> None:
    scrape = Scrape()
    assert scrape("endpoint_breaker_open", endpoint_id=A, endpoint_name="a") == 1
    assert scrape("endpoint_breaker_open", endpoint_id=B, endpoint_name="b") == 0
    clock.shift(6)
    assert Scrape(prometheus.text(Moment.now()))("endpoint_breaker_open", endpoint_id=A, endpoint_name="a") == 0


def test_the_overview_shows_breakers_that_are_not_closed(as_viewer: Api) -> None:
    html = as_viewer.get("/").content.decode()
    rows = {key: html.split(f'data-endpoint="{key}"')[1].split("</tr>")[0] for key in (A, B)}
    assert 'data-breaker="open">' in rows[A]
    assert "Breaker open" in rows[A]
    assert 'data-breaker="closed">' in rows[B]


def test_an_endpoints_page_always_shows_the_breaker(as_viewer: Api) -> None:
    shown = [as_viewer.get(f"/endpoints/{key}").content.decode() for key in (A, B)]
    assert 'data-breaker="open">' in shown[0]
    assert 'data-breaker="closed">' in shown[1]


def test_the_admin_lists_the_breaker(as_admin: Api) -> None:
    html = as_admin.get("/admin/endpoints/endpoint/").content.decode()
    assert (html.count('data-breaker="open"'), html.count('data-breaker="closed"')) == (1, 1)


def test_queued_requests_are_shown_everywhere(as_viewer: Api) -> None:
    fake_installation().waiting = lambda: 7
    assert figures.stats(Moment.now())["queued_requests"] == Scrape()("queued_requests") == 7
    assert '<span data-stat="queued_requests">7</span>' in as_viewer.get("/").content.decode()


def test_a_pause_and_missing_paths_are_shown_with_their_endpoint() -> None:
    fake_installation().aside = lambda: {A: AsideNote(DUE, "money", ("rerank",))}
    shown = {
        row["id"]: (row["paused_until"], row["pause_cause"], row["lacks"]) for row in figures.endpoints(Moment.now())
    }
    assert shown == {A: ("2026-03-10T12:00:35.000Z", "money", ["/v1/rerank"]), B: (None, None, [])}
