"""Live figures on the admin's endpoint pages, and the read-only history of requests."""

import re
import uuid
from html import unescape

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from access.models import ApiKey, User
from endpoints.models import Endpoint, EndpointModel
from gateway.ipc import record
from metrics.admin.requests import RequestHistoryAdmin
from metrics.memory.backlog import Backlog
from metrics.memory.runtime import runtime
from metrics.models import RequestHistory
from metrics.queries.requests import history
from tests.access.people import Api, key_for, make_user
from tests.metrics.records import KEY, A, B, attempt, request
from tests.metrics.storage.test_seeding import adopted
from tests.metrics.world import World, add_endpoint, fake_installation

pytestmark = [pytest.mark.every_database, pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]

LIST = "/admin/endpoints/endpoint/"
HISTORY = "/admin/metrics/requesthistory/"


def page(client: Api, path: str) -> str:
    response = client.get(path)
    assert response.status_code == 200
    text: str = response.content.decode()
    return text


def visible_text(html: str) -> str:
    """Return the visible text: without tags, whitespace collapsed."""
    return re.sub(r"(<[^>]+>|\s)+", " ", html).strip()


def cells(html: str, name: str) -> list[str]:
    return [visible_text(part.split("</td>")[0]) for part in html.split(f'<td class="field-{name}">')[1:]]


def test_the_list_shows_the_live_figures(as_admin: Api, shown_world: World, endpoints: object) -> None:
    shown_world.gateway(request(), request(record.FAILED))
    fake_installation().in_flight = lambda: {A: 3}
    html = page(as_admin, LIST)
    assert sorted(cells(html, "attempts")) == ["0", "2"]
    assert sorted(cells(html, "failures")) == ["0", "1"]
    assert sorted(cells(html, "in_flight")) == ["0", "3"]


def test_list_and_api_agree(as_admin: Api, shown_world: World, endpoints: object) -> None:
    gateway = shown_world.gateway(request())
    for _ in range(3):
        gateway.append(request())
        shown = [row["total_requests"] for row in as_admin.call("GET", "/api/dashboard/endpoints").json()]
        assert sorted(map(int, cells(page(as_admin, LIST), "attempts"))) == sorted(shown)


def test_an_offline_endpoint_keeps_its_latency(as_admin: Api, endpoints: object) -> None:
    Endpoint.objects.filter(pk=A).update(status="offline", latency_ms=120)
    assert sorted(cells(page(as_admin, LIST), "shown_latency")) == ["120 ms —", "—"]


def test_an_endpoints_form_shows_counters_and_days(as_admin: Api, shown_world: World, endpoints: object) -> None:
    shown_world.gateway(request(output_tokens=77), request(record.FAILED))
    shown_world.write()
    html = page(as_admin, f"{LIST}{A}/change/")
    assert "<td>2026-03-10</td><td>tiny</td><td>Chat completions</td><td>2</td><td>1</td><td>77</td>" in html


def test_saving_a_form_does_not_restore_old_counters(as_admin: Api, shown_world: World, endpoints: object) -> None:
    page(as_admin, f"{LIST}{A}/change/")
    shown_world.gateway(request())
    shown_world.write()
    form = {"name": "renamed", "base_url": "http://a.invalid:8000", "health_check_interval_secs": 30}
    response = as_admin.post(f"{LIST}{A}/change/", {**form, "inference_timeout_secs": 120, "notes": ""})
    assert response.status_code == 302
    stored = Endpoint.objects.get(pk=A)
    assert (stored.name, stored.total_requests) == ("renamed", 1)


def test_the_history_lists_requests(as_admin: Api, shown_world: World) -> None:
    shown_world.gateway(request(ago=1), request(record.NO_ENDPOINT))
    shown_world.write()
    html = page(as_admin, HISTORY)
    assert cells(html, "shown_outcome") == ["No endpoint 503", "OK 200"]
    assert cells(html, "shown_endpoint") == ["—", "a"]


def test_the_history_writes_figures_as_the_dashboard_does(as_admin: Api, shown_world: World) -> None:
    shown_world.gateway(request(input_tokens=5, output_tokens=1234), request(duration_us=340_000, ago=60))
    shown_world.write()
    html = page(as_admin, HISTORY)
    assert cells(html, "tokens") == ["5 / 1,234", "—"]
    assert cells(html, "duration") == ["2.00 s", "340 ms"]
    assert ">2026-03-10 11:59:30<" in html


