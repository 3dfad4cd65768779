import json

import pytest

from gateway.base.errors import MODEL_NOT_FOUND, Refusal, error_body


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "invalid_request_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_an_error_has_the_shape_that_clients_of_openai_know(status, kind):
    error = {"message": "No.", "type": kind, "param": "model", "code": "a_code"}
    assert json.loads(error_body(status, "a_code", "No.", "model")) == {"error": error}


def test_a_refusal_prints_its_message():
    refusal = Refusal(404, MODEL_NOT_FOUND, "Not “here”.", headers=((b"retry-after", b"2"),))
    assert json.loads(refusal.body())["error"]["message"] == str(refusal) == "Not “here”."
    assert refusal.headers == ((b"retry-after", b"2"),)
