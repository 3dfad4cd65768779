"""Errors of every provider, with the bodies that they document, and their causes."""

import json

import pytest

from gateway.providers.errors import ErrorCause, classify, read
from gateway.providers.table import PROVIDERS

K, N, M, L, O, T, F, U, P, I, A, S = (  # noqa: E741
    ErrorCause.KEY_REFUSED,
    ErrorCause.NOT_PERMITTED,
    ErrorCause.MONEY,
    ErrorCause.LIMITED,
    ErrorCause.OVERLOADED,
    ErrorCause.TOO_LONG,
    ErrorCause.FILTERED,
    ErrorCause.MODEL_UNKNOWN,
    ErrorCause.PATH_UNKNOWN,
    ErrorCause.INPUT_UNKNOWN,
    ErrorCause.PARAMETER,
    ErrorCause.SERVER,
)


def openai(code=None, kind="invalid_request_error", message="…", param=None):
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def anthropic(kind, message="…", error_code=None):
    error = {"type": kind, "message": message} | ({"details": {"error_code": error_code}} if error_code else {})
    return {"type": "error", "error": error, "request_id": "req_1"}


def gemini(code, status, message="…", *details):
    return [{"error": {"code": code, "message": message, "status": status, "details": list(details)}}]


def google(kind, **fields):
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **fields}


def openrouter(code, message="…", **metadata):
    return {"error": {"code": code, "message": message, "metadata": metadata}, "user_id": "user_1"}


def xai(code, error):
    return {"code": code, "error": error}


TOO_LONG = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."
MISTRAL_TOO_LONG = "Prompt contains 65673 tokens, too large for model with 32768 maximum context length"
XAI_TOO_LONG = "This model's maximum prompt length is 131072 but the request contains 537812 tokens."
SPENT = "Your team 7a has either used all available credits or reached its monthly spending limit."

