"""The pages that add endpoints and act on many."""

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from benchmarks.simulator import Simulator
from endpoints import edits
from endpoints.models import Endpoint, HealthCheck
from endpoints.registry import registry
from tests.access.people import Api
from tests.endpoints.conftest import Serve, listing, make_endpoint

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

ADD = "/endpoints/add"
ACT = "/endpoints/act"
PAGES = (ADD, "/endpoints/discover")


def text(response: Any) -> str:
    html: str = response.content.decode()
    return re.sub(r"(<[^>]+>|\s)+", " ", html)


def said(response: Any) -> list[str]:
    """The messages of the page that an answer leads to."""
    return [str(message) for message in response.context["messages"]]


def post(api: Api, path: str = ADD, **fields: Any) -> Any:
    return api.post(path, fields)


# Who may


@pytest.mark.parametrize("path", PAGES)
def test_pages_that_change_are_for_administrators(as_viewer: Api, anybody: Api, path: str) -> None:
    assert as_viewer.get(path).status_code == 403
    assert as_viewer.post(path).status_code == 403
    assert anybody.get(path)["Location"] == f"/login?next={path}"


@pytest.mark.parametrize("action", ["disable", "reset_breaker"])
def test_acting_is_for_administrators(as_viewer: Api, action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "reset_breaker", pytest.fail)
    endpoint = make_endpoint()
    assert post(as_viewer, ACT, action=action, endpoint=str(endpoint.pk), confirmed="yes").status_code == 403
    assert Endpoint.objects.get().options_or_default.operator_state == "enabled"


# Adding


def test_an_endpoint_is_added_with_its_type_and_a_name(as_admin: Api, sim: Simulator) -> None:
    response = post(as_admin, base_url=f"{sim.add(kind='vllm').url}/v1/", tags="tokyo, rack 3", max_concurrency="4")
    endpoint = Endpoint.objects.get()
    assert response["Location"] == f"/endpoints/{endpoint.pk}"
    assert (endpoint.endpoint_type, endpoint.name[:10]) == ("vllm", "localhost-")
    assert (endpoint.options.tags, endpoint.options.max_concurrency) == (["tokyo", "rack 3"], 4)
    assert registry.all()[0].tags == ("tokyo", "rack 3")


@pytest.mark.parametrize(
    ("target", "leads"), [("/endpoints", "/endpoints"), ("https://evil.example/", "/endpoints/{}")]
)
def test_adding_leads_back_to_pages_of_ours_alone(as_admin: Api, sim: Simulator, target: str, leads: str) -> None:
    response = post(as_admin, base_url=sim.add().url, next=target)
    assert response["Location"] == leads.format(Endpoint.objects.get().pk)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"base_url": ""}, "This field is required."),
        ({"base_url": "gpu-box"}, "Give a URL such as http://192.168.1.10:8000."),
        ({"base_url": "http://169.254.169.254"}, "Link-local and metadata addresses are refused"),
        ({"base_url": "NOWHERE"}, "The endpoint cannot be reached: connection refused."),
        ({"base_url": "NOWHERE", "name": "taken"}, "An endpoint of this name exists already."),
        ({"base_url": "NOWHERE", "health_check_interval_secs": "0"}, "greater than or equal to 1"),
        ({"base_url": "NOWHERE", "tags": "x" * 41}, "A tag has at most 40 characters."),
        ({"base_url": "http://taken.invalid:8000"}, "An endpoint with this base URL exists already."),
    ],
)
def test_what_is_wrong_stands_beside_its_field(
    as_admin: Api, nowhere: str, fields: dict[str, str], sentence: str
) -> None:
    make_endpoint("taken")
    response = post(as_admin, **{name: value.replace("NOWHERE", nowhere) for name, value in fields.items()})
    assert response.status_code == 200
    assert sentence in text(response)
    assert "data-wrong" in response.content.decode()
    assert Endpoint.objects.count() == 1


def test_looking_stores_nothing(as_admin: Api, sim: Simulator) -> None:
    response = post(as_admin, base_url=sim.add(kind="llamacpp", models=["tiny"], slots=4).url, look="yes")
    assert "Type llama.cpp" in text(response)
    assert "tiny" in text(response)
    assert Endpoint.objects.count() == 0


def test_the_form_is_filled_in_by_its_address(as_admin: Api) -> None:
    assert 'value="http://127.0.0.1:8000"' in as_admin.get(f"{ADD}?base_url=http://127.0.0.1:8000").content.decode()
    assert "<script>x" not in as_admin.get(f'{ADD}?base_url="><script>x').content.decode()


def test_an_open_page_gets_the_new_line_alone(as_admin: Api, sim: Simulator, nowhere: str) -> None:
    response = as_admin.post(ADD, {"base_url": sim.add().url}, headers={"HX-Request": "true"})
    assert response.content.decode().startswith(f'<li data-just-added="{Endpoint.objects.get().pk}"')
    refused = as_admin.post(ADD, {"base_url": nowhere}, headers={"HX-Request": "true"})
    assert refused["HX-Retarget"] == "[data-refused]"
    assert "connection refused" in text(refused)


# Detecting, by the API


def detect(api: Api, url: str, **fields: Any) -> Any:
    return api.call("POST", "/api/endpoints/detect", {"base_url": url, **fields})


