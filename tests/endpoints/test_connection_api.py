"""Connection settings by the JSON API, the page that adds an endpoint, and the admin."""

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse

from benchmarks.simulator import Simulator
from endpoints import operations
from endpoints.models import Endpoint, EndpointOptions
from endpoints.registry import registry
from gateway.base.connecting.forward_proxy import MASK
from tests.access.people import Api
from tests.certificates import Authority
from tests.connect_proxy import ConnectProxy

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]


def options_of(endpoint_id: Any) -> EndpointOptions:
    return EndpointOptions.objects.get(pk=endpoint_id)


def add(api: Api, url: str, **fields: Any) -> Any:
    return api.call("POST", "/api/endpoints", {"name": "gpu", "base_url": url, **fields})


def patch(api: Api, path: str, fields: Any) -> Any:
    return api.call("PATCH", path, fields)


def test_an_endpoint_is_added_and_checked_through_its_proxy(as_admin: Api, sim: Simulator) -> None:
    simulated = sim.add(models=["tiny"])
    with ConnectProxy() as proxy:
        response = add(as_admin, simulated.url, connection={"proxy_url": proxy.url, "headers": {"X-Team": "blue"}})
        assert response.status_code == 201, response.content
        stored = Endpoint.objects.get()
        assert operations.test(stored).success
        assert len(operations.sync_models(stored).models) == 1
    assert len(proxy.targets) >= 3
    shown = response.json()["connection"]
    assert shown["proxy_url"] == f"http://{MASK}@127.0.0.1:{proxy.port}"
    assert shown["headers"] == {"X-Team": MASK}
    sealed = options_of(stored.pk).sealed_connection
    assert sealed is not None
    assert "blue" not in sealed
    assert "pass" not in response.content.decode()


def test_what_was_read_can_be_sent_back(as_admin: Api, sim: Simulator) -> None:
    response = add(as_admin, sim.add().url, connection={"headers": {"X-Team": "blue"}})
    path, before = f"/api/endpoints/{response.json()['id']}", options_of(response.json()["id"]).sealed_connection
    again = patch(as_admin, path, {"connection": as_admin.get(path).json()["connection"]})
    assert again.status_code == 200, again.content
    assert options_of(response.json()["id"]).sealed_connection == before
    assert patch(as_admin, path, {"connection": None}).json()["connection"] is None


def test_each_bad_field_has_its_error(as_admin: Api, sim: Simulator) -> None:
    response = add(
        as_admin,
        sim.add().url,
        connection={"proxy_url": "proxy", "ca_bundle": "/etc/ca.pem", "headers": {"Host": "x"}},
    )
    assert response.status_code == 400
    assert Endpoint.objects.count() == 0
    fields = response.json()["fields"]
    assert fields.keys() == {f"connection.{name}" for name in ("proxy_url", "ca_bundle", "headers")}
    assert "not a path" in fields["connection.ca_bundle"][0]


def test_another_server_never_gets_the_settings_of_the_old_one(as_admin: Api, sim: Simulator) -> None:
    with ConnectProxy() as proxy:
        response = add(as_admin, sim.add().url, connection={"proxy_url": proxy.url, "headers": {"X-Team": "blue"}})
        path, shown = f"/api/endpoints/{response.json()['id']}", response.json()["connection"]
        before = proxy.connections
        moved = patch(as_admin, path, {"base_url": sim.add().url, "connection": shown})
        assert moved.status_code == 200, moved.content
        assert proxy.connections == before
    assert moved.json()["connection"] is None
    assert options_of(response.json()["id"]).sealed_connection is None


def test_a_path_on_the_same_server_keeps_them(as_admin: Api, sim: Simulator) -> None:
    response = add(as_admin, sim.add().url, connection={"headers": {"X-Team": "blue"}})
    path, url = f"/api/endpoints/{response.json()['id']}", response.json()["base_url"]
    Endpoint.objects.filter(pk=response.json()["id"]).update(base_url=f"{url}/below")
    registry.reload()
    assert patch(as_admin, path, {"base_url": url}).json()["connection"]["headers"] == {"X-Team": MASK}


def test_viewers_may_not_edit_them(as_viewer: Api, as_admin: Api, sim: Simulator) -> None:
    path = f"/api/endpoints/{add(as_admin, sim.add().url).json()['id']}"
    assert patch(as_viewer, path, {"connection": {"headers": {"X": "y"}}}).status_code == 403
    assert as_viewer.get(path).json()["connection"] is None


def test_the_edit_log_names_the_change_without_values(as_admin: Api, sim: Simulator) -> None:
    path = f"/api/endpoints/{add(as_admin, sim.add().url).json()['id']}"
    patch(as_admin, path, {"connection": {"headers": {"X-Team": "hunter2"}}})
    entry = LogEntry.objects.order_by("-id")[0]
    assert json.loads(entry.change_message)[0]["values"] == {"connection": [None, None]}
    assert "connection settings" in entry.get_change_message()
    assert "hunter2" not in entry.change_message


