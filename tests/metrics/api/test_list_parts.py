"""Lists of the API and of pages in parts: `limit`, `offset`, and the number of all rows."""

import time
import uuid

import pytest

from access.models import ApiKey, User
from access.pages import PAGE
from endpoints.models import EndpointModel
from endpoints.registry import registry
from metrics.pages import options
from metrics.queries.figures import Moment
from metrics.queries.model_catalogue import Catalogue
from routerdash.web import playground
from tests.access.people import Api
from tests.metrics.records import AT, A, B, request
from tests.metrics.world import World, add_endpoint

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def endpoints() -> None:
    for endpoint_id, name, models in ((A, "a", ("one", "two")), (B, "b", ("two", "three"))):
        endpoint = add_endpoint(endpoint_id, name, status="online")
        EndpointModel.objects.bulk_create(EndpointModel(endpoint=endpoint, model_id=model) for model in models)
    registry.reload()


@pytest.mark.parametrize(
    ("path", "key", "total"),
    [("/api/endpoints", "endpoints", 2), ("/api/dashboard/endpoints", None, 2), ("/api/dashboard/models", "data", 3)],
)
def test_a_list_is_read_in_parts(as_viewer: Api, endpoints: None, path: str, key: str | None, total: int) -> None:
    def rows(query: str) -> list[str]:
        response = as_viewer.get(path + query)
        assert response["X-Total-Count"] == str(total)
        body = response.json()
        return [row["id"] for row in (body[key] if key else body)]

    every = rows("")
    assert len(every) == total
    assert rows("?limit=1") + rows("?limit=1&offset=1") == every[:2]
    assert rows(f"?offset={total}") == []


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "offset=-1", "limit=x"])
@pytest.mark.parametrize("path", ["/api/endpoints", "/api/dashboard/endpoints", "/api/dashboard/models"])
def test_invalid_parts_are_refused(as_viewer: Api, path: str, query: str) -> None:
    assert as_viewer.get(f"{path}?{query}").status_code == 400


def test_the_total_counts_what_the_filter_selects(as_viewer: Api, endpoints: None) -> None:
    response = as_viewer.get("/api/endpoints?model=one&limit=1")
    assert (response.json()["total"], response["X-Total-Count"]) == (1, "1")


def test_own_keys_have_pages(as_admin: Api, admin: User) -> None:
    ApiKey.objects.bulk_create(
        ApiKey(name=f"key-{number:03}", key_hash=str(number), created_by=admin) for number in range(PAGE + 1)
    )
    assert as_admin.get("/api/me/api-keys?limit=2")["X-Total-Count"] == str(PAGE + 1)
    first, second = (as_admin.get(f"/keys?page={number}").content.decode() for number in (1, 2))
    assert 'href="?page=2"' in first
    assert (first.count(">key-"), second.count(">key-")) == (PAGE, 1)


def test_the_list_of_endpoints_has_pages_with_its_filters(
    as_viewer: Api, endpoints: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics.pages.endpoints.PAGE", 1)
    html = as_viewer.get("/endpoints?q=two&page=2").content.decode()
    assert f"/endpoints/{B}" in html
    assert f"/endpoints/{A}" not in html
    assert 'href="?q=two&amp;page=1"' in html


def test_filters_offer_the_busiest_of_many(
    endpoints: None, shown_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "MAX_OPTIONS", 1)
    shown_world.gateway(request(endpoint=B, model="two", ago=AT - time.time()))
    now = Moment.now()
    assert options.endpoints(now) == {B: "b"}
    assert options.endpoints(now, A) == {B: "b", A: "a"}
    assert options.models(now) == {"two": "two"}
    gone = str(uuid.uuid4())
    assert options.keys(now, gone) == {gone: gone}


def test_the_playground_offers_the_busiest_models_and_the_chosen_one(
    as_viewer: Api, endpoints: None, shown_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playground, "MAX_MODELS", 2)
    shown_world.gateway(request(endpoint=B, model="two", ago=AT - time.time()))
    html = as_viewer.get("/playground?model=three").content.decode()
    assert [name for name in ("one", "two", "three") if f'<option value="{name}">' in html] == ["two", "three"]


def test_a_catalogue_is_built_again_only_for_other_models(endpoints: None) -> None:
    before = Catalogue(registry.all())
    registry.note_check(A, success=False, latency_ms=None, error="refused")
    registry.note_check(A, success=False, latency_ms=None, error="refused")
    after = Catalogue(registry.all())
    assert after.all is before.all
    assert (before.online(after.all["one"]), after.online(after.all["one"])) == (1, 0)
    EndpointModel.objects.filter(endpoint_id=A, model_id="one").delete()
    registry.reload()
    assert "one" not in Catalogue(registry.all()).all
