import re
from typing import Any

import pytest
from django.contrib.messages import get_messages
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from benchmarks.simulator import Simulator
from endpoints.models import Endpoint, EndpointModel, HealthCheck, OperatorState, deadline
from endpoints.registry import registry
from tests.access.people import Api
from tests.endpoints.conftest import Serve, listing, make_endpoint, make_model
from tests.markup import one_line

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]

LIST = "/admin/endpoints/endpoint/"
ADD = LIST + "add/"


def form(**fields: Any) -> dict[str, Any]:
    """Return the form fields that the browser sends for an endpoint."""
    return {
        "name": "gpu-box",
        "base_url": "http://gpu-box.invalid:8000",
        "health_check_interval_secs": 30,
        "inference_timeout_secs": 120,
        "notes": "",
        "api_key": "",
        "capabilities": ["chat_completion"],
        **fields,
    }


def change(api: Api, endpoint: Endpoint, **fields: Any) -> list[str]:
    """Send the change form with the fields of the row and the given changes; return the messages."""
    sent = {"name": endpoint.name, "base_url": endpoint.base_url, **fields}
    return saved(api.post(f"{LIST}{endpoint.pk}/change/", form(**sent)))


def add(api: Api, **fields: Any) -> list[str]:
    return saved(api.post(ADD, form(**fields)))


def saved(response: Any) -> list[str]:
    errors = response.context["errors"] if response.context else ""
    assert response.status_code == 302, errors
    return [str(message) for message in get_messages(response.wsgi_request)]


def act(api: Api, action: str, *endpoints: Endpoint, **sent: Any) -> list[str]:
    chosen = [str(endpoint.pk) for endpoint in endpoints]
    return saved(api.post(LIST, {"action": action, "_selected_action": chosen, "confirmed": "yes", **sent}))


def test_an_address_without_a_scheme_is_stored_with_one(as_admin: Api) -> None:
    add(as_admin, base_url="gpu-box.invalid:8000")
    add(as_admin, name="cloud", base_url="api.x.ai", external="false")
    cloud, own = Endpoint.objects.select_related("options").order_by("name")
    assert (cloud.base_url, cloud.kind) == ("https://api.x.ai", "xai")
    assert own.base_url == "http://gpu-box.invalid:8000"


def page(api: Api, path: str) -> str:
    response = api.get(path)
    assert response.status_code == 200
    return one_line(response.content.decode())


def visible_text(html: str) -> str:
    """Return the visible text: without tags, whitespace collapsed."""
    return re.sub(r"(<[^>]+>|\s)+", " ", html)


# Adding


def test_an_added_endpoint_gets_its_type(as_admin: Api, sim: Simulator) -> None:
    url = sim.add(kind="ollama").url
    add(as_admin, base_url=url + "/v1/", name=" gpu-box ")
    endpoint = Endpoint.objects.get()
    assert (endpoint.name, endpoint.base_url, endpoint.endpoint_type) == ("gpu-box", url, "ollama")
    assert endpoint.status == "pending"


def test_an_unreachable_endpoint_is_saved_with_a_warning(as_admin: Api, nowhere: str) -> None:
    messages = add(as_admin, base_url=nowhere)
    assert "The endpoint was saved, but it cannot be reached: connection refused" in messages
    assert Endpoint.objects.get().endpoint_type == "openai_compatible"


def test_an_unknown_server_is_saved_with_a_warning(as_admin: Api, serve: Serve) -> None:
    messages = add(as_admin, base_url=serve({"/v1/models": {"hello": "world"}}).url)
    assert any(message.startswith("The endpoint was saved, but its type could not be detected") for message in messages)
    assert Endpoint.objects.count() == 1


def test_a_key_is_used_for_detection_and_stored_sealed(as_admin: Api, sim: Simulator) -> None:
    add(as_admin, base_url=sim.add(kind="vllm", api_key="sk-upstream").url, api_key="sk-upstream")
    endpoint = Endpoint.objects.get()
    assert (endpoint.endpoint_type, endpoint.api_key) == ("vllm", "sk-upstream")
    assert endpoint.options.sealed_api_key != "sk-upstream"


