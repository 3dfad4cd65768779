"""Search over all objects by name or ID, with a bounded number of queries and only results that the user may see."""

from typing import Any

import pytest

from access.models import User
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from tests.access.people import Api, key_for, with_key
from tests.metrics.records import A, B, request
from tests.metrics.world import World, add_endpoint, rows

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen_clock")]


@pytest.fixture
def served() -> Endpoint:
    endpoint = add_endpoint(A, "東京 4090", base_url="http://tokyo.invalid:8000")
    EndpointModel(endpoint=endpoint, model_id="meta-llama/Llama-3.3-70B").save(force_insert=True)
    registry.reload()
    return endpoint


def search_results(api: Api, text: str) -> list[tuple[str, str]]:
    response = api.get("/api/search", {"q": text})
    assert response.status_code == 200
    return [(hit["kind"], hit["name"]) for hit in response.json()["found"]]


@pytest.mark.parametrize("text", ["東京", "tokyo", " 4090 ", A, A[:8]])
def test_an_endpoint_is_found(as_viewer: Api, served: Endpoint, text: str) -> None:
    assert ("endpoint", "東京 4090") in search_results(as_viewer, text)


def test_a_model_is_found_by_part_of_its_name(as_viewer: Api, served: Endpoint) -> None:
    assert search_results(as_viewer, "LLAMA-3") == [("model", "meta-llama/Llama-3.3-70B")]


def test_names_that_start_with_the_text_come_first(as_viewer: Api) -> None:
    add_endpoint(A, "old-gpu")
    add_endpoint(B, "gpu-box")
    assert [name for _, name in search_results(as_viewer, "gpu")] == ["gpu-box", "old-gpu"]


def test_the_number_of_results_is_limited(as_viewer: Api) -> None:
    for number in range(20):
        Endpoint.objects.create(name=f"gpu-{number}", base_url=f"http://gpu-{number}.invalid")
    registry.reload()
    assert len(search_results(as_viewer, "gpu")) == 8


def test_only_administrators_find_keys(as_admin: Api, as_viewer: Api, admin: User) -> None:
    key = key_for(admin, "endpoints.read", name="notebook")
    assert ("key", "notebook") in search_results(as_admin, "noteb")
    assert ("key", "notebook") in search_results(as_admin, key[:10])
    assert ("key", "notebook") in search_results(as_admin, key)  # pasted as a whole
    assert search_results(as_viewer, "noteb") == search_results(with_key(key), "noteb") == []


def test_a_request_is_found_by_its_whole_id(as_viewer: Api, shown_world: World) -> None:
    add_endpoint(A)
    shown_world.gateway(request())
    shown_world.write()
    ((request_id,),) = rows("SELECT id FROM request_history")
    assert search_results(as_viewer, str(request_id)) == [("request", str(request_id))]
    assert search_results(as_viewer, str(request_id)[:20]) == []


@pytest.mark.parametrize("text", ["", "  ", "x" * 201, "a\0b"])
def test_a_wrong_search_is_one_clear_error(as_viewer: Api, text: str) -> None:
    response = as_viewer.get("/api/search", {"q": text})
    assert response.status_code == 400
    assert "1 to 200 characters" in response.json()["error"]


def test_a_key_needs_the_permission(admin: User) -> None:
    assert with_key(key_for(admin, "openai.inference")).get("/api/search?q=a").status_code == 403


# The page


def test_the_page_shows_the_results(as_admin: Api, served: Endpoint) -> None:
    html = as_admin.get("/search", {"q": "a"}).content.decode()
    assert "meta-llama/Llama-3.3-70B" in html
    assert 'href="/admin/"' in html.split('class="panel hits results"')[1]


def test_a_script_request_gets_only_the_list(as_viewer: Api, served: Endpoint) -> None:
    html = as_viewer.get("/search", {"q": "llama"}, headers={"X-RouterDash-Part": "true"}).content.decode()
    assert "meta-llama/Llama-3.3-70B" in html
    assert "<html" not in html


def test_the_search_text_is_escaped(as_viewer: Api) -> None:
    html = as_viewer.get("/search", {"q": "<script>alert(1)</script>"}).content.decode()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


@pytest.mark.parametrize("text", ["%", "'", "\0", "\\", "x" * 5000])
def test_unusual_texts_find_nothing(as_admin: Api, text: str) -> None:
    assert as_admin.get("/search", {"q": text}).status_code == 200


def test_the_page_needs_a_login(anybody: Api) -> None:
    assert anybody.get("/search?q=a")["Location"] == "/login?next=/search%3Fq%3Da"


@pytest.mark.parametrize("endpoints", [1, 50])
def test_a_search_needs_one_query(as_admin: Api, endpoints: int, django_assert_num_queries: Any) -> None:
    for number in range(endpoints):
        Endpoint.objects.create(name=f"gpu-{number}", base_url=f"http://gpu-{number}.invalid")
    registry.reload()
    as_admin.get("/search?q=gpu")
    with django_assert_num_queries(1):  # for keys
        as_admin.get("/search?q=gpu")