def test_the_history_shows_the_durations_of_the_api(as_admin: Api, shown_world: World) -> None:
    shown_world.gateway(request(duration_us=300))
    shown_world.write()
    assert as_admin.call("GET", "/api/requests").json()["requests"][0]["duration_ms"] == 0.3
    assert cells(page(as_admin, HISTORY), "duration") == ["0 ms"]


def test_adopted_rows_are_listed_by_status(as_admin: Api) -> None:
    adopted("error")
    assert cells(page(as_admin, HISTORY), "shown_outcome") == ["Failed"]


def test_the_history_is_filtered_by_outcome(as_admin: Api, shown_world: World) -> None:
    shown_world.gateway(request(), request(record.FAILED))
    shown_world.write()
    assert cells(page(as_admin, f"{HISTORY}?outcome=failed"), "shown_outcome") == ["Failed 502"]


def test_the_history_is_searched(as_admin: Api, shown_world: World) -> None:
    shown_world.gateway(request(model="one"), request(model="other"))
    shown_world.write()
    assert cells(page(as_admin, f"{HISTORY}?q=other"), "model") == ["other"]


def test_one_request_is_shown_with_all_fields(as_admin: Api, shown_world: World) -> None:
    shown_world.gateway(request(record.FAILED, error="it took too long"))
    shown_world.write()
    assert "it took too long" in the_request(as_admin)


def the_request(api: Api) -> str:
    """The page of the only request."""
    return page(api, f"{HISTORY}{RequestHistory.objects.get().pk}/change/")


def test_a_request_shows_endpoint_model_and_key(
    as_admin: Api, admin: User, shown_world: World, endpoints: object
) -> None:
    key_for(admin, name="notebook")
    key = ApiKey.objects.get()
    tries = (attempt(record.FAILED, B, error="connection refused", duration_us=500), attempt(record.OK))
    shown_world.gateway(request(attempts=tries, api_key_id=str(key.pk), first_token_us=300_000))
    shown_world.write()
    html = the_request(as_admin)
    assert f'<a href="/admin/endpoints/endpoint/{A}/change/">a</a>' in html
    assert f'<a href="/admin/access/apikey/{key.pk}/change/">notebook</a>' in html
    text = visible_text(html)
    assert "Error b Failed 502 1 ms connection refused a OK 200 2.00 s" in text
    assert "Time to first token: 300 ms" in text


def test_a_request_is_shown_after_its_endpoint_was_deleted(as_admin: Api, shown_world: World) -> None:
    shown_world.gateway(request(api_key_id=KEY))
    shown_world.write()
    text = visible_text(the_request(as_admin))
    assert f"deleted: {KEY}" in text
    assert f"Endpoint Chosen because Outcome Status code Duration Error {A} OK" in text


def test_a_request_with_empty_fields_is_shown(as_admin: Api) -> None:
    adopted("error")
    assert "Attempts: —" in visible_text(the_request(as_admin))


def test_bodies_are_shown_only_if_stored(as_admin: Api, shown_world: World) -> None:
    shown_world.gateway(request())
    shown_world.write()
    assert "Bodies" not in the_request(as_admin)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "<b>hi</b>"}]}
    RequestHistory.objects.update(request_body=body, response_body={"id": "x"})
    html = the_request(as_admin)
    assert "&lt;b&gt;hi&lt;/b&gt;" in html
    assert "&quot;id&quot;: &quot;x&quot;" in html


def test_a_request_has_no_history(as_admin: Api, shown_world: World) -> None:
    shown_world.gateway(request())
    shown_world.write()
    assert "/history/" not in the_request(as_admin)


def test_the_history_is_read_only(as_admin: Api, shown_world: World) -> None:
    shown_world.gateway(request())
    shown_world.write()
    path = f"{HISTORY}{RequestHistory.objects.get().pk}"
    assert as_admin.get(f"{HISTORY}add/").status_code == 403
    assert as_admin.post(f"{path}/change/", {"model": "x"}).status_code == 403
    assert as_admin.post(f"{path}/delete/", {"post": "yes"}).status_code == 403
    assert RequestHistory.objects.get().model == "tiny"


@pytest.mark.parametrize("path", [LIST, HISTORY])
def test_viewers_have_no_admin(as_viewer: Api, path: str) -> None:
    assert as_viewer.get(path).status_code == 302


