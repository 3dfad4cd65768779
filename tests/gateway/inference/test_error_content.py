"""Error messages of endpoints, which may quote the prompt: only the client, and records with bodies, contain them."""

import json

import msgspec
import pytest

from tests.gateway.scripted import DONE, LAST, Talk, always, chunk, http_response, stream, upstream

PROMPT = "ALICE SECRET PROMPT"
ERROR = json.dumps(
    {"error": {"message": f"bad input: {PROMPT}", "type": "invalid_request_error", "code": 400}}
).encode()


@pytest.fixture(params=["none", "errors", "all"])
def storing(request, make_gateway):
    return request.param, make_gateway(ROUTERDASH_STORE_BODIES=request.param).start()


def journal_of(gateway):
    records = gateway.records()
    return records, msgspec.json.encode(records).decode()


@pytest.mark.parametrize("status", [400, 422, 429, 500, 503])
def test_the_record_has_the_endpoints_message_only_where_bodies_are_stored(storing, status):
    stores, gateway = storing
    with upstream(always(http_response(ERROR, status))) as server:
        given = gateway.chat(gateway.add(server))
    assert PROMPT in given.json()["error"]["message"]
    (record,), text = journal_of(gateway)
    summary = f"HTTP {status} (invalid_request_error)"
    assert record.attempts[0].error == summary
    assert record.error in (summary, f"The endpoint failed: {summary}.")
    assert (PROMPT in text) is (stores != "none")
    assert (record.attempts[0].said is not None) is (stores != "none")


def test_an_error_in_a_stream_is_content_too(storing):
    stores, gateway = storing
    event = b'data: {"error":{"message":"bad input: %b","type":"server_error"}}\n\n' % PROMPT.encode()
    with upstream(always(stream(chunk("a"), event))) as server:
        given = gateway.chat(gateway.add(server), stream=True)
    assert PROMPT.encode() in given.body
    (record,), text = journal_of(gateway)
    assert (record.error, record.outcome) == ("an error in its response (server_error)", "failed")
    assert (PROMPT in text) is (stores != "none")


def test_a_failed_attempt_before_a_success_is_stored_with_its_bodies(storing):
    stores, gateway = storing

    def succeeds(talk: Talk) -> None:
        while talk.request():
            talk.send(stream(chunk("a"), LAST, DONE))

    with upstream(always(http_response(ERROR, 500))) as bad, upstream(succeeds) as good:
        given = gateway.chat(gateway.add(bad, good), stream=True)
    assert given.status == 200
    (record,), text = journal_of(gateway)
    assert [attempt.error for attempt in record.attempts] == ["HTTP 500 (invalid_request_error)", None]
    assert (PROMPT in text) is (stores == "all")