def test_without_a_key_none_is_stored(as_admin: Api, sim: Simulator) -> None:
    add(as_admin, base_url=sim.add().url)
    assert Endpoint.objects.get().options.sealed_api_key is None


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("name", " "),
        ("base_url", ""),
        ("base_url", "ftp://nonsense"),
        ("health_check_interval_secs", 0),
        ("health_check_interval_secs", 3601),
        ("inference_timeout_secs", 0),
        ("base_url", "http://169.254.169.254"),
        ("base_url", "http://0xA9FEA9FE"),
        ("connect_timeout_secs", 61),
        ("idle_timeout_secs", 0),
        ("total_timeout_secs", 86401),
        ("max_concurrency", 10001),
        ("max_concurrency", "many"),
        ("tier", 0),
        ("tier", 10),
        ("cost_weight", 0),
        ("cost_weight", 10.5),
        ("capabilities", ["telepathy"]),
    ],
)
def test_a_wrong_field_is_marked(as_admin: Api, field: str, wrong: Any) -> None:
    response = as_admin.post(ADD, form(**{field: wrong}))
    assert response.status_code == 200
    assert field in response.context["adminform"].form.errors
    assert not Endpoint.objects.exists()


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"base_url": "http://other:1"}, "name"),
        ({"name": "other", "base_url": "http://gpu-box.invalid:8000/v1"}, "base_url"),
    ],
)
def test_names_and_addresses_are_unique(as_admin: Api, sent: dict[str, str], field: str) -> None:
    make_endpoint("gpu-box")
    response = as_admin.post(ADD, form(**sent))
    assert list(response.context["adminform"].form.errors) == [field]
    assert Endpoint.objects.count() == 1


def test_the_add_form_shows_no_state(as_admin: Api) -> None:
    text = page(as_admin, ADD)
    assert 'name="base_url"' in text
    assert "Latest health checks" not in text


# Changing


def test_the_change_form_shows_panels(as_admin: Api) -> None:
    endpoint = make_endpoint("gpu-box", status="online", latency_ms=120, last_error="HTTP 500")
    make_model(endpoint, "llama3.3:70b", canonical_name="meta-llama/Llama", max_tokens=4096)
    Endpoint.record_check(endpoint.pk, success=False, latency_ms=None, error="HTTP 503", checked_at=timezone.now())
    text = visible_text(page(as_admin, f"{LIST}{endpoint.pk}/change/"))
    for shown in ("120 ms", "llama3.3:70b meta-llama/Llama 4,096", "Online → Error", "HTTP 503", "Daily metrics"):
        assert shown in text


def test_empty_panels_show_a_dash(as_admin: Api) -> None:
    assert page(as_admin, f"{LIST}{make_endpoint().pk}/change/").count("—") >= 3


def test_panels_escape_texts_of_servers(as_admin: Api) -> None:
    endpoint = make_endpoint()
    make_model(endpoint, "<script>alert(1)</script>")
    Endpoint.record_check(endpoint.pk, success=False, latency_ms=None, error="<b>bad</b>", checked_at=timezone.now())
    text = page(as_admin, f"{LIST}{endpoint.pk}/change/")
    assert "<script>alert(1)" not in text
    assert "<b>bad" not in text


def test_only_the_last_checks_are_shown(as_admin: Api) -> None:
    endpoint = make_endpoint()
    for number in range(20):
        Endpoint.record_check(
            endpoint.pk, success=False, latency_ms=None, error=f"no {number};", checked_at=timezone.now()
        )
    text = page(as_admin, f"{LIST}{endpoint.pk}/change/")
    assert text.count("no 19;") >= 1
    assert "no 4;" not in text


