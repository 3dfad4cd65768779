"""Responses of endpoints that are no success: their causes, and what they mean for the endpoint.

A redirect is never followed: it would send the endpoint's key, and the prompt, to an address that nobody entered.
"""

import logging
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gateway.base import causes
from gateway.base.request_kinds import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    MESSAGES,
    OLLAMA_CHAT,
    OLLAMA_EMBED,
    OLLAMA_GENERATE,
)
from gateway.dialects.endpoint_errors import EndpointError, described, ended_by_error
from gateway.inference.attempt import Attempt, Failure
from gateway.inference.error_responses import REASONS, error_headers, read_error
from gateway.inference.failures.error_bodies import MAX_ERROR_BYTES, read_error_body
from gateway.inference.request import InferenceRequest
from gateway.providers import errors
from gateway.providers.errors import ErrorCause, Report
from gateway.providers.public_errors import openai_body
from gateway.providers.quota import capped, exhausted, retry_after, wait_seconds
from gateway.routing.set_aside import translated_kind
from gateway.upstream.connection import Connection
from gateway.upstream.response_head import ResponseHead

log = logging.getLogger(__name__)

# Kinds whose successes have no `error`
_WHOLE = frozenset((CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, OLLAMA_CHAT, OLLAMA_GENERATE, OLLAMA_EMBED))


class _Response(msgspec.Struct):
    """A response with status 200 that may be an error."""

    error: msgspec.Raw = msgspec.Raw(b"null")
    choices: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(_Response).decode

MAX_SPACE_BYTES = 1 << 20  # at the beginning of a response; one that begins with more has nothing else
_ENDED_BYTES = 256 << 10  # a larger response has output, and is not decoded


class _EndedMessage(msgspec.Struct):
    content: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    refusal: Any = None
    tool_calls: Any = None

    @property
    def has_output(self) -> bool:
        return bool(self.content or self.reasoning or self.reasoning_content or self.refusal or self.tool_calls)


class _EndedChoice(msgspec.Struct):
    message: _EndedMessage | None = None
    text: Any = None
    finish_reason: Any = None


class _Ended(msgspec.Struct):
    """A whole response whose finish reason is an error."""

    error: Any = None
    choices: list[_EndedChoice] | None = None


_decode_ended = msgspec.json.Decoder(_Ended).decode


def cause_of(request: InferenceRequest, attempt: Attempt, connection: Connection, body: bytes) -> ErrorCause:
    """Return the cause of an error of the endpoint."""
    report, now = errors.read(body), time.time()
    return errors.classify(
        attempt.endpoint.provider,
        connection.status,
        report,
        headers=[*connection.headers, *report.headers],
        models=(attempt.route.model.id, request.parsed.model),
        now=now,
    )


async def failure_of(request: InferenceRequest, attempt: Attempt, connection: Connection) -> Failure:
    """Return the failure that a response with a status from 300 on is. Raises UpstreamError."""
    body = await read_error_body(request, attempt, connection)
    status, now, provider = connection.status, time.time(), attempt.endpoint.provider
    if status < 400:
        return _redirect(attempt, connection)
    body, details = read_error(request, attempt, connection, body)
    report = errors.read(body)
    headers = [*connection.headers, *report.headers]
    models = (attempt.route.model.id, request.parsed.model)
    cause = errors.classify(provider, status, report, headers=headers, models=models, now=now)
    if provider is not None:
        wait = wait_seconds(headers, now, report.delay)
        body = openai_body(report, details.sentence, status, cause)
    else:
        wait = retry_after(headers, now) if status in (429, 503) else None
    if cause is ErrorCause.PATH_UNKNOWN:
        _learn_lacking(request, attempt)
    return Failure(
        status,
        body,
        error_headers(request, attempt, connection.headers),
        None,
        REASONS.get(cause) or details.summary(status),
        details,
        cause,
        wait,
    )


def failure_in(request: InferenceRequest, attempt: Attempt, head: ResponseHead, body: bytes) -> Failure | None:
    """Return the failure that a response with a status below 300 is; None if it is a success."""
    if head.status == 200 and body[:1] != b"{" and (reason := _unusable_reason(body, head.content_type)):
        return Failure(head.status, b"", [], None, reason)
    return None if attempt.endpoint.provider is None else _error_in(request, attempt, body)


