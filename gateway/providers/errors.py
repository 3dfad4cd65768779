"""What the error of an endpoint means: its cause decides about failover, and about what the client receives.

The status alone decides nothing: a wrong key is a 400 at two providers, and missing money has five statuses. What an
error calls itself (type, code) decides first. Its message decides only where the provider has no such word; it may
quote the request, so that a client must not be able to have an endpoint set aside by it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from gateway.base.types import Body
from gateway.dialects.endpoint_errors import TOO_LONG
from gateway.providers.quota import Headers, exhausted, retry_after
from gateway.providers.table import ANTHROPIC, AZURE, DEEPSEEK, GEMINI, MISTRAL, OPENROUTER, XAI, Provider


class ErrorCause(StrEnum):
    """Why an endpoint has refused a request, or failed."""

    KEY_REFUSED = "key_refused"  # RouterDash's key of the endpoint is wrong
    NOT_PERMITTED = "not_permitted"  # the key is right, but may not do this
    MONEY = "money"  # no credit is left, or a quota that somebody must raise
    LIMITED = "limited"  # too many requests or tokens for the moment
    OVERLOADED = "overloaded"
    TOO_LONG = "too_long"  # the prompt is longer than the context of the model
    FILTERED = "filtered"  # by a filter for content
    MODEL_UNKNOWN = "model_unknown"
    PATH_UNKNOWN = "path_unknown"  # the endpoint lacks the kind of request
    INPUT_UNKNOWN = "input_unknown"  # the endpoint's model takes no images, or no audio
    PARAMETER = "parameter"  # any other fault of the request
    SERVER = "server"


# The request itself is at fault, or its model's context is: another endpoint would refuse it, too.
OF_THE_REQUEST = frozenset((ErrorCause.TOO_LONG, ErrorCause.FILTERED, ErrorCause.PARAMETER))
# The endpoint works, and only lacks something.
LACKING = frozenset((ErrorCause.MODEL_UNKNOWN, ErrorCause.PATH_UNKNOWN, ErrorCause.INPUT_UNKNOWN))
# RouterDash's account with the provider needs somebody's attention.
OF_THE_ACCOUNT = frozenset((ErrorCause.KEY_REFUSED, ErrorCause.NOT_PERMITTED, ErrorCause.MONEY))

MAX_MESSAGE = 4096  # characters of an error's message that are searched; it may quote long texts
NOT_FOUND_STATUSES = frozenset((404, 405, 501))  # of a path, or an object, that an endpoint does not have


class Report(NamedTuple):
    """The body of an error, of any provider."""

    message: str = ""
    words: frozenset[str] = frozenset()  # type, code and the like, in lower case
    param: str | None = None
    delay: str | None = None  # until the next request, as Gemini names it
    headers: tuple[tuple[bytes, bytes], ...] = ()  # that the body quotes
    metadata: Mapping[str, Any] = {}  # of OpenRouter
    status: int | None = None  # that the body names
    types: tuple[str | None, str | None] = (None, None)  # type and code, as they are written


# By type, code and the like of an error; of several causes, the first one counts.
_BY_WORD: Mapping[ErrorCause, str] = {
    ErrorCause.MONEY: "insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded "
    "project_spend_limit_exceeded organization_usage_limit_exceeded billing_hard_limit_reached billing_not_active "
    "billing_error enforced_spend_limit_reached contract_spend_limit_reached payment_required blocked_api_access",
    ErrorCause.KEY_REFUSED: "invalid_api_key authentication_error api_key_invalid unauthenticated authentication",
    ErrorCause.TOO_LONG: "context_length_exceeded max_tokens_exceeded request_too_large payload_too_large",
    ErrorCause.FILTERED: "content_filter content_policy_violation invalid_prompt refusal responsibleaipolicyviolation",
    ErrorCause.MODEL_UNKNOWN: "model_not_found deploymentnotfound invalid_model unknown_model model_not_available "
    "model_decommissioned",
    ErrorCause.NOT_PERMITTED: "permission_error permission_denied failed_precondition ip_not_authorized "
    "unsupported_country_region_territory",
    ErrorCause.OVERLOADED: "overloaded_error service_unavailable_error server_is_overloaded unavailable "
    "provider_overloaded provider_unavailable insufficient_system_resource",
    ErrorCause.LIMITED: "rate_limit_exceeded rate_limit_error slow_down too_many_requests capacity_exceeded",
    ErrorCause.SERVER: "server_error api_error internal timeout_error",
}
_ORDER = tuple((cause, frozenset(words.split())) for cause, words in _BY_WORD.items())
_BY_STATUS = {
    401: ErrorCause.KEY_REFUSED,
    402: ErrorCause.MONEY,
    403: ErrorCause.NOT_PERMITTED,
    408: ErrorCause.SERVER,
    413: ErrorCause.TOO_LONG,
    429: ErrorCause.LIMITED,
    498: ErrorCause.LIMITED,  # Groq's flex tier
    503: ErrorCause.OVERLOADED,
    529: ErrorCause.OVERLOADED,
}

# Beginnings of messages whose type and code are no help, by provider. A message that quotes the request comes later in
# its sentence.
_MESSAGES: Mapping[str, tuple[tuple[ErrorCause, re.Pattern[str]], ...]] = {
    ANTHROPIC: (
        (
            ErrorCause.MONEY,
            re.compile(r"You have reached your specified API usage limits|Your credit balance is too low"),
        ),
    ),
    GEMINI: ((ErrorCause.KEY_REFUSED, re.compile(r"API key not valid|API key expired")),),
    DEEPSEEK: (
        (ErrorCause.MODEL_UNKNOWN, re.compile(r"Model Not Exist")),
        (ErrorCause.FILTERED, re.compile(r"Content Exists Risk")),
    ),
    XAI: (
        (
            ErrorCause.MONEY,
            re.compile(
                r"Your (?:newly created )?team\b[^.]{0,80}(?:used all available credits|doesn't have any credits"
                r"|reached its monthly spending limit)"
            ),
        ),
        (ErrorCause.KEY_REFUSED, re.compile(r"Incorrect API key provided")),
        (ErrorCause.FILTERED, re.compile(r"Content violates usage guidelines")),
    ),
    OPENROUTER: ((ErrorCause.MODEL_UNKNOWN, re.compile(r"\S+ is not a valid model ID")),),
}
# llama.cpp without a projector for them calls it an error of its own, with status 500.
_INPUT_UNKNOWN = re.compile(r"(?:image|audio|video) input is not supported")
_GENERIC = frozenset(("not_found", "not_found_error", "notfounderror", "resource_not_found"))
_OBJECT = re.compile(r"\b(?:resp|msg|file|conv|vs|pmpt|asst|item|thread|rs|fc)_[A-Za-z0-9]|\bwith id\b", re.IGNORECASE)
_NAMES_MODEL = re.compile(
    r"\bmodels?\b.{0,300}\b(?:not found|not exist|not available|unknown|not loaded)|unknown model", re.I
)


def read(body: Body) -> Report:
    """Read the body of an error of any provider. What cannot be read has neither words nor a message."""
    data = bytes(body[:256_000])
    try:
        decoded = msgspec.json.decode(data.removeprefix(b"data:"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Report(data[:500].decode("utf-8", "replace"))
    return report_of(decoded)


def report_of(decoded: object) -> Report:
    """Read the decoded body of an error: an object, a list with one (Gemini), or a sentence."""
    if isinstance(decoded, list) and decoded:
        decoded = decoded[0]
    if not isinstance(decoded, dict):
        return Report(decoded[:MAX_MESSAGE]) if isinstance(decoded, str) else Report()
    error = decoded.get("error")
    if isinstance(error, str):  # xAI has its code beside the sentence
        code, kind = decoded.get("code"), decoded.get("type")
        return Report(error[:MAX_MESSAGE], _words(code, kind), types=(_word(kind), _word(code)))
    if not isinstance(error, dict):
        error = decoded
    inner = error.get("innererror")
    details = error.get("details")
    metadata = error.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    words = [error.get("type"), error.get("code"), error.get("status"), metadata.get("error_type")]
    if isinstance(inner, dict):
        words.append(inner.get("code"))
    delay = None
    if isinstance(details, dict):
        words.append(details.get("error_code"))
    elif isinstance(details, list):
        reasons, delay = _google_details(details)
        words += reasons
    param, code = error.get("param"), error.get("code")
    return Report(
        _message(error),
        _words(*words),
        param if isinstance(param, str) and param else None,
        delay,
        _quoted_headers(metadata),
        metadata,
        code if type(code) is int and 400 <= code < 600 else None,
        (_word(error.get("type")), _word(code) or _word(error.get("status"))),
    )


def _message(error: Mapping[str, Any]) -> str:
    message = error.get("message", error.get("detail"))
    return message[:MAX_MESSAGE] if isinstance(message, str) else ""


def _google_details(details: Sequence[object]) -> tuple[list[object], str | None]:
    """Return the reasons and the delay that Google's list of details has."""
    reasons: list[object] = []
    delay: str | None = None
    for detail in details:
        if not isinstance(detail, dict):
            continue
        reasons.append(detail.get("reason"))
        if isinstance(value := detail.get("retryDelay"), str):
            delay = value
        violations = detail.get("violations")
        if isinstance(violations, list) and any(_is_of_a_day(violation) for violation in violations):
            reasons.append("insufficient_quota")
    return reasons, delay