def test_an_old_form_does_not_overwrite_figures(as_admin: Api) -> None:
    endpoint = make_endpoint(status="pending")
    page(as_admin, f"{LIST}{endpoint.pk}/change/")
    Endpoint.objects.update(
        status="online", latency_ms=95, total_requests=11, successful_requests=8, failed_requests=3, last_error="x"
    )
    change(as_admin, endpoint, notes="basement")
    assert Endpoint.objects.values_list(
        "notes", "status", "latency_ms", "total_requests", "successful_requests", "failed_requests", "last_error"
    ).get() == ("basement", "online", 95, 11, 8, 3, "x")


def test_a_form_that_sends_figures_changes_none(as_admin: Api) -> None:
    endpoint = make_endpoint(status="online", total_requests=11)
    change(as_admin, endpoint, status="offline", total_requests=0, latency_ms=1, endpoint_type="xllm")
    stored = Endpoint.objects.get()
    assert (stored.status, stored.total_requests, stored.latency_ms, stored.endpoint_type) == (
        "online",
        11,
        None,
        "openai_compatible",
    )


def test_a_change_of_the_same_server_sends_no_probe(as_admin: Api, serve: Serve) -> None:
    server = serve({"/v1/models": listing("a")})
    change(as_admin, make_endpoint(base_url=server.url), name="renamed")
    assert server.requests == []


def test_a_move_detects_the_type_again(as_admin: Api, sim: Simulator) -> None:
    change(as_admin, make_endpoint(), base_url=sim.add(kind="vllm").url)
    assert Endpoint.objects.get().endpoint_type == "vllm"


def test_a_move_to_another_type_warns(as_admin: Api, sim: Simulator) -> None:
    messages = change(as_admin, make_endpoint(endpoint_type="ollama"), base_url=sim.add(kind="vllm").url)
    assert "A different type of server was found at this address: vLLM instead of Ollama." in messages


def test_the_history_shows_old_and_new_values(as_admin: Api) -> None:
    endpoint = make_endpoint("東京")
    change(as_admin, endpoint, name="<b>大阪</b>")
    change(as_admin, endpoint, health_check_interval_secs=7)
    shown = as_admin.get(f"/admin/endpoints/endpoint/{endpoint.pk}/history/").content.decode()
    assert "東京 → &lt;b&gt;大阪&lt;/b&gt;" in shown
    assert shown.index("30 → 7") < shown.index("東京 → ")  # the newest first
    assert as_admin.get("/admin/endpoints/endpoint/no-id/history/").status_code == 302


def test_a_long_history_has_pages(as_admin: Api) -> None:
    endpoint = make_endpoint()
    for seconds in range(1, 102):
        change(as_admin, endpoint, health_check_interval_secs=seconds)
    address = f"/admin/endpoints/endpoint/{endpoint.pk}/history/"
    newest, oldest = (page(as_admin, f"{address}?p={number}") for number in (1, 2))
    assert "101 entries" in newest
    assert "101 entries" in oldest
    assert 'href="?p=2"' in newest
    assert ("100 → 101" in newest, "30 → 1<" in newest) == (True, False)
    assert "30 → 1<" in oldest


def test_the_add_form_does_not_mention_a_stored_key(as_admin: Api) -> None:
    assert "to keep the stored key" not in as_admin.get("/admin/endpoints/endpoint/add/").content.decode()


def test_a_move_to_an_unreachable_server_keeps_the_type_and_warns(as_admin: Api, nowhere: str) -> None:
    messages = change(as_admin, make_endpoint(endpoint_type="vllm"), base_url=nowhere)
    assert any("cannot be reached" in message for message in messages)
    assert Endpoint.objects.values_list("base_url", "endpoint_type").get() == (nowhere, "vllm")


# Limits and capabilities


LIMITS = {
    "connect_timeout_secs": 1, "idle_timeout_secs": 2, "total_timeout_secs": 3, "max_concurrency": 4, "tier": 5,
    "cost_weight": 0.25,
}  # fmt: skip


def limits(endpoint: Endpoint) -> dict[str, Any]:
    options = Endpoint.objects.get(pk=endpoint.pk).options_or_default
    return {name: getattr(options, name) for name in LIMITS}


