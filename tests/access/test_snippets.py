"""Code snippets quote any value correctly for their language."""

import ast
import json
import shlex

import pytest

from access.snippets import first_model, snippets
from endpoints.models import EndpointModel
from endpoints.registry import registry
from tests.endpoints.conftest import make_endpoint, make_model

pytestmark = pytest.mark.django_db

URL = "http://127.0.0.1:32768"
NAMES = ["qwen3:8b", "meta-llama/Llama-3.3-70B-Instruct", 'it\'s "odd" \\ $(x)', "東京/モデル"]


@pytest.fixture(autouse=True)
def _clean_state(empty_caches: None) -> None:
    """Run `empty_caches` in every test of this package."""


@pytest.mark.parametrize("model", NAMES)
def test_values_survive_quoting_for_the_shell(model: str) -> None:
    words = shlex.split(snippets(URL, "sk_x", model)[0].text.replace("\\\n", ""))
    assert words[:2] == ["curl", f"{URL}/v1/chat/completions"]
    assert "Authorization: Bearer sk_x" in words
    assert json.loads(words[-1])["model"] == model


@pytest.mark.parametrize("model", NAMES)
def test_values_survive_quoting_for_python(model: str) -> None:
    tree = ast.parse(snippets(URL, "sk_x", model)[1].text)
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert {f"{URL}/v1", "sk_x", model} <= set(texts)


def test_without_a_key_a_placeholder_is_shown() -> None:
    assert all("sk_…" in snippet.text for snippet in snippets(URL))


def test_the_model_is_an_online_chat_model() -> None:
    away, here = make_endpoint("away", status="offline"), make_endpoint("here", status="online")
    make_model(away, "away", capabilities=["chat"])
    for model, word in (("a-embedder", "embeddings"), ("b-chatter", "chat")):
        EndpointModel(endpoint=here, model_id=model, capabilities=[word]).save(force_insert=True)
    registry.reload()
    assert first_model() == "b-chatter"
    here.set_operator_state("disabled")
    registry.reload()
    assert first_model() == "away"


def test_a_model_of_an_external_endpoint_is_the_last_choice() -> None:
    make_model(make_endpoint("box", status="offline"), "own", capabilities=["chat"])
    cloud = make_endpoint("cloud", status="online")
    cloud.set_options(cloud_type="openai")
    make_model(cloud, "gpt-5", capabilities=["chat"])
    registry.reload()
    assert first_model() == "own"


def test_without_models_there_is_none() -> None:
    assert first_model() is None
