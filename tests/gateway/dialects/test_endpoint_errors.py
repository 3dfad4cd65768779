import pytest

from gateway.dialects.endpoint_errors import EndpointError, described, read
from tests.gateway import captures

DEEP = b"[" * 200_000


@pytest.mark.parametrize("capture", captures.ERRORS, ids=str)
def test_the_sentence_of_a_captured_error(capture):
    message = read(capture.body)
    assert message.sentence
    assert not message.sentence.startswith("{") or capture.server == "transformers"  # its `detail` is a list


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"one"}}', "one"),
        (b'{"error":"two"}', "two"),
        (b'{"message":"three"}', "three"),
        (b'{"detail":"four"}', "four"),
        (b'{"error":null,"detail":"five"}', "five"),
        (b'{"error":{}}', '{"error":{}}'),
        (b"Internal Server Error\n", "Internal Server Error"),
        (b"\xff\xfe", "��"),
        (b"", ""),
        (b"[]", "[]"),
        ('{"error":{"message":"ü"}}'.encode(), "ü"),
    ],
)
def test_the_sentence_of_an_error_in_all_forms(body, message):
    assert read(body).sentence == message


@pytest.mark.parametrize("body", [b'{"error":"%b"}' % (b"x" * 900), b"x" * 900, DEEP])
def test_a_sentence_has_at_most_500_characters(body):
    assert len(read(body).sentence) == 500


@pytest.mark.parametrize(
    ("body", "summary"),
    [
        (b'{"error":{"type":"invalid_request_error","code":"context_length_exceeded","message":"the prompt"}}',
         "HTTP 400 (invalid_request_error, context_length_exceeded)"),
        (b'{"object":"error","message":"prompt","type":"BadRequestError","code":400}', "HTTP 400 (BadRequestError)"),
        (b'{"type":"error","error":{"type":"overloaded_error","message":"the prompt"}}', "HTTP 400 (overloaded_error)"),
        (b'{"error":{"type":"a","code":"a"}}', "HTTP 400 (a)"),
        (b'{"error":{"type":"the prompt","code":"x\\ny"}}', "HTTP 400"),
        (b'{"error":{"type":{"the":"prompt"},"code":["the prompt"]}}', "HTTP 400"),
        (b'{"error":{"type":"%b"}}' % (b"x" * 65), "HTTP 400"),
        (b'{"error":{"type":""}}', "HTTP 400"),
        (b'{"error":"the prompt"}', "HTTP 400"),
        (b"the prompt", "HTTP 400"),
        (b"", "HTTP 400"),
    ],
)  # fmt: skip
def test_a_summary_contains_only_the_status_and_single_words(body, summary):
    assert read(body).summary(400) == summary


def test_an_error_within_a_response_has_no_status():
    assert (
        described({"message": "the prompt", "type": "server_error"}).summary(200)
        == "an error in its response (server_error)"
    )
    assert described(None) == EndpointError("the upstream reported an error")
    assert described("the prompt").summary(0) == "an error in its response"