def test_limits_are_stored_and_shown(as_admin: Api) -> None:
    endpoint = make_endpoint()
    change(as_admin, endpoint, **LIMITS)
    assert limits(endpoint) == LIMITS
    assert 'name="max_concurrency" value="4"' in page(as_admin, f"{LIST}{endpoint.pk}/change/")


def test_an_added_endpoint_has_its_limits(as_admin: Api, nowhere: str) -> None:
    add(as_admin, base_url=nowhere, **LIMITS)
    assert limits(Endpoint.objects.get()) == LIMITS


def test_an_empty_limit_is_none(as_admin: Api) -> None:
    endpoint = make_endpoint()
    endpoint.set_options(**LIMITS)
    change(as_admin, endpoint, **{**LIMITS, "max_concurrency": ""})
    assert limits(endpoint) == {**LIMITS, "max_concurrency": None}


def test_slots_reported_by_the_server_are_read_only(as_admin: Api) -> None:
    endpoint = make_endpoint()
    endpoint.set_options(learned_slots=4)
    change(as_admin, endpoint, learned_slots=9)
    assert Endpoint.objects.get().options.learned_slots == 4
    assert "Slots reported by the server: 4" in visible_text(page(as_admin, f"{LIST}{endpoint.pk}/change/"))


@pytest.mark.parametrize("chosen", [["embeddings", "rerank"], ["chat_completion"], []])
def test_capabilities_are_checkboxes(as_admin: Api, chosen: list[str]) -> None:
    endpoint = make_endpoint()
    change(as_admin, endpoint, capabilities=chosen)
    assert Endpoint.objects.get().capabilities == chosen
    text = page(as_admin, f"{LIST}{endpoint.pk}/change/")
    assert re.findall(r'name="capabilities" value="(\w+)"[^>]*checked', text) == chosen


@pytest.mark.parametrize("odd", [None, "chat", ["telepathy"], {"chat": 1}])
def test_unknown_capabilities_of_llmlb_are_not_checked(as_admin: Api, odd: Any) -> None:
    text = page(as_admin, f"{LIST}{make_endpoint(capabilities=odd).pk}/change/")
    assert not re.search(r'name="capabilities"[^>]*checked', text)


def test_capabilities_of_each_model_are_shown(as_admin: Api) -> None:
    endpoint = make_endpoint()
    make_model(endpoint, "both", capabilities=["chat", "embeddings"])
    make_model(endpoint, "unknown", capabilities=None)
    text = visible_text(page(as_admin, f"{LIST}{endpoint.pk}/change/"))
    assert "both — — Chat, Embeddings" in text
    assert "unknown — — —" in text


# The upstream's key


def test_a_key_is_never_shown(as_admin: Api) -> None:
    endpoint = make_endpoint(api_key_encrypted="sk-theirs")
    assert "sk-theirs" not in page(as_admin, f"{LIST}{endpoint.pk}/change/")
    endpoint.set_api_key("sk-ours")
    text = page(as_admin, f"{LIST}{endpoint.pk}/change/")
    assert "sk-ours" not in text
    assert str(endpoint.options.sealed_api_key) not in text


@pytest.mark.parametrize(("sent", "kept"), [("", "sk-old"), ("sk-new", "sk-new")])
def test_an_empty_key_keeps_the_old_one(as_admin: Api, sent: str, kept: str) -> None:
    endpoint = make_endpoint()
    endpoint.set_api_key("sk-old")
    change(as_admin, endpoint, api_key=sent)
    assert Endpoint.objects.get().api_key == kept


def test_a_key_is_forgotten_on_request(as_admin: Api) -> None:
    endpoint = make_endpoint(api_key_encrypted="sk-theirs")
    change(as_admin, endpoint, forget_api_key="on")
    assert Endpoint.objects.get().api_key is None


def test_a_move_deletes_the_key_and_warns(as_admin: Api, serve: Serve) -> None:
    server = serve({"/v1/models": listing("a")})
    endpoint = make_endpoint()
    endpoint.set_api_key("sk-old")
    messages = change(as_admin, endpoint, base_url=server.url)
    assert "The address changed, so the stored API key was deleted." in messages
    assert Endpoint.objects.get().api_key is None
    assert {authorization for _, _, authorization in server.requests} == {""}