def test_detecting_tells_all_before_anything_is_stored(as_admin: Api, sim: Simulator) -> None:
    told = detect(as_admin, f"{sim.add(kind='llamacpp', models=['tiny'], slots=4).url}/v1").json()
    assert (told["endpoint_type"], told["slots"], told["registered"], told["problem"]) == ("llamacpp", 4, None, None)
    assert (told["models"][0]["model_id"], told["name"]) == ("tiny", "llamacpp")
    assert told["latency_ms"] >= 1
    assert not told["base_url"].endswith("/v1")
    assert Endpoint.objects.count() == 0


def test_detecting_sends_no_stored_key(as_admin: Api, serve: Serve) -> None:
    server = serve({"/v1/models": listing("tiny")})
    endpoint = make_endpoint(base_url=server.url)
    endpoint.set_api_key("sk-stored")
    told = detect(as_admin, server.url).json()
    assert told["registered"] == {"id": str(endpoint.pk), "name": "gpu-box"}
    assert {authorization for *_, authorization in server.asked} == {""}


def test_detecting_sends_the_key_that_is_given(as_admin: Api, sim: Simulator) -> None:
    url = sim.add(api_key="sk-upstream").url
    assert detect(as_admin, url).status_code == 400
    assert detect(as_admin, url, api_key="sk-upstream").status_code == 200


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254", "http://0xA9FEA9FE", "http://[fe80::1]", "file:///etc/passwd", ""]
)
def test_detecting_asks_no_refused_address(as_admin: Api, url: str) -> None:
    assert detect(as_admin, url).status_code == 400


def test_detecting_nobody_is_502(as_admin: Api, nowhere: str) -> None:
    assert detect(as_admin, nowhere).status_code == 502


# Many at once


def act(api: Api, action: str, *endpoints: Endpoint, **fields: Any) -> Any:
    given = {"action": action, "endpoint": [str(it.pk) for it in endpoints], "next": "/endpoints?q=x", **fields}
    return api.post(ACT, given, follow=True)


def test_many_are_tested_at_once(as_admin: Api, sim: Simulator, nowhere: str) -> None:
    chosen = [make_endpoint(f"box{number}", sim.add().url) for number in range(3)]
    response = act(as_admin, "test", *chosen, make_endpoint("gone", nowhere))
    assert said(response) == ["3 endpoints answered.", "No good answer from: gone."]
    assert HealthCheck.objects.count() == 4
    assert response.redirect_chain[0][0] == "/endpoints?q=x"


def test_many_are_synced_at_once(as_admin: Api, sim: Simulator, nowhere: str) -> None:
    one = make_endpoint("box", sim.add(models=["a", "b"]).url)
    response = act(as_admin, "sync", one, make_endpoint("gone", nowhere))
    assert said(response) == ["The models of 1 endpoint are up to date.", "No list of models from: gone."]
    assert one.models.count() == 2


@pytest.mark.parametrize("action", ["drain", "disable"])
def test_what_takes_endpoints_out_asks_first(as_admin: Api, action: str) -> None:
    chosen = [make_endpoint("a"), make_endpoint("b")]
    registry.in_flight = lambda: {str(chosen[0].pk): 3}
    try:
        response = act(as_admin, action, *chosen)
    finally:
        registry.in_flight = dict
    assert "3 requests run there now." in text(response)
    assert {it.options_or_default.operator_state for it in Endpoint.objects.all()} == {"enabled"}


@pytest.mark.parametrize(
    ("action", "state", "sentence"),
    [
        ("drain", "draining", "Draining: a, b."),
        ("disable", "disabled", "Disabled: a, b."),
        ("enable", "enabled", "Enabled: a, b."),
    ],
)
def test_states_are_set_and_noted(as_admin: Api, action: str, state: str, sentence: str) -> None:
    response = act(as_admin, action, make_endpoint("a"), make_endpoint("b"), confirmed="yes", deadline_secs="60")
    assert said(response) == [sentence]
    assert {it.options.operator_state for it in Endpoint.objects.all()} == {state}
    assert all((it.options.drain_until is not None) == (action == "drain") for it in Endpoint.objects.all())
    assert LogEntry.objects.count() == 2
    assert {edits.latest(str(it.pk))[0].state for it in Endpoint.objects.all()} == {("enabled", state)}


def test_a_reset_of_many_breakers_asks_first(as_admin: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(registry, "reset_breaker", told.append)
    chosen = [make_endpoint("a"), make_endpoint("b")]
    asked = text(act(as_admin, "reset_breaker", *chosen))
    assert "Reset the circuit breakers of 2 endpoints?" in asked
    assert "requests go there again" in asked
    assert told == []
    assert said(act(as_admin, "reset_breaker", *chosen, confirmed="yes")) == ["Circuit breaker reset: a, b."]
    assert told == [str(it.pk) for it in chosen]
    assert all("circuit breaker (reset)" in edits.latest(endpoint_id)[0].text for endpoint_id in told)


def test_a_message_names_a_few_of_many(as_admin: Api) -> None:
    response = act(as_admin, "enable", *(make_endpoint(f"box{number}") for number in range(8)))
    assert said(response) == ["Enabled: box0, box1, box2, box3, box4 and 3 more."]


@pytest.mark.parametrize("fields", [{"action": "explode"}, {"action": "test", "endpoint": "no-id"}, {}])
def test_what_means_nothing_does_nothing(as_admin: Api, fields: dict[str, str]) -> None:
    make_endpoint()
    response = as_admin.post(ACT, fields, follow=True)
    assert said(response) == ["Choose at least one endpoint, and what to do."]


def test_acting_is_no_read(as_admin: Api) -> None:
    assert as_admin.get(ACT)["Location"] == "/endpoints"
