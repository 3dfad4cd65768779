"""Settings of clients quote any value correctly for their format, and contain a key only if it was just created."""

import ast
import json
import shlex
import tomllib
from typing import Any

import pytest

from access.client_snippets import client_snippets
from access.models import ApiKey
from endpoints.registry import registry
from tests.access.people import Api
from tests.access.test_snippets import NAMES, URL
from tests.endpoints.conftest import make_endpoint, make_model

pytestmark = pytest.mark.django_db
KEY = "sk_x"


@pytest.fixture(autouse=True)
def _clean_state(empty_caches: None) -> None:
    """Run `empty_caches` in every test of this package."""


def texts(model: str) -> dict[str, str]:
    snippets = client_snippets(URL, KEY, model)
    assert len({snippet.name for snippet in snippets}) == len(snippets) >= 10
    return {snippet.name: snippet.text for snippet in snippets}


def exported(text: str) -> dict[str, str]:
    words = shlex.split(text.replace("\\\n", ""))
    return dict(word.split("=", 1) for word in words if "=" in word)


@pytest.mark.parametrize("model", NAMES)
def test_settings_for_the_shell(model: str) -> None:
    snippets = texts(model)
    claude = exported(snippets["claude-code"])
    assert claude["ANTHROPIC_BASE_URL"] == URL
    assert (claude["ANTHROPIC_AUTH_TOKEN"], claude["ANTHROPIC_MODEL"]) == (KEY, model)
    assert shlex.split(snippets["aider"])[-2:] == ["--model", f"openai/{model}"]
    assert exported(snippets["open-webui"])["OPENAI_API_BASE_URL"] == f"{URL}/v1"


@pytest.mark.parametrize("model", NAMES)
def test_settings_of_opencode(model: str) -> None:
    configuration = json.loads(texts(model)["opencode"])
    provider = configuration["provider"]["routerdash"]
    assert configuration["model"] == f"routerdash/{model}"
    assert provider["options"] == {"baseURL": f"{URL}/v1", "apiKey": KEY}
    assert list(provider["models"]) == [model]


@pytest.mark.parametrize("model", NAMES)
def test_settings_of_codex(model: str) -> None:
    text = texts(model)["codex"]
    configuration: dict[str, Any] = tomllib.loads(text)
    provider = configuration["model_providers"][configuration["model_provider"]]
    assert (configuration["model"], provider["base_url"], provider["wire_api"]) == (model, f"{URL}/v1", "responses")
    assert f'{provider["env_key"]}="{KEY}"' in text


@pytest.mark.parametrize("model", NAMES)
def test_settings_for_python(model: str) -> None:
    nodes = ast.walk(ast.parse(texts(model)["langchain"]))
    assert {f"{URL}/v1", KEY, model} <= {node.value for node in nodes if isinstance(node, ast.Constant)}


@pytest.mark.parametrize("model", NAMES)
def test_settings_of_continue(model: str) -> None:
    lines = texts(model)["continue"].splitlines()
    values = dict(line.strip().removeprefix("- ").split(": ", 1) for line in lines[1:] if ": " in line)
    assert [json.loads(values[name]) for name in ("model", "apiBase", "apiKey")] == [model, f"{URL}/v1", KEY]


def test_agents_know_the_smallest_context_of_a_model() -> None:
    assert "model_context_window" not in texts("qwen3")["codex"]
    assert "limit" not in texts("qwen3")["opencode"]
    for name, context in (("box", 32768), ("small", 16384), ("silent", None)):
        make_model(make_endpoint(name, status="online"), "qwen3", capabilities=["chat"], max_tokens=context)
    registry.reload()
    snippets = texts("qwen3")
    assert tomllib.loads(snippets["codex"])["model_context_window"] == 16384
    model = json.loads(snippets["opencode"])["provider"]["routerdash"]["models"]["qwen3"]
    assert model["limit"] == {"context": 16384, "output": 4096}


def test_the_page_has_a_model_of_the_fleet_and_no_key(as_viewer: Api) -> None:
    as_viewer.post("/keys", {"name": "laptop"})
    made = ApiKey.objects.get()
    make_model(make_endpoint("box", status="online"), "qwen3", capabilities=["chat"])
    registry.reload()
    page = as_viewer.get("/keys/clients")
    html = page.content.decode()
    assert page.status_code == 200
    assert html.count("qwen3") > 10
    assert html.count("sk_…") > 10
    assert made.key_prefix not in html


def test_the_page_shows_another_model(as_viewer: Api) -> None:
    html = as_viewer.get("/keys/clients?model=claude-local%3Cb%3E").content.decode()
    assert "claude-local&lt;b&gt;" in html
    assert "claude-local<b>" not in html


def test_the_page_without_models(as_viewer: Api) -> None:
    assert as_viewer.get("/keys/clients").status_code == 200


def test_a_new_key_is_in_the_settings_of_all_clients(as_viewer: Api) -> None:
    html = as_viewer.post("/keys", {"name": "laptop"}).content.decode()
    key = html.partition('value="sk_')[2].partition('"')[0]
    assert html.count(f"sk_{key}") > 10
    assert "sk_…" not in html