@pytest.mark.parametrize("old", ["sealed", "plain"])
@pytest.mark.parametrize("before", ["https://127.0.0.1:{}", "http://localhost:{}", "http://127.0.0.1:9"])
def test_a_key_is_not_sent_to_another_server(as_admin: Api, serve: Serve, old: str, before: str) -> None:
    server = serve({"/v1/models": listing("a")})
    url = before.format(server.url.rsplit(":", 1)[1])
    endpoint = make_endpoint(base_url=url, api_key_encrypted="sk-old" if old == "plain" else None)
    if old == "sealed":
        endpoint.set_api_key("sk-old")
    change(as_admin, endpoint, base_url=server.url)
    assert Endpoint.objects.get().api_key is None
    assert {authorization for _, _, authorization in server.requests} == {""}


def test_another_path_keeps_the_key_and_sends_it(as_admin: Api, serve: Serve) -> None:
    server = serve({"/openai/v1/models": listing("a", owned_by="vllm")})
    endpoint = make_endpoint(base_url=server.url)
    endpoint.set_api_key("sk-old")
    messages = change(as_admin, endpoint, base_url=server.url + "/openai")
    stored = Endpoint.objects.get()
    assert (stored.api_key, stored.endpoint_type) == ("sk-old", "vllm")
    assert {authorization for _, _, authorization in server.requests} == {"Bearer sk-old"}
    assert not any("forgotten" in message for message in messages)


def test_a_key_that_cannot_be_decrypted_is_reported(as_admin: Api) -> None:
    endpoint = make_endpoint()
    endpoint.set_options(sealed_api_key="nonsense")
    messages = change(as_admin, endpoint, base_url=endpoint.base_url + "/openai")
    assert any("store it again" in message for message in messages)


def test_a_move_deletes_the_slots_reported_by_the_old_server(as_admin: Api, sim: Simulator) -> None:
    endpoint = make_endpoint()
    endpoint.set_options(learned_slots=4)
    change(as_admin, endpoint, base_url=sim.add().url)
    assert Endpoint.objects.get().options.learned_slots is None


def test_a_move_without_a_key_has_no_warning(as_admin: Api, sim: Simulator) -> None:
    messages = change(as_admin, make_endpoint(), base_url=sim.add().url)
    assert not any("API key" in message for message in messages)


def test_a_move_with_a_new_key_stores_it(as_admin: Api, sim: Simulator) -> None:
    endpoint = make_endpoint()
    endpoint.set_api_key("sk-old")
    change(as_admin, endpoint, base_url=sim.add(api_key="sk-new").url, api_key="sk-new")
    assert Endpoint.objects.get().api_key == "sk-new"


# The list


def test_the_list_shows_state_and_latency(as_admin: Api) -> None:
    make_endpoint("measured", status="online", latency_ms=120)
    make_endpoint("draining", status="online").set_operator_state("draining")
    text = visible_text(page(as_admin, LIST))
    assert "measured Online Breaker closed OpenAI-compatible http://measured.invalid:8000 120 ms" in text
    assert "draining Draining Breaker closed OpenAI-compatible http://draining.invalid:8000 —" in text


@pytest.mark.parametrize(("state", "names"), [("enabled", {"new", "enabled"}), ("draining", {"draining"})])
def test_the_list_is_filtered_by_administrative_state(as_admin: Api, state: str, names: set[str]) -> None:
    make_endpoint("new")
    for name in ("enabled", "draining", "disabled"):
        make_endpoint(name).set_operator_state(name)
    response = as_admin.get(f"{LIST}?operator_state={state}")
    assert {endpoint.name for endpoint in response.context["cl"].result_list} == names


@pytest.mark.parametrize("query", ["?q=base", "?status__exact=online", "?endpoint_type__exact=vllm", "?o=1", "?o=5.2"])
def test_the_list_can_be_searched_filtered_and_sorted(as_admin: Api, query: str) -> None:
    make_endpoint("one", status="online", notes="basement", endpoint_type="vllm")
    assert "one" in page(as_admin, LIST + query)