TABLE = [
    ("openai", 401, openai("invalid_api_key", message="Incorrect API key provided: sk-a***b."), K),
    ("openai", 401, openai("ip_not_authorized"), N),
    ("openai", 403, openai("unsupported_country_region_territory", "request_forbidden"), N),
    ("openai", 429, openai("insufficient_quota", "insufficient_quota"), M),
    ("openai", 429, openai("credit_balance_exhausted", "insufficient_quota"), M),
    ("openai", 429, openai("project_spend_limit_exceeded", "insufficient_quota"), M),
    ("openai", 429, openai("rate_limit_exceeded", "tokens"), L),
    ("openai", 429, openai("slow_down", "rate_limit_error"), L),
    ("openai", 503, openai("server_is_overloaded", "service_unavailable_error"), O),
    ("openai", 400, openai("context_length_exceeded", message=TOO_LONG, param="messages"), T),
    ("openai", 400, openai("content_policy_violation"), F),
    ("openai", 400, openai("invalid_prompt"), F),
    ("openai", 404, openai("model_not_found", message="The model `gpt-x` does not exist", param="model"), U),
    ("openai", 404, openai(message="Invalid URL (POST /v1/rerank)"), P),
    ("openai", 404, openai("previous_response_not_found", param="previous_response_id"), A),
    ("openai", 400, openai("unsupported_parameter", param="max_tokens"), A),
    ("openai", 500, openai(None, "server_error"), S),
    ("anthropic", 401, anthropic("authentication_error", "invalid x-api-key"), K),
    ("anthropic", 403, anthropic("permission_error"), N),
    ("anthropic", 402, anthropic("billing_error", error_code="linked_organization_inactive"), M),
    ("anthropic", 400, anthropic("invalid_request_error", "You have reached your specified API usage limits."), M),
    ("anthropic", 400, anthropic("invalid_request_error", "Your credit balance is too low to access the API."), M),
    ("anthropic", 429, anthropic("rate_limit_error", error_code="enforced_spend_limit_reached"), M),
    ("anthropic", 529, anthropic("overloaded_error"), O),
    ("anthropic", 400, anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), T),
    ("anthropic", 413, anthropic("request_too_large"), T),
    ("anthropic", 404, anthropic("not_found_error", "model: claude-x"), U),
    ("anthropic", 404, anthropic("not_found_error", "Not found"), P),
    ("anthropic", 409, anthropic("conflict_error"), A),
    ("anthropic", 500, anthropic("api_error"), S),
    ("anthropic", 504, anthropic("timeout_error"), S),
    ("gemini", 400, gemini(400, "INVALID_ARGUMENT", "…", google("ErrorInfo", reason="API_KEY_INVALID")), K),
    ("gemini", 400, gemini(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."), K),
    ("gemini", 403, gemini(403, "PERMISSION_DENIED"), N),
    ("gemini", 400, gemini(400, "FAILED_PRECONDITION", "User location is not supported"), N),
    ("gemini", 402, gemini(402, "RESOURCE_EXHAUSTED"), M),
    ("gemini", 429, gemini(429, "RESOURCE_EXHAUSTED", "…", google("RetryInfo", retryDelay="36s")), L),
    (
        "gemini",
        429,
        gemini(429, "RESOURCE_EXHAUSTED", "…", google("QuotaFailure", violations=[{"quotaId": "RequestsPerDay"}])),
        M,
    ),
    ("gemini", 503, gemini(503, "UNAVAILABLE", "The model is overloaded."), O),
    (
        "gemini",
        400,
        gemini(
            400,
            "INVALID_ARGUMENT",
            "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576).",
        ),
        T,
    ),
    ("gemini", 404, gemini(404, "NOT_FOUND", "models/gemini-x is not found for API version v1main"), U),
    ("gemini", 400, gemini(400, "INVALID_ARGUMENT", "Unknown name"), A),
    ("gemini", 500, gemini(500, "INTERNAL"), S),
    ("gemini", 504, gemini(504, "DEADLINE_EXCEEDED"), S),
    ("azure", 401, openai("401", message="Access denied due to invalid subscription key"), K),
    ("azure", 403, openai("403"), N),
    ("azure", 429, openai("429", message="Requests have exceeded call rate limit"), L),
    ("azure", 429, openai("too_many_requests"), L),
    ("azure", 429, openai("429", message="The service is experiencing high demand."), O),
    ("azure", 400, openai("context_length_exceeded"), T),
    (
        "azure",
        400,
        {
            "error": {
                "message": "The response was filtered",
                "type": None,
                "param": "prompt",
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
            }
        },
        F,
    ),
    ("azure", 404, openai("DeploymentNotFound"), U),
    ("azure", 404, openai("404", message="Resource not found"), P),
    ("azure", 500, openai("InternalServerError"), S),
    ("openrouter", 401, openrouter(401, "No auth credentials found"), K),
    ("openrouter", 402, openrouter(402, "Insufficient credits", error_type="payment_required"), M),
    ("openrouter", 402, openrouter(402, "…", limit_source="openrouter_in_flight_budget"), L),
    ("openrouter", 403, openrouter(403, "…", reasons=["violence"], flagged_input="…"), F),
    ("openrouter", 403, openrouter(403, "…", error_type="permission_denied"), N),
    ("openrouter", 429, openrouter(429, "Rate limit exceeded", error_type="rate_limit_exceeded"), L),
    ("openrouter", 503, openrouter(503, "…", error_type="provider_unavailable"), O),
    ("openrouter", 529, openrouter(529, "…", error_type="provider_overloaded"), O),
    ("openrouter", 502, openrouter(502, "bad upstream"), S),
    ("openrouter", 524, openrouter(524), S),
    ("openrouter", 400, openrouter(400, "…", error_type="context_length_exceeded"), T),
    ("openrouter", 400, openrouter(400, "nobody/none is not a valid model ID"), U),
    ("openrouter", 400, openrouter(400, "…", error_type="invalid_request"), A),
    ("groq", 401, openai("invalid_api_key"), K),
    ("groq", 403, openai(), N),
    ("groq", 400, openai("blocked_api_access"), M),
    ("groq", 429, openai("rate_limit_exceeded", "tokens"), L),
    ("groq", 498, openai("capacity_exceeded"), L),
    ("groq", 503, openai(), O),
    ("groq", 413, openai("rate_limit_exceeded", "tokens", "Request too large for model"), T),
    ("groq", 400, openai("context_length_exceeded"), T),
    ("groq", 404, openai("model_not_found"), U),
    ("groq", 400, openai("tool_use_failed"), A),
    ("groq", 400, openai("json_validate_failed"), A),
    ("mistral", 401, {"detail": "Unauthorized"}, K),
    ("mistral", 402, {"object": "error", "message": "…"}, M),
    ("mistral", 403, {"object": "error", "message": "…", "type": "guardrail_violation"}, F),
    ("mistral", 403, {"object": "error", "message": "…", "type": "forbidden"}, N),
    ("mistral", 429, {"object": "error", "message": "Service tier capacity exceeded", "type": "x", "code": "3505"}, L),
    ("mistral", 400, {"object": "error", "message": "…", "param": "model", "code": "unknown_model"}, U),
    ("mistral", 404, {"object": "error", "message": {"a": 1}, "type": "invalid_model"}, U),
    ("mistral", 422, {"detail": [{"loc": ["body", "messages", 0], "msg": "…", "type": "missing"}]}, A),
    ("deepseek", 401, openai("invalid_request_error", "authentication_error"), K),
    ("deepseek", 402, openai(None, "unknown_error", "Insufficient Balance"), M),
    ("deepseek", 429, openai(), L),
    ("deepseek", 503, openai(), O),
    (
        "mistral",
        400,
        {"object": "error", "message": MISTRAL_TOO_LONG, "type": "invalid_request_prompt", "code": "3051"},
        T,
    ),
    ("deepseek", 400, openai(message=TOO_LONG), T),
    ("xai", 400, xai("Client specified an invalid argument", XAI_TOO_LONG), T),
    ("deepseek", 400, openai(message="Content Exists Risk"), F),
    ("deepseek", 400, openai(message="Model Not Exist"), U),
    ("deepseek", 422, openai(), A),
    ("xai", 400, xai("Client specified an invalid argument", "Incorrect API key provided: xa***7."), K),
    ("xai", 401, xai("…", "no or malformed token"), K),
    ("xai", 403, xai("…", "Your newly created team doesn't have any credits or licenses yet."), M),
    ("xai", 429, xai("Some resource has been exhausted", SPENT), M),
    ("xai", 403, xai("The caller does not have permission", "…"), N),
    ("xai", 429, xai("Some resource has been exhausted", "Too many requests for team"), L),
    ("xai", 404, xai("Some requested entity was not found", "The model grok-x does not exist or your team 7a …"), U),
    ("xai", 415, xai("…", "content type"), A),
    ("together", 401, openai("invalid_api_key"), K),
    ("together", 402, openai(), M),
    ("together", 429, openai("dynamic_request_limited"), L),
    ("together", 503, openai("dynamic_request_limited"), O),
    ("together", 529, openai(), O),
    ("together", 422, openai(message="`inputs` tokens + `max_new_tokens` must be <= 8193"), T),
    ("together", 404, openai("model_not_available"), U),
    ("together", 520, openai(), S),
]


@pytest.mark.parametrize(("kind", "status", "body", "cause"), TABLE)
def test_documented_errors(kind, status, body, cause):
    headers = [(b"retry-after", b"1")] if status == 429 else []
    report = read(json.dumps(body).encode())
    assert classify(PROVIDERS[kind], status, report, headers=headers, models=("gpt-x", "claude-x")) is cause


def test_a_limit_of_anthropic_without_any_time_is_that_of_the_month():
    report = read(json.dumps(anthropic("rate_limit_error")).encode())
    provider = PROVIDERS["anthropic"]
    assert classify(provider, 429, report) is ErrorCause.MONEY
    assert classify(provider, 429, report, headers=[(b"retry-after", b"9")]) is ErrorCause.LIMITED


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (401, b"", K),
        (403, b"", A),
        (402, b"", A),
        (408, b"", S),
        (429, b"", L),
        (500, b"", S),
        (
            500,
            b'{"error":{"code":500,"message":"image input is not supported - hint: mmproj","type":"server_error"}}',
            I,
        ),
        (500, b'{"error":{"code":500,"message":"no image input is not supported","type":"server_error"}}', S),
        (502, b"<html>", S),
        (503, b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}', O),
        (400, b'{"error":{"message":"the request exceeds the available context size, try increasing it"}}', T),
        (400, b'{"error":{"message":"This model\'s maximum context length is 4096 tokens."}}', T),
        (400, b'{"error":{"code":"insufficient_quota"}}', A),
        (400, b"\xff", A),
        (404, b'{"error":"model \'tiny\' not found"}', U),
        (404, b'{"object":"error","message":"The model `tiny` does not exist.","code":404}', U),
        (404, b'{"error":{"message":"The model `other` does not exist.","param":"model"}}', U),
        (404, b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}', P),
        (404, b'{"detail":"Not Found"}', P),
        (404, b"404 page not found", P),
        (404, b"", P),
        (405, b'{"detail":"Method Not Allowed"}', P),
        (501, b'{"error":{"message":"This server does not support embeddings."}}', P),
        (404, b'{"error":{"message":"Response with id \'resp_1\' not found.","type":"invalid_request_error"}}', A),
        (404, b'{"error":{"message":"No file","param":"file_id"}}', A),
    ],
)
def test_self_hosted_servers(status, body, cause):
    assert classify(None, status, read(body), models=("tiny",)) is cause


