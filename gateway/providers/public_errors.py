"""Errors of providers as clients receive them: in OpenAI's format, without ids of RouterDash's account."""

import re

import msgspec

from gateway.providers.errors import ErrorCause, Report

# Codes that clients of OpenAI know, for providers whose errors have none. That of a rate limit replaces the provider's
# own: it is documented, and RouterDash's own refusal has it while the provider is set aside.
_CODES = {
    ErrorCause.TOO_LONG: "context_length_exceeded",
    ErrorCause.MODEL_UNKNOWN: "model_not_found",
    ErrorCause.FILTERED: "content_filter",
    ErrorCause.LIMITED: "rate_limit_exceeded",
    ErrorCause.MONEY: "insufficient_quota",
    ErrorCause.OVERLOADED: "overloaded",
}

_IDS = re.compile(
    r"\b(?:org|organization|proj|acct|user|team|wrkspc)[-_][A-Za-z0-9]{6,}|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)


def without_ids(text: str) -> str:
    """Remove the ids of organisations, projects and teams, which providers write into their messages."""
    return _IDS.sub("[redacted]", text)


def openai_body(report: Report, sentence: str, status: int, cause: ErrorCause) -> bytes:
    """Return an error of a provider in OpenAI's format, with nothing of the provider's own beside it.

    `sentence`: the message, without secrets and ids.
    """
    words = [word for word in report.types if word is not None]
    kind = words[0] if words else ("server_error" if status >= 500 else "invalid_request_error")
    own = None if cause is ErrorCause.LIMITED else report.types[1]
    code = own or _CODES.get(cause) or (words[-1] if words else None)
    error = {"message": sentence, "type": kind, "param": report.param, "code": code}
    return msgspec.json.encode({"error": error})