def test_the_number_of_queries_does_not_grow_with_endpoints(as_admin: Api) -> None:
    page(as_admin, LIST)  # the first page of a process also fills its caches
    counts = []
    for number in range(1, 13):
        make_endpoint(f"box{number}").set_operator_state("enabled")
        if number in (2, 12):
            with CaptureQueriesContext(connection) as captured:
                page(as_admin, LIST)
            counts.append(len(captured))
    assert counts[0] == counts[1]


# Actions


def test_a_test_reports_each_outcome(as_admin: Api, sim: Simulator, nowhere: str) -> None:
    good, bad = make_endpoint("good", sim.add().url), make_endpoint("bad", nowhere)
    messages = act(as_admin, "run_test", good, bad)
    assert "bad: connection refused" in messages
    assert any(message.startswith("good: ") and message.endswith(" ms") for message in messages)
    assert Endpoint.objects.get(name="good").status == "online"


def test_a_test_uses_the_stored_key(as_admin: Api, sim: Simulator) -> None:
    endpoint = make_endpoint(base_url=sim.add(api_key="sk-upstream").url)
    endpoint.set_api_key("sk-upstream")
    act(as_admin, "run_test", endpoint)
    assert Endpoint.objects.get().status == "online"


def test_a_sync_reports_each_outcome(as_admin: Api, sim: Simulator, serve: Serve, nowhere: str) -> None:
    one, two = make_endpoint("one", sim.add(models=["a"]).url), make_endpoint("two", sim.add(models=["a", "b"]).url)
    odd, away = make_endpoint("odd", serve({"/v1/models": 500}).url), make_endpoint("away", nowhere)
    assert set(act(as_admin, "run_sync", one, two, odd, away)) == {
        "one: 1 model",
        "two: 2 models",
        "odd: GET /v1/models returned HTTP 500",
        "away: connection refused",
    }
    assert EndpointModel.objects.count() == 3


@pytest.mark.parametrize(
    ("action", "state"),
    [("enable", OperatorState.ENABLED), ("drain", OperatorState.DRAINING), ("disable", OperatorState.DISABLED)],
)
@pytest.mark.parametrize("before", [None, OperatorState.DISABLED])
def test_an_operator_state_is_set_for_the_selected_endpoints(
    as_admin: Api, action: str, state: OperatorState, before: str | None
) -> None:
    chosen, other = make_endpoint("chosen"), make_endpoint("other")
    if before is not None:
        chosen.set_operator_state(before)
    act(as_admin, action, chosen)
    assert Endpoint.objects.get(name="chosen").options_or_default.operator_state == state
    assert Endpoint.objects.get(pk=other.pk).options_or_default.operator_state == OperatorState.ENABLED


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("enable", "Enabled"),
        ("drain", "No new requests are sent; running requests may finish"),
        ("disable", "Disabled"),
    ],
)
def test_a_change_of_the_operator_state_is_confirmed(as_admin: Api, action: str, expected: str) -> None:
    messages = act(as_admin, action, make_endpoint("one"), make_endpoint("two"))
    assert messages in ([f"{expected}: one, two"], [f"{expected}: two, one"])


