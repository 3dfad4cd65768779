"""The pages that add endpoints and act on several endpoints."""

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from benchmarks.simulator import Simulator
from endpoints import edit_log
from endpoints.models import Endpoint, HealthCheck
from endpoints.registry import registry
from tests.access.people import Api
from tests.endpoints.conftest import Serve, listing, make_endpoint
from tests.markup import one_line

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.one_database]

ADD = "/endpoints/add"
ACT = "/endpoints/act"
PAGES = (ADD, "/endpoints/discover")


def text(response: Any) -> str:
    html: str = response.content.decode()
    return re.sub(r"(<[^>]+>|\s)+", " ", html)


def messages_of(response: Any) -> list[str]:
    """Return the messages of the page after the redirect."""
    return [str(message) for message in response.context["messages"]]


def post(api: Api, path: str = ADD, **fields: Any) -> Any:
    return api.post(path, fields)


# Access


@pytest.mark.parametrize("path", PAGES)
def test_pages_that_change_need_an_administrator(as_viewer: Api, anybody: Api, path: str) -> None:
    assert as_viewer.get(path).status_code == 403
    assert as_viewer.post(path).status_code == 403
    assert anybody.get(path)["Location"] == f"/login?next={path}"


@pytest.mark.parametrize("action", ["disable", "reset_breaker"])
def test_actions_need_an_administrator(as_viewer: Api, action: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_address_without_a_scheme_is_detected_and_added(as_admin: Api, sim: Simulator) -> None:
    url = sim.add(kind="ollama", models=["tiny"]).url
    typed = url.removeprefix("http://")
    assert detect(as_admin, typed).json()["base_url"] == url
    assert "Type Ollama" in text(post(as_admin, base_url=typed, look="yes"))
    post(as_admin, base_url=typed)
    assert Endpoint.objects.get().base_url == url


@pytest.mark.parametrize(
    ("target", "leads"), [("/endpoints", "/endpoints"), ("https://evil.example/", "/endpoints/{}")]
)
def test_adding_redirects_only_to_our_own_pages(as_admin: Api, sim: Simulator, target: str, leads: str) -> None:
    response = post(as_admin, base_url=sim.add().url, next=target)
    assert response["Location"] == leads.format(Endpoint.objects.get().pk)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"base_url": ""}, "This field is required."),
        ({"base_url": "ftp://gpu-box"}, "Enter a URL such as http://192.168.1.10:8000."),
        ({"base_url": "http://169.254.169.254"}, "Link-local and metadata addresses are refused"),
        ({"base_url": "NOWHERE"}, "The endpoint cannot be reached: connection refused"),
        ({"base_url": "NOWHERE", "name": "taken"}, "An endpoint with this name already exists."),
        ({"base_url": "NOWHERE", "health_check_interval_secs": "0"}, "greater than or equal to 1"),
        ({"base_url": "NOWHERE", "tags": "x" * 41}, "A tag may have at most 40 characters."),
        ({"base_url": "http://taken.invalid:8000"}, "An endpoint with this base URL already exists."),
    ],
)
def test_errors_are_shown_next_to_their_fields(
    as_admin: Api, nowhere: str, fields: dict[str, str], sentence: str
) -> None:
    make_endpoint("taken")
    response = post(as_admin, **{name: value.replace("NOWHERE", nowhere) for name, value in fields.items()})
    assert response.status_code == 200
    assert sentence in text(response)
    assert "data-wrong" in response.content.decode()
    assert Endpoint.objects.count() == 1


def test_detecting_on_the_page_stores_nothing(as_admin: Api, sim: Simulator) -> None:
    response = post(as_admin, base_url=sim.add(kind="llamacpp", models=["tiny"], slots=4).url, look="yes")
    assert "Type llama.cpp" in text(response)
    assert "tiny" in text(response)
    assert Endpoint.objects.count() == 0


def test_the_form_is_filled_in_from_query_parameters(as_admin: Api) -> None:
    assert 'value="http://127.0.0.1:8000"' in as_admin.get(f"{ADD}?base_url=http://127.0.0.1:8000").content.decode()
    assert "<script>x" not in as_admin.get(f'{ADD}?base_url="><script>x').content.decode()


def test_a_script_request_gets_only_the_new_row(as_admin: Api, sim: Simulator, nowhere: str) -> None:
    response = as_admin.post(ADD, {"base_url": sim.add().url}, headers={"X-RouterDash-Part": "true"})
    assert one_line(response.content.decode()).startswith(f'<li data-just-added="{Endpoint.objects.get().pk}"')
    refused = as_admin.post(ADD, {"base_url": nowhere}, headers={"X-RouterDash-Part": "true"})
    assert refused.status_code == 422
    assert "connection refused" in text(refused)


# Detecting, by the API


def detect(api: Api, url: str, **fields: Any) -> Any:
    return api.call("POST", "/api/endpoints/detect", {"base_url": url, **fields})


def test_detecting_returns_the_details_before_anything_is_stored(as_admin: Api, sim: Simulator) -> None:
    reported = detect(as_admin, f"{sim.add(kind='llamacpp', models=['tiny'], slots=4).url}/v1").json()
    assert (reported["endpoint_type"], reported["slots"], reported["registered"], reported["problem"]) == (
        "llamacpp",
        4,
        None,
        None,
    )
    assert (reported["models"][0]["model_id"], reported["name"]) == ("tiny", "llamacpp")
    assert reported["latency_ms"] >= 1
    assert not reported["base_url"].endswith("/v1")
    assert Endpoint.objects.count() == 0