def test_no_client_can_have_an_endpoint_set_aside_by_a_quotation():
    quoted = "Invalid value: 'Your credit balance is too low'. API key not valid. Incorrect API key provided"
    for kind in PROVIDERS:
        for body in (
            openai("invalid_value", message=quoted),
            xai("x", quoted),
            anthropic("invalid_request_error", quoted),
        ):
            assert classify(PROVIDERS[kind], 400, read(json.dumps(body).encode())) is ErrorCause.PARAMETER


def test_a_delay_and_headers_in_the_body_are_read():
    body = gemini(429, "RESOURCE_EXHAUSTED", "…", google("RetryInfo", retryDelay="36s"))
    assert read(json.dumps(body).encode()).delay == "36s"
    body = openrouter(429, "…", headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1755780042000"})
    report = read(json.dumps(body).encode())
    assert report.headers == ((b"x-ratelimit-remaining", b"0"), (b"x-ratelimit-reset", b"1755780042000"))
    assert report.status == 429


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"1", b"null", b"[1]", b'{"error":null}', b'{"error":[]}', b'{"error":{"details":[1],"code":[]}}'],
)
def test_odd_bodies_are_read(body):
    assert classify(PROVIDERS["gemini"], 400, read(body)) is ErrorCause.PARAMETER