def test_a_breaker_reset_needs_a_confirmation(as_admin: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []
    monkeypatch.setattr(registry, "reset_breaker", reported.append)
    endpoint = make_endpoint()
    sent = {"action": "reset_breaker", "_selected_action": [str(endpoint.pk)], "next": f"/endpoints/{endpoint.pk}"}
    assert "their failure counts are reset" in as_admin.post(LIST, sent).content.decode()
    assert reported == []
    assert act(as_admin, "reset_breaker", endpoint) == ["Circuit breaker reset: gpu-box"]
    assert reported == [str(endpoint.pk)]
    assert "Circuit breaker reset" in page(as_admin, f"{LIST}{endpoint.pk}/history/")


def test_a_change_of_the_operator_state_is_in_the_history(as_admin: Api) -> None:
    endpoint = make_endpoint()
    act(as_admin, "disable", endpoint)
    assert "Disabled" in page(as_admin, f"{LIST}{endpoint.pk}/history/")


def open_drain_form(api: Api, *endpoints: Endpoint, **sent: Any) -> Any:
    chosen = [str(endpoint.pk) for endpoint in endpoints]
    return api.post(LIST, {"action": "drain", "_selected_action": chosen, **sent})


def test_a_drain_shows_a_form_for_the_deadline(as_admin: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = make_endpoint("one"), make_endpoint("two")
    monkeypatch.setattr(registry, "in_flight", lambda: {str(two.pk): 1234})
    response = open_drain_form(as_admin, one, two)
    text = visible_text(response.content.decode())
    assert response.status_code == 200
    assert "one 0" in text
    assert "two 1,234" in text
    assert 'name="deadline_secs"' in response.content.decode()
    assert not hasattr(Endpoint.objects.get(pk=one.pk), "options")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [("", "running requests may finish"), ("0", "after 0 seconds"), ("1", "after 1 second:"), ("60", "60")],
)
def test_a_drain_may_have_a_deadline(as_admin: Api, seconds: str, expected: str) -> None:
    (message,) = act(as_admin, "drain", make_endpoint(), deadline_secs=seconds)
    assert expected in message
    options = Endpoint.objects.get().options
    assert (options.operator_state, options.drain_until is not None) == ("draining", seconds != "")


@pytest.mark.parametrize("wrong", ["-1", "86401", "soon"])
def test_a_wrong_deadline_shows_the_form_again(as_admin: Api, wrong: str) -> None:
    endpoint = make_endpoint()
    response = open_drain_form(as_admin, endpoint, confirmed="yes", deadline_secs=wrong)
    assert response.status_code == 200
    assert response.context["form"].errors
    assert not hasattr(Endpoint.objects.get(), "options")


@pytest.mark.parametrize(
    ("back", "shown"), [("/endpoints/x", "/endpoints/x"), ("//elsewhere.invalid/", LIST), ("", LIST)]
)
def test_a_drain_can_be_cancelled(as_admin: Api, back: str, shown: str) -> None:
    response = open_drain_form(as_admin, make_endpoint(), next=back)
    assert f'class="btn" href="{shown}">Cancel' in one_line(response.content.decode())


@pytest.mark.parametrize("action", ["enable", "disable"])
def test_another_operator_state_clears_the_deadline(as_admin: Api, action: str) -> None:
    endpoint = make_endpoint()
    act(as_admin, "drain", endpoint, deadline_secs="60")
    act(as_admin, action, endpoint)
    assert Endpoint.objects.get().options.drain_until is None


@pytest.mark.parametrize("path", [LIST + "{}/change/", "/endpoints/{}"])
@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "; running requests may finish."),
        (3000, "; running requests are ended in 49 min."),
        (0, "; the deadline has passed."),
    ],
)
def test_an_endpoints_pages_show_the_deadline(as_admin: Api, path: str, seconds: int | None, expected: str) -> None:
    endpoint = make_endpoint()
    endpoint.set_operator_state("draining", deadline(seconds))
    registry.reload()
    html = page(as_admin, path.format(endpoint.pk))
    assert f'data-live-endpoint="{endpoint.pk}"' in html
    assert "No new requests are sent" + expected in visible_text(html)


def press(api: Api, endpoint: Endpoint, back: str) -> Any:
    """Press a button of an endpoint's own page, or of the page with the deadline."""
    return api.post(LIST, {"action": "drain", "_selected_action": str(endpoint.pk), "next": back, "confirmed": "yes"})