def _is_of_a_day(violation: object) -> bool:
    return isinstance(violation, dict) and "PerDay" in str(violation.get("quotaId"))


def _quoted_headers(metadata: Mapping[str, Any]) -> tuple[tuple[bytes, bytes], ...]:
    headers = metadata.get("headers")
    if not isinstance(headers, dict):
        return ()
    return tuple((str(name).lower().encode(), str(value).encode()) for name, value in headers.items())


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", value) else None


def _words(*values: object) -> frozenset[str]:
    return frozenset(value.lower() for value in values if isinstance(value, str))


def classify(
    provider: Provider | None,
    status: int,
    report: Report,
    *,
    headers: Headers = (),
    models: Iterable[str] = (),
    now: float = 0.0,
) -> ErrorCause:
    """Return the cause of an error.

    `provider`: of the endpoint; None: it is self-hosted. `status`: of the response, or of the error in a 200 response.
    `models`: names of the requested model. `now`: in seconds since 1970, for the headers.
    """
    if provider is None:
        return _of_self_hosted(status, report, models)
    cause = _by_custom(provider.kind, status, report) or _by_words(report)
    if cause is ErrorCause.LIMITED and provider.kind == ANTHROPIC and _has_no_end(status, headers, now):
        return ErrorCause.MONEY
    if cause is not None and not (cause is ErrorCause.SERVER and status < 500):
        return cause
    if status < 500 and TOO_LONG.search(report.message):
        return ErrorCause.TOO_LONG
    return _by_status(status, report, models)


