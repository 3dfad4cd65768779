"""Documented responses of cloud providers through a real gateway: what clients receive, and what is recorded."""

import json
import time

import pytest

from gateway.base.request_kinds import BY_NAME, CHAT
from gateway.ipc.record import FAILED, OK
from gateway.providers.errors import classify, read
from gateway.providers.table import PROVIDERS
from tests.gateway import documented
from tests.gateway.documented import Documented
from tests.gateway.process import GatewayProcess
from tests.gateway.scripted import always, upstream
from tests.http import Response

TOKENS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached": "cached_tokens",
    "written": "cache_write_tokens",
    "reasoning": "reasoning_tokens",
    "finish": "finish_reason",
}


def send(gateway: GatewayProcess, example: Documented) -> Response:
    with upstream(always(example.http)) as server:
        model = gateway.add(server, kind=example.provider, external=True)
        options = {"stream_options": {"include_usage": True}} if example.kind == CHAT and example.is_stream else {}
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 500, "input": "Hi"}
        return gateway.post(BY_NAME[example.kind].path, {**body, "stream": example.is_stream, **options})


def test_every_provider_has_examples_and_their_source() -> None:
    files = {path.stem: json.loads(path.read_text()) for path in documented.FOLDER.glob("*.json")}
    assert files.keys() == PROVIDERS.keys()
    assert all(file["source"] and file["read"].startswith("2026-") for file in files.values())


@pytest.mark.parametrize("example", documented.ANSWERS, ids=str)
def test_every_kind_of_token_is_read(gateway: GatewayProcess, example: Documented) -> None:
    response = send(gateway, example)
    assert response.status == 200, response
    record = gateway.record()
    assert (record.outcome, record.estimated) == (OK, False)
    assert {name: getattr(record, field) for name, field in TOKENS.items()} == example.tokens


@pytest.mark.parametrize("example", documented.ERRORS, ids=str)
def test_every_error_has_its_cause(gateway: GatewayProcess, example: Documented) -> None:
    headers = [(name.encode(), value.encode()) for name, value in example.headers.items()]
    report = read(example.body)
    cause = classify(
        PROVIDERS[example.provider], example.status, report, headers=headers, models=["gpt-4o"], now=time.time()
    )
    assert cause.value == example.cause
    response = send(gateway, example)
    assert response.status >= 400
    assert response.json()["error"]["message"]  # whatever the shape of the provider's own body


@pytest.mark.parametrize("example", documented.BROKEN, ids=str)
def test_an_error_in_mid_stream_is_a_failure(gateway: GatewayProcess, example: Documented) -> None:
    response = send(gateway, example)
    assert response.status == 200
    assert b'"error"' in response.body
    assert gateway.record().outcome == FAILED