def _unusable_reason(response: bytes, content_type: bytes) -> str | None:
    """Return why a 200 is no response. An endpoint that fails fast in this manner would attract every request."""
    if not response[:MAX_SPACE_BYTES].strip():
        return causes.RESPONSE_EMPTY
    if content_type.startswith(b"text/html"):
        return causes.WEB_PAGE
    return None


def _error_in(request: InferenceRequest, attempt: Attempt, body: bytes) -> Failure | None:
    """Return the failure that a provider's response with status 200 is (OpenRouter); None if it is a success."""
    if request.api.kind.name not in _WHOLE or b'"error"' not in body:
        return None
    try:
        decoded = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if bytes(decoded.error) == b"null" or bytes(decoded.choices) != b"null":
        return None
    body = attempt.endpoint.redactor.clean(body[:MAX_ERROR_BYTES])
    report = errors.read(body)
    details = EndpointError(report.message, (), True, report.status)
    return failure_by(request, attempt, report, details)


def failure_by(request: InferenceRequest, attempt: Attempt, report: Report, details: EndpointError) -> Failure:
    """Return the failure that an error within a successful response is."""
    status, now = report.status or 502, time.time()
    models = (attempt.route.model.id, request.parsed.model)
    cause = errors.classify(attempt.endpoint.provider, status, report, headers=report.headers, models=models, now=now)
    wait = wait_seconds(report.headers, now, report.delay)
    reason = REASONS.get(cause) or details.summary(report.status or 0)
    return Failure(status, openai_body(report, details.sentence, status, cause), [], None, reason, details, cause, wait)


def failure_of_stream(request: InferenceRequest, attempt: Attempt, error: EndpointError) -> Failure:
    """Return the failure that an event of a stream has reported, or its finish reason."""
    details = attempt.clean(error)
    if attempt.endpoint.provider is None:
        return Failure(0, b"", [], None, details.summary(0), details)
    if error.written is None:
        report = Report(details.sentence, frozenset(word.lower() for word in details.words), status=details.status)
    else:
        report = errors.report_of({"error": error.written})
    return failure_by(request, attempt, report, details)


def failure_at_end(request: InferenceRequest, attempt: Attempt, body: bytes) -> tuple[Failure, bool]:
    """Return the failure that a whole response is whose finish reason is an error, and whether it has output."""
    ended = _Ended()
    if len(body) <= _ENDED_BYTES:
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            ended = _decode_ended(body)
    error = ended_by_error("error") if ended.error is None else described(ended.error)
    if not ended.choices:
        return failure_of_stream(request, attempt, error), True
    choice = ended.choices[0]
    if ended.error is None:
        error = ended_by_error(choice.finish_reason)
    has_output = bool(choice.text or (choice.message is not None and choice.message.has_output))
    return failure_of_stream(request, attempt, error), has_output


def note_quota(request: InferenceRequest, attempt: Attempt, head: ResponseHead) -> None:
    """Set an endpoint aside whose provider reports with a success that nothing of a quota remains."""
    seconds = capped(exhausted(head.headers, time.time()))
    if seconds is not None:
        request.services.roster.aside.pause(attempt.endpoint, ErrorCause.LIMITED, seconds)


def _learn_lacking(request: InferenceRequest, attempt: Attempt) -> None:
    """Remember that the endpoint lacks the kind of the request."""
    kind = request.api.kind.name
    if attempt.translation is not None:
        kind = attempt.translation.kind or translated_kind(attempt.endpoint.provider, kind) or kind
    request.services.roster.aside.learn_lacking(attempt.endpoint, kind)


def _redirect(attempt: Attempt, connection: Connection) -> Failure:
    target = urlsplit(attempt.endpoint.clean_text(connection.response.header(b"location").decode("latin-1")))
    place = f"{target.scheme}://{target.hostname or ''}{target.path}" if target.netloc else target.path
    log.warning("endpoint %s: it redirects to %.200r, which is not followed", attempt.endpoint.facts.name, place)
    return Failure(connection.status, b"", [], None, causes.MOVED.format(status=connection.status))