def test_detecting_sends_no_stored_key(as_admin: Api, serve: Serve) -> None:
    server = serve({"/v1/models": listing("tiny")})
    endpoint = make_endpoint(base_url=server.url)
    endpoint.set_api_key("sk-stored")
    reported = detect(as_admin, server.url).json()
    assert reported["registered"] == {"id": str(endpoint.pk), "name": "gpu-box"}
    assert {authorization for *_, authorization in server.requests} == {""}


def test_detecting_sends_the_key_that_is_given(as_admin: Api, sim: Simulator) -> None:
    url = sim.add(api_key="sk-upstream").url
    assert detect(as_admin, url).status_code == 400
    assert detect(as_admin, url, api_key="sk-upstream").status_code == 200


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254", "http://0xA9FEA9FE", "http://[fe80::1]", "file:///etc/passwd", ""]
)
def test_detecting_sends_no_request_to_a_refused_address(as_admin: Api, url: str) -> None:
    assert detect(as_admin, url).status_code == 400


def test_detecting_at_a_closed_port_is_502(as_admin: Api, nowhere: str) -> None:
    assert detect(as_admin, nowhere).status_code == 502


# Actions on several endpoints


def act(api: Api, action: str, *endpoints: Endpoint, **fields: Any) -> Any:
    given = {
        "action": action,
        "endpoint": [str(endpoint.pk) for endpoint in endpoints],
        "next": "/endpoints?q=x",
        **fields,
    }
    return api.post(ACT, given, follow=True)


def test_several_endpoints_are_tested_at_once(as_admin: Api, sim: Simulator, nowhere: str) -> None:
    chosen = [make_endpoint(f"box{number}", sim.add().url) for number in range(3)]
    response = act(as_admin, "test", *chosen, make_endpoint("gone", nowhere))
    assert messages_of(response) == ["3 endpoints responded.", "These endpoints did not respond correctly: gone"]
    assert HealthCheck.objects.count() == 4
    assert response.redirect_chain[0][0] == "/endpoints?q=x"


def test_several_endpoints_are_synced_at_once(as_admin: Api, sim: Simulator, nowhere: str) -> None:
    one = make_endpoint("box", sim.add(models=["a", "b"]).url)
    response = act(as_admin, "sync", one, make_endpoint("gone", nowhere))
    assert messages_of(response) == [
        "The models of 1 endpoint are up to date.",
        "The model lists of these endpoints could not be read: gone",
    ]
    assert one.models.count() == 2


@pytest.mark.parametrize("action", ["drain", "disable"])
def test_actions_that_stop_endpoints_need_a_confirmation(as_admin: Api, action: str) -> None:
    chosen = [make_endpoint("a"), make_endpoint("b")]
    registry.in_flight = lambda: {str(chosen[0].pk): 3}
    try:
        response = act(as_admin, action, *chosen)
    finally:
        registry.in_flight = dict
    assert "3 requests are running there." in text(response)
    assert {endpoint.options_or_default.operator_state for endpoint in Endpoint.objects.all()} == {"enabled"}


@pytest.mark.parametrize(
    ("action", "state", "sentence"),
    [
        ("drain", "draining", "Draining started: a, b"),
        ("disable", "disabled", "Disabled: a, b"),
        ("enable", "enabled", "Enabled: a, b"),
    ],
)
def test_operator_states_are_set_and_logged(as_admin: Api, action: str, state: str, sentence: str) -> None:
    response = act(as_admin, action, make_endpoint("a"), make_endpoint("b"), confirmed="yes", deadline_secs="60")
    assert messages_of(response) == [sentence]
    assert {endpoint.options.operator_state for endpoint in Endpoint.objects.all()} == {state}
    assert all((endpoint.options.drain_until is not None) == (action == "drain") for endpoint in Endpoint.objects.all())
    assert LogEntry.objects.count() == 2
    assert {edit_log.latest(str(endpoint.pk))[0].state for endpoint in Endpoint.objects.all()} == {("enabled", state)}


def test_a_reset_of_several_breakers_needs_a_confirmation(as_admin: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []
    monkeypatch.setattr(registry, "reset_breaker", reported.append)
    chosen = [make_endpoint("a"), make_endpoint("b")]
    confirmation = text(act(as_admin, "reset_breaker", *chosen))
    assert "Reset the circuit breakers of 2 endpoints?" in confirmation
    assert "Requests are sent there again" in confirmation
    assert reported == []
    assert messages_of(act(as_admin, "reset_breaker", *chosen, confirmed="yes")) == ["Circuit breaker reset: a, b"]
    assert reported == [str(endpoint.pk) for endpoint in chosen]
    assert all("circuit breaker (reset)" in edit_log.latest(endpoint_id)[0].text for endpoint_id in reported)


def test_a_message_names_a_few_of_many(as_admin: Api) -> None:
    response = act(as_admin, "enable", *(make_endpoint(f"box{number}") for number in range(8)))
    assert messages_of(response) == ["Enabled: box0, box1, box2, box3, box4 and 3 more"]


@pytest.mark.parametrize("fields", [{"action": "explode"}, {"action": "test", "endpoint": "no-id"}, {}])
def test_incomplete_actions_do_nothing(as_admin: Api, fields: dict[str, str]) -> None:
    make_endpoint()
    response = as_admin.post(ACT, fields, follow=True)
    assert messages_of(response) == ["Choose an action and at least one endpoint."]


def test_actions_need_a_post(as_admin: Api) -> None:
    assert as_admin.get(ACT)["Location"] == "/endpoints"
