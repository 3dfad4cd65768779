"""Bodies as cloud providers take them."""

import json

import pytest

from gateway.base.request_kinds import CHAT, EMBEDDINGS
from gateway.providers.bodies import MAX_BYTES, provider_body
from gateway.providers.table import PROVIDERS


def sent(kind, model, **fields):
    body = json.dumps({"model": "asked", **fields}).encode()
    given = provider_body(body, PROVIDERS[kind], CHAT, model, has_options="stream_options" in fields)
    return json.loads(given)


@pytest.mark.parametrize(
    ("kind", "model", "name"),
    [
        ("openai", "o3-mini", "max_completion_tokens"),
        ("openai", "gpt-5.5", "max_completion_tokens"),
        ("openai", "gpt-4o", "max_tokens"),
        ("xai", "o3-mini", "max_tokens"),
        ("openai", "ft:o4-mini-2025-04-16:me::a1", "max_completion_tokens"),
        ("openai", "ft:gpt-4o-mini:me::o", "max_tokens"),
        ("azure", "o3-mini", "max_completion_tokens"),
        ("azure", "prod-GPT5-mini", "max_completion_tokens"),
        ("azure", "prod-gpt-4o", "max_tokens"),
        ("azure", "turbo1", "max_tokens"),
    ],
)
def test_reasoning_models_get_max_completion_tokens(kind, model, name):
    assert sent(kind, model, max_tokens=7) == {"model": "asked", name: 7}


def test_a_clients_own_max_completion_tokens_stays():
    fields = {"max_tokens": 7, "max_completion_tokens": 9}
    assert sent("openai", "o3", **fields) == {"model": "asked", **fields}


def test_mistral_gets_no_stream_options():
    assert sent("mistral", "m", stream=True, stream_options={"include_usage": True}) == {
        "model": "asked",
        "stream": True,
    }


def test_others_get_stream_options():
    assert "stream_options" in sent("groq", "m", stream_options={"include_usage": True})


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","messages":[{"content":"\\"max_tokens\\""}]}',
        b'{"model":"m","messages":[{"max_tokens":1}]}',
        b'{"model":"m"',
        b'{"max_tokens":1,"pad":"%b"}' % (b"x" * MAX_BYTES),
    ],
    ids=["quoted", "nested", "broken", "large"],
)
def test_bodies_without_a_change_stay_the_same_object(body):
    assert provider_body(body, PROVIDERS["openai"], CHAT, "o3", has_options=False) is body


def test_other_kinds_keep_their_parameters():
    body = b'{"model":"o3","max_tokens":1}'
    assert provider_body(body, PROVIDERS["openai"], EMBEDDINGS, "o3", has_options=False) is body
