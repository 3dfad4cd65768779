"""Events of Responses that RouterDash itself writes."""

import json

from gateway.dialects.responses.objects import failure_events, is_unstored


def read(events: bytes):
    written = [event.split(b"\n", 1) for event in events.split(b"\n\n") if event]
    return [(name.decode(), json.loads(data.removeprefix(b"data: "))) for name, data in written]


def test_a_stream_that_has_begun_ends_with_response_failed():
    ((name, event),) = read(failure_events("upstream_error", "Broken.", "m", "resp_1", 7))
    assert (name, event["type"], event["sequence_number"]) == ("event: response.failed", "response.failed", 7)
    response = event["response"]
    assert (response["id"], response["status"], response["model"]) == ("resp_1", "failed", "m")
    assert response["error"] == {"code": "upstream_error", "message": "Broken."}


def test_a_stream_without_events_begins_before_it_fails():
    created, failed = [event for _, event in read(failure_events("queue_full", "Busy.", "m", None, 0))]
    assert [created["type"], failed["type"]] == ["response.created", "response.failed"]
    assert [created["sequence_number"], failed["sequence_number"]] == [0, 1]
    assert created["response"]["id"] == failed["response"]["id"]
    assert is_unstored(created["response"]["id"])
    assert created["response"]["status"] == "in_progress"