def test_waiting_records_are_written_before_the_history_is_shown(
    as_admin: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries: list[bool] = []

    class Writer:
        backlog = Backlog()

        def flush(self) -> bool:
            queries.append(True)
            return True

    monkeypatch.setattr(runtime.installation, "writer", Writer())
    page(as_admin, HISTORY)
    assert queries


# The number of queries of lists


def links(html: str) -> list[str]:
    """Return the links below the list."""
    foot = html.split('<p class="paginator">')[1].split("</p>")[0]
    return [unescape(link) for link in re.findall(r'href="([^"]+)"', foot)]


def test_the_history_is_read_page_by_page(as_admin: Api, shown_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RequestHistoryAdmin, "list_per_page", 3)
    shown_world.gateway(*(request(model=f"m{number}", ago=number) for number in range(7)))
    shown_world.write()
    html = page(as_admin, HISTORY)
    assert cells(html, "model") == ["m0", "m1", "m2"]
    assert "Searched back to 2026-03-10 12:00:28." in visible_text(html)
    (older,) = links(html)
    html = page(as_admin, HISTORY + older)
    assert cells(html, "model") == ["m3", "m4", "m5"]
    newest, older = links(html)
    html = page(as_admin, HISTORY + older)
    assert cells(html, "model") == ["m6"]
    assert "There are no older entries." in visible_text(html)
    assert cells(page(as_admin, HISTORY + newest), "model") == ["m0", "m1", "m2"]


def test_a_search_shows_how_far_it_has_read(as_admin: Api, shown_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SCANNED_ROWS", 2)
    shown_world.gateway(*(request(model="old" if number == 4 else "new", ago=number) for number in range(6)))
    shown_world.write()
    html = page(as_admin, f"{HISTORY}?q=old")
    assert cells(html, "model") == []
    assert "Searched back to 2026-03-10 12:00:28." in visible_text(html)
    (older,) = links(html)
    assert cells(page(as_admin, HISTORY + older), "model") == ["old"]


def test_the_history_can_begin_at_a_given_time(as_admin: Api, shown_world: World) -> None:
    shown_world.gateway(request(model="new"), request(model="old", ago=2 * 3600))
    shown_world.write()
    assert cells(page(as_admin, f"{HISTORY}?before=1"), "model") == ["old"]


def test_the_history_has_one_order(as_admin: Api, shown_world: World) -> None:
    shown_world.gateway(request(model="a", ago=2), request(model="b", ago=1), request(model="c", ago=3))
    shown_world.write()
    for order in ("2", "-2", "1.-2", "nonsense"):
        assert cells(page(as_admin, f"{HISTORY}?o={order}"), "model") == ["b", "a", "c"]
    assert "sortable" not in page(as_admin, HISTORY)


@pytest.mark.parametrize("query", ["cursor=x", "outcome=fine", "before=7", "p=x", "_facets=1&cursor=%00"])
def test_wrong_parameters_redirect_to_the_list(as_admin: Api, shown_world: World, query: str) -> None:
    shown_world.write()
    response = as_admin.get(f"{HISTORY}?{query}", follow=True)
    assert response.status_code == 200


PATHS = (
    HISTORY,
    f"{HISTORY}?q=tiny",
    f"{HISTORY}?outcome=failed",
    f"{HISTORY}?before=1&_facets=1",
    LIST,
    f"{LIST}?status=pending",
    f"{LIST}?q=a",
    "/admin/access/user/",
    "/admin/access/apikey/",
    f"/endpoints/{A}",
    "/",
)


@pytest.mark.parametrize("path", PATHS)
def test_number_of_queries_does_not_grow_with_rows(
    as_admin: Api, admin: User, shown_world: World, endpoints: object, path: str
) -> None:
    statements: list[list[str]] = []
    for count in (2, 20):
        _more_of_all(count, admin, shown_world)
        page(as_admin, path)  # caches are filled
        with CaptureQueriesContext(connection) as captured:
            page(as_admin, path)
        statements.append([query["sql"] for query in captured])
    assert len(statements[0]) == len(statements[1])
    assert [sql for sql in statements[1] if "COUNT" in sql and "request_history" in sql] == []


def _more_of_all(count: int, admin: User, shown_world: World) -> None:
    for number in range(count):
        name = f"{count}-{number}"
        endpoint = add_endpoint(str(uuid.uuid4()), name)
        EndpointModel.objects.create(endpoint=endpoint, model_id="tiny", capabilities=[])
        key_for(make_user(name), name=name)
        outcome = record.FAILED if number % 2 else record.OK
        shown_world.gateway(request(outcome, model=name, ago=number), request(endpoint=str(endpoint.pk), ago=7200))
    shown_world.write()