def test_the_version_changes_with_them(as_admin: Api, sim: Simulator) -> None:
    path = f"/api/endpoints/{add(as_admin, sim.add().url).json()['id']}"
    before = as_admin.get(path)["ETag"]
    patch(as_admin, path, {"connection": {"headers": {"X-Team": "hunter2"}}})
    assert as_admin.get(path)["ETag"] != before


# Pages


def test_the_page_adds_an_endpoint_with_them(as_admin: Api, sim: Simulator) -> None:
    with ConnectProxy() as proxy:
        form = {"base_url": sim.add().url, "name": "gpu", "proxy_url": proxy.url, "headers": "X-Team: blue\r\nX-Two: 2"}
        assert as_admin.post(reverse("endpoint-add"), form).status_code == 302
        assert proxy.targets
    assert [name for name, _ in Endpoint.objects.get().connection.headers] == ["X-Team", "X-Two"]


def test_the_page_shows_an_error_at_its_field(as_admin: Api, sim: Simulator) -> None:
    form = {"base_url": sim.add().url, "ca_bundle": "/etc/ca.pem", "headers": "no colon"}
    shown = as_admin.post(reverse("endpoint-add"), form).content.decode()
    assert "a colon and its value" in shown
    form["headers"] = ""
    assert "not a path" in as_admin.post(reverse("endpoint-add"), form).content.decode()
    assert Endpoint.objects.count() == 0


def admin_form(pages: Api, path: str) -> dict[str, Any]:
    form = pages.get(path).context["adminform"].form
    return {name: form[name].value() or "" for name in form.fields if form[name].value() not in (None, [], False)}


def test_the_admin_keeps_masked_values_and_takes_new_ones(as_admin: Api, sim: Simulator) -> None:
    authority = Authority.make()
    client = authority.issue()
    entered = {"client_certificate": client.pem, "client_key": client.key, "headers": {"X-Team": "hunter2"}}
    made = add(as_admin, sim.add().url, connection=entered).json()
    path = reverse("admin:endpoints_endpoint_change", args=[made["id"]])
    page = as_admin.get(path).content.decode()
    assert "hunter2" not in page
    assert "PRIVATE KEY" not in page
    form = admin_form(as_admin, path)
    assert form["client_key"] == MASK
    before = options_of(made["id"]).sealed_connection
    assert as_admin.post(path, form | {"notes": "edited"}).status_code == 302
    assert options_of(made["id"]).sealed_connection == before
    assert as_admin.post(path, form | {"headers": "X-Team: hunter3"}).status_code == 302
    connection = Endpoint.objects.get().connection
    assert (connection.headers, connection.client_key) == ((("X-Team", "hunter3"),), client.key)
    assert not LogEntry.objects.filter(change_message__contains="hunter").exists()


def test_the_admin_shows_an_error_at_its_field(as_admin: Api, sim: Simulator) -> None:
    made = add(as_admin, sim.add().url).json()
    path = reverse("admin:endpoints_endpoint_change", args=[made["id"]])
    response = as_admin.post(path, admin_form(as_admin, path) | {"headers": "Host: x"})
    assert "RouterDash sets the header Host itself." in response.content.decode()
    assert not Endpoint.objects.get().connection.headers


def test_exports_do_not_have_them(as_admin: Api, sim: Simulator) -> None:
    made = add(as_admin, sim.add().url, connection={"headers": {"X-Team": "hunter2"}}).json()
    form = {"action": "export_csv", "_selected_action": [made["id"]]}
    exported: Any = as_admin.post(reverse("admin:endpoints_endpoint_changelist"), form)
    text = b"".join(exported.streaming_content if exported.streaming else [exported.content]).decode()
    assert "gpu" in text
    assert "hunter2" not in text
    assert str(options_of(made["id"]).sealed_connection) not in text


def test_the_page_of_an_endpoint_shows_them_masked(as_admin: Api, sim: Simulator) -> None:
    client = Authority.make().issue()
    with ConnectProxy() as proxy:
        entered = {"proxy_url": proxy.url, "headers": {"X-Team": "hunter2"}}
        entered |= {"client_certificate": client.pem, "client_key": client.key}
        made = add(as_admin, sim.add().url, connection=entered).json()
    page = as_admin.get(f"/endpoints/{made['id']}").content.decode()
    assert f"http://{MASK}@127.0.0.1:{proxy.port}" in page
    assert "X-Team" in page
    assert client.certificate.not_valid_after_utc.date().isoformat()[:7] in page
    for secret in ("hunter2", "user:pass", "PRIVATE KEY"):
        assert secret not in page


def test_detection_uses_the_settings_that_were_entered(as_admin: Api, sim: Simulator) -> None:
    with ConnectProxy() as proxy:
        fields = {"base_url": sim.add().url, "connection": {"proxy_url": proxy.url}}
        assert as_admin.call("POST", "/api/endpoints/detect", fields).status_code == 200
        assert proxy.targets
        fields["connection"] = {"proxy_url": proxy.bare_url}
        refused = as_admin.call("POST", "/api/endpoints/detect", fields)
    assert refused.status_code == 502
    assert "the proxy asks for a login (HTTP 407)" in refused.json()["error"]
