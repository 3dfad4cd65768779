import pytest

from gateway.base.causes import HIDDEN_ERROR
from gateway.base.destinations import LINK_LOCAL, OUTSIDE
from gateway.ipc import error_texts, record


@pytest.mark.parametrize(
    "text",
    [
        "HTTP 400",
        "HTTP 400 (invalid_request_error, context_length_exceeded)",
        "HTTP 400 ([redacted])",
        "an error in its response (server_error)",
        "The endpoint failed: HTTP 503 (overloaded_error).",
        "The endpoint did not respond in time.",
        "The endpoint did not load the model within 600 s.",
        "The endpoint failed: connection refused.",
        "no connection within 2.5 s",
        "TLS failed: CERTIFICATE_VERIFY_FAILED",
        "its name leads nowhere",
        LINK_LOCAL,
        f"The endpoint failed: {OUTSIDE}.",
        "its head has more than 256 lines",
        "its response has more than 64 MiB to be translated",
        "not a proper HTTP answer: Expected HTTP/, RTSP/ or ICE/",  # recorded by earlier versions
        "not a proper HTTP response: Expected HTTP/, RTSP/ or ICE/",
        "a header block or trailer without end",
        "its header block has more than 1000 lines",
        "the response has more than 64 MiB",
        "the endpoint's response is not a chat completion: Expected `object`, got `array`",
        "the endpoint's response is not a message: Expected `object`, got `array`",
        "the endpoint's response is not a message: it has no content",
        "the endpoint's response has more than 1,000 blocks",
        "the endpoint's response has more than 200,000 values",
        "an internal error of RouterDash; see its log",
        # Recorded by earlier versions
        "an error in its answer (server_error)",
        "The endpoint did not answer in time.",
        "its answer has more than 64 MiB to be translated",
        "The endpoint failed: the stream ended before its answer did.",
        "an empty answer",
        "a web page instead of an answer",
        "it tells no tokens",
        "the endpoint's answer is no chat completion: it has no message",
        "it refuses the key that RouterDash has for it",
        "RouterDash failed; its log says why",
    ],
)
def test_a_text_of_routerdash_is_shown_to_all_users(text):
    assert error_texts.shown(record.FAILED, text, 502) == text


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
def test_other_failure_texts_are_shown_as_their_status(text, outcome):
    assert error_texts.shown(outcome, text, 400) == "HTTP 400"
    assert error_texts.shown(outcome, text, None) == error_texts.shown(outcome, text, 0) == HIDDEN_ERROR


@pytest.mark.parametrize("outcome", [record.CANCELLED, record.NO_ENDPOINT, record.QUEUE, record.TRUNCATED, record.OK])
def test_requests_not_ended_by_an_endpoint_have_a_text_of_routerdash(outcome):
    assert error_texts.shown(outcome, "its API key was revoked", 401) == "its API key was revoked"


def test_no_text_stays_none():
    assert error_texts.shown(record.FAILED, None, 400) is None
