import pytest

from gateway import reasons, record


@pytest.mark.parametrize(
    "text",
    [
        "HTTP 400",
        "HTTP 400 (invalid_request_error, context_length_exceeded)",
        "HTTP 400 ([redacted])",
        "an error in its answer (server_error)",
        "The endpoint failed: HTTP 503 (overloaded_error).",
        "The endpoint did not answer in time.",
        "The endpoint failed: connection refused.",
        "no connection within 2.5 s",
        "TLS failed: CERTIFICATE_VERIFY_FAILED",
        "not a proper HTTP answer: Expected HTTP/, RTSP/ or ICE/",
        "the endpoint's answer is no chat completion: Expected `object`, got `array`",
    ],
)
def test_a_text_of_our_own_is_for_everybody(text):
    assert reasons.shown(record.FAILED, text, 502) == text


@pytest.mark.parametrize(
    "text",
    [
        "1 validation error: {'input': {'content': 'ALICE SECRET PROMPT'}}",
        "The endpoint failed: ALICE SECRET PROMPT.",
        "HTTP 400 (alice secret prompt)",
        "HTTP 400 (a, b, c)",
        "HTTP 400\nALICE",
        "connection refused by ALICE",
        "",
    ],
)
@pytest.mark.parametrize("outcome", [record.FAILED, record.REFUSED, None])
def test_any_other_text_of_a_failure_is_shown_as_its_status(text, outcome):
    assert reasons.shown(outcome, text, 400) == "HTTP 400"
    assert reasons.shown(outcome, text, None) == reasons.shown(outcome, text, 0) == reasons.UNTOLD


@pytest.mark.parametrize("outcome", [record.CANCELLED, record.NO_ENDPOINT, record.QUEUE, record.TRUNCATED, record.OK])
def test_what_no_endpoint_ended_has_a_text_of_our_own(outcome):
    assert reasons.shown(outcome, "its API key was revoked", 401) == "its API key was revoked"


def test_no_text_stays_none():
    assert reasons.shown(record.FAILED, None, 400) is None