def _by_custom(kind: str, status: int, report: Report) -> ErrorCause | None:
    """Return the cause by what is particular to a provider; None if there is nothing."""
    if status == 402:
        return (
            ErrorCause.LIMITED
            if report.metadata.get("limit_source") == "openrouter_in_flight_budget"
            else ErrorCause.MONEY
        )
    if status == 413:
        return ErrorCause.TOO_LONG
    if kind == AZURE and status == 429 and "high demand" in report.message:
        return ErrorCause.OVERLOADED
    if kind in (OPENROUTER, MISTRAL) and status == 403 and _is_moderated(report):
        return ErrorCause.FILTERED
    matches = (cause for cause, pattern in _MESSAGES.get(kind, ()) if pattern.match(report.message))
    return next(matches, None) if status < 500 else None


def _of_self_hosted(status: int, report: Report, models: Iterable[str]) -> ErrorCause:
    """Return the cause of an error of a self-hosted server, whose words may mean anything."""
    if _INPUT_UNKNOWN.match(report.message):
        return ErrorCause.INPUT_UNKNOWN
    if status in (401, 408, 429) or (status >= 500 and status != 501):
        return _by_status(status, report, models)
    if status in NOT_FOUND_STATUSES:
        return _not_found(status, report, models)
    if "context_length_exceeded" in report.words or TOO_LONG.search(report.message):
        return ErrorCause.TOO_LONG
    return ErrorCause.FILTERED if "content_filter" in report.words else ErrorCause.PARAMETER


def _by_words(report: Report) -> ErrorCause | None:
    for cause, words in _ORDER:
        if not words.isdisjoint(report.words):
            return cause
    return None


def _by_status(status: int, report: Report, models: Iterable[str]) -> ErrorCause:
    if status in NOT_FOUND_STATUSES:
        return _not_found(status, report, models)
    return _BY_STATUS.get(status, ErrorCause.SERVER if status >= 500 else ErrorCause.PARAMETER)


def _not_found(status: int, report: Report, models: Iterable[str]) -> ErrorCause:
    """Return the cause of a 404, 405 or 501: it names the model, or another object, or else it is about the path."""
    if status == 404:
        message = report.message
        if (
            any(_names(message, name) for name in models if name)
            or report.param == "model"
            or _by_words(report) is ErrorCause.MODEL_UNKNOWN
            or _NAMES_MODEL.search(message)
        ):
            return ErrorCause.MODEL_UNKNOWN
        names_object = any(word.endswith("not_found") and word not in _GENERIC for word in report.words)
        if names_object or report.param is not None or _OBJECT.search(message):
            return ErrorCause.PARAMETER
    return ErrorCause.PATH_UNKNOWN


def _names(message: str, name: str) -> bool:
    """Return True if a message contains a name that is no part of a longer word."""
    position = message.find(name)
    while position >= 0:
        end = position + len(name)
        if not (_is_in_word(message[position - 1 : position]) or _is_in_word(message[end : end + 1])):
            return True
        position = message.find(name, position + 1)
    return False


def _is_in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _is_moderated(report: Report) -> bool:
    return (
        "reasons" in report.metadata
        or "flagged_input" in report.metadata
        or any("guardrail" in word or "moderation" in word for word in report.words)
    )


def _has_no_end(status: int, headers: Headers, now: float) -> bool:
    """Return True for a 429 of Anthropic without any time: the month's limit of the account is used up."""
    headers = list(headers)
    return status == 429 and retry_after(headers, now) is None and exhausted(headers, now) is None
