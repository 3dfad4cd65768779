"""An edit of an outdated version is refused; health checks and figures do not change the version."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from django.utils import timezone

from endpoints import edit_versions
from endpoints.models import EDITED_FIELDS, EDITED_OPTIONS, ROUTING_OPTIONS, Endpoint
from endpoints.registry import Entry, registry
from tests.access.people import Api, make_admin, session_of
from tests.endpoints.admin.test_endpoint import LIST, form, page, saved
from tests.endpoints.conftest import make_endpoint

pytestmark = pytest.mark.django_db


def opened(api: Api, endpoint: Endpoint) -> str:
    """Return the version in the form."""
    match = re.search(r'name="version" value="([^"]+)"', page(api, f"{LIST}{endpoint.pk}/change/"))
    assert match is not None
    return match[1]


def send(api: Api, endpoint: Endpoint, version: str, **fields: Any) -> Any:
    sent = {"name": endpoint.name, "base_url": endpoint.base_url, "version": version, **fields}
    return api.post(f"{LIST}{endpoint.pk}/change/", form(**sent))


@pytest.fixture
def bob() -> Api:
    return session_of(make_admin("bob"))


def test_an_edit_of_an_outdated_version_is_refused_with_the_differences(as_admin: Api, bob: Api) -> None:
    endpoint = make_endpoint()
    mine, his = opened(as_admin, endpoint), opened(bob, endpoint)
    saved(send(bob, endpoint, his, notes="In the basement.", max_concurrency=4))
    response = send(as_admin, endpoint, mine, notes="On the roof.")
    assert response.status_code == 200
    conflict = response.context["adminform"].form.conflict
    assert conflict == [("Notes", "In the basement.", "On the roof."), ("Requests at a time", "4", "—")]
    assert Endpoint.objects.get().notes == "In the basement."
    html = response.content.decode()
    assert "On the roof.</textarea>" in html  # the typed values are kept
    again = re.search(r'name="version" value="([^"]+)"', html)
    assert again is not None
    saved(send(as_admin, endpoint, again[1], notes="On the roof."))
    assert Endpoint.objects.get().notes == "On the roof."


def test_the_same_edit_twice_is_not_a_conflict(as_admin: Api, bob: Api) -> None:
    endpoint = make_endpoint()
    mine, his = opened(as_admin, endpoint), opened(bob, endpoint)
    saved(send(bob, endpoint, his, name="renamed"))
    saved(send(as_admin, endpoint, mine, name=" renamed "))


def test_checks_figures_and_operator_states_do_not_change_the_version(as_admin: Api) -> None:
    endpoint = make_endpoint()
    version = opened(as_admin, endpoint)
    Endpoint.record_check(endpoint.pk, success=False, latency_ms=None, error="refused", checked_at=timezone.now())
    Endpoint.objects.update(total_requests=11, failed_requests=3)
    Endpoint.objects.get().set_operator_state("draining")
    saved(send(as_admin, endpoint, version, notes="edited"))
    stored = Endpoint.objects.get()
    assert (stored.notes, stored.total_requests, stored.last_error, stored.options.operator_state) == (
        "edited",
        11,
        "refused",
        "draining",
    )


def test_another_key_is_a_conflict_and_never_shown(as_admin: Api) -> None:
    endpoint = make_endpoint()
    version = opened(as_admin, endpoint)
    endpoint.set_api_key("sk-theirs")
    response = send(as_admin, endpoint, version, api_key="sk-mine")
    assert response.context["adminform"].form.conflict == [("API key of the server", "changed", "a different key")]
    assert "sk-" not in response.content.decode()
    assert Endpoint.objects.get().api_key == "sk-theirs"


def test_capabilities_are_shown_by_their_labels(as_admin: Api) -> None:
    endpoint = make_endpoint()
    version = opened(as_admin, endpoint)
    Endpoint.objects.update(capabilities=["embeddings", "rerank"])
    conflict = send(as_admin, endpoint, version).context["adminform"].form.conflict
    assert conflict == [("Capabilities of all models", "Embeddings, Reranking", "Chat")]


def test_an_edit_of_a_deleted_endpoint_is_reported(as_admin: Api, bob: Api) -> None:
    endpoint = make_endpoint()
    version = opened(as_admin, endpoint)
    saved(bob.post(f"{LIST}{endpoint.pk}/delete/", {"post": "yes"}))
    response = send(as_admin, endpoint, version, notes="too late")
    assert (response.status_code, response["Location"]) == (302, "/admin/")
    assert not Endpoint.objects.exists()


def test_differences_are_escaped(as_admin: Api) -> None:
    endpoint = make_endpoint()
    version = opened(as_admin, endpoint)
    Endpoint.objects.update(notes="<script>alert(1)</script>")
    html = send(as_admin, endpoint, version, notes="<script>alert(2)</script>").content.decode()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html


ODD = {
    "name": "東京ワークステーション <script>alert('name')</script>",
    "notes": "<img src=x onerror=alert(1)>" + "長" * 1972,
}


def test_unusual_texts_are_stored_and_escaped(as_admin: Api, as_viewer: Api) -> None:
    endpoint = make_endpoint()
    assert len(ODD["notes"]) == 2000
    saved(send(as_admin, endpoint, opened(as_admin, endpoint), **ODD))
    registry.reload()
    stored = Endpoint.objects.get()
    assert (stored.name, stored.notes) == (ODD["name"], ODD["notes"])
    pages = [(as_admin, LIST), (as_admin, f"{LIST}{stored.pk}/change/"), (as_admin, f"{LIST}{stored.pk}/delete/")]
    pages += [(as_admin, f"{LIST}{stored.pk}/history/"), (as_viewer, "/"), (as_viewer, f"/endpoints/{stored.pk}")]
    for api, path in pages:
        html = page(api, path)
        assert "<script>alert(" not in html, path
        assert "<img src=x" not in html, path


def test_an_entry_and_its_row_have_the_same_version() -> None:
    endpoint = make_endpoint(health_check_interval_secs=9999, capabilities=["chat", 1], api_key_encrypted="sk-old")
    registry.reload()
    entry = registry.get(str(endpoint.pk))
    assert entry is not None
    assert edit_versions.of(Endpoint.objects.get()) == edit_versions.of_entry(entry)


# The API


def patch(api: Api, endpoint: Endpoint, if_match: str, **body: Any) -> Any:
    return api.patch(
        f"/api/endpoints/{endpoint.pk}", body, content_type="application/json", headers={"If-Match": if_match}
    )


@pytest.mark.django_db(transaction=True)
def test_a_script_can_send_the_version_that_it_changes(as_admin: Api) -> None:
    endpoint = make_endpoint()
    registry.reload()
    etag = as_admin.get(f"/api/endpoints/{endpoint.pk}")["ETag"]
    response = patch(as_admin, endpoint, etag, notes="one")
    assert response.status_code == 200
    assert response["ETag"] != etag
    late = patch(as_admin, endpoint, etag, notes="two")
    assert late.status_code == 412
    assert "changed since" in late.json()["error"]
    for current in (response["ETag"], f'"other", W/{response["ETag"]}', "*"):
        assert patch(as_admin, endpoint, current, notes="one").status_code == 200
    assert Endpoint.objects.get().notes == "one"


def test_an_option_of_a_later_release_changes_the_version_once_it_is_set() -> None:
    """Scripts may hold a version of the release before."""
    before = Entry(id="1", name="gpu", base_url="http://gpu", kind="vllm", tags=("a",), max_concurrency=4)
    later = {*ROUTING_OPTIONS, "external", "cloud_type", "api_version", "allowed_models"}
    fields = [getattr(before, name) for name in (*EDITED_FIELDS, *EDITED_OPTIONS) if name not in later]
    assert edit_versions.of_entry(before).startswith(edit_versions._digest(json.dumps(fields, default=str)))
    for edited in (replace(before, tier=2), replace(before, external=False), replace(before, allowed_models=("a",))):
        assert edit_versions.of_entry(edited) != edit_versions.of_entry(before)


def test_connection_settings_are_a_part_of_their_own() -> None:
    entry = Entry(id="a", name="a", base_url="http://a", kind="vllm")
    without = edit_versions.of_entry(entry)
    one, other = (edit_versions.of_entry(replace(entry, sealed_connection=text)) for text in ("gAAA", "gBBB"))
    assert one.startswith(f"{without}-")
    assert len({without, one, other}) == 3
    assert edit_versions.same_secret(one, without)
    assert not edit_versions.same_connection(one, without)
    assert not edit_versions.same_connection(one, other)
    assert edit_versions.same_connection(one, one)