@pytest.mark.parametrize("path", [LIST + "{}/change/", "/endpoints/{}"])
def test_an_endpoints_pages_have_the_actions(as_admin: Api, path: str) -> None:
    endpoint = make_endpoint()
    here = path.format(endpoint.pk)
    text = page(as_admin, here)
    assert f'name="next" value="{here}"' in text
    assert 'value="drain"' in text
    assert 'value="enable"' not in text
    assert press(as_admin, endpoint, here).headers["Location"] == here
    registry.reload()
    text = page(as_admin, here)
    assert "running requests may finish: gpu-box" in text
    assert 'value="enable"' in text


@pytest.mark.parametrize("back", ["//elsewhere.invalid/", "https://elsewhere.invalid/", ""])
def test_an_action_does_not_redirect_to_other_hosts(as_admin: Api, back: str) -> None:
    assert press(as_admin, make_endpoint(), back).headers["Location"] == LIST


def test_viewers_see_no_actions(as_viewer: Api) -> None:
    assert 'name="action"' not in page(as_viewer, f"/endpoints/{make_endpoint().pk}")


def test_disabling_keeps_the_key(as_admin: Api) -> None:
    endpoint = make_endpoint()
    endpoint.set_api_key("sk-upstream")
    act(as_admin, "disable", endpoint)
    assert Endpoint.objects.get().api_key == "sk-upstream"


def test_selected_endpoints_can_be_deleted(as_admin: Api) -> None:
    gone, kept = make_endpoint("gone"), make_endpoint("kept")
    make_model(gone)
    sent = {"action": "delete_selected", "_selected_action": [str(gone.pk)], "post": "yes"}
    saved(as_admin.post(LIST, sent))
    assert Endpoint.objects.get() == kept


def checked_often(endpoint: Endpoint, times: int = 30) -> None:
    HealthCheck.objects.bulk_create(
        HealthCheck(endpoint=endpoint, checked_at=timezone.now(), success=True, status_before="x", status_after="y")
        for _ in range(times)
    )


def test_deleted_rows_of_an_endpoint_are_counted_but_not_listed(as_admin: Api) -> None:
    checked_often(endpoint := make_endpoint(), 1200)
    make_model(endpoint)
    sent = {"action": "delete_selected", "_selected_action": [str(endpoint.pk)]}
    for response in (as_admin.get(f"{LIST}{endpoint.pk}/delete/"), as_admin.post(LIST, sent)):
        text = visible_text(response.content.decode())
        assert "Endpoints: 1 Models: 1 Health checks: 1,200" in text
        assert "all totals are kept" in text
        assert "x → y" not in text


def test_deleting_does_not_read_health_checks(as_admin: Api) -> None:
    checked_often(endpoint := make_endpoint())
    with CaptureQueriesContext(connection) as captured:
        saved(as_admin.post(f"{LIST}{endpoint.pk}/delete/", {"post": "yes"}))
    checks = [query["sql"] for query in captured if "endpoint_health_checks" in query["sql"]]
    assert sorted(sql.split()[0] for sql in checks) == ["DELETE", "SELECT"]
    assert "COUNT(*)" in next(sql for sql in checks if sql.startswith("SELECT"))
    assert not HealthCheck.objects.exists()


# Access


@pytest.mark.parametrize("path", [LIST, ADD])
def test_viewers_have_no_pages_of_administrators(as_viewer: Api, path: str) -> None:
    assert as_viewer.get(path).status_code == 302
    assert as_viewer.get(path, follow=True).redirect_chain[-1][0] == "/"


def test_viewers_cannot_post_to_the_admin(as_viewer: Api) -> None:
    endpoint = make_endpoint()
    as_viewer.post(f"{LIST}{endpoint.pk}/change/", form(name="taken over"))
    as_viewer.post(LIST, {"action": "disable", "_selected_action": [str(endpoint.pk)]})
    assert Endpoint.objects.get().name == "gpu-box"
    assert not hasattr(Endpoint.objects.get(), "options")


def test_an_unknown_endpoint_is_reported_as_missing(as_admin: Api) -> None:
    response = as_admin.get(f"{LIST}0a1b2c3d-4e5f-4071-8a9b-0c1d2e3f4a5b/change/")
    assert (response.status_code, response.headers["Location"]) == (302, "/admin/")
