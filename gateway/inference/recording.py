"""The one record of a request, and the reports to the circuit breaker of its endpoints.

All figures rest on this order: the record is in the journal, and the endpoint's in-flight count is reduced, before the
last bytes of the response leave. A crash in between costs the client its last bytes, but no figure. Nothing that can
fail stands between the end of a response and its record: other requests are woken after it, and a fault of RouterDash
costs details of the record at most.
"""

import logging
import time

from msgspec import structs

from gateway.base.bounds import REPORTED_TOKENS
from gateway.base.errors import Refusal
from gateway.dialects.redact import redact
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import NOT_REPORTED, Usage
from gateway.http.exchange import Exchange
from gateway.inference.attempt import Attempt, Failure
from gateway.inference.limiting.admission import pass_on, settle
from gateway.inference.limiting.budgeting import expected_prompt
from gateway.inference.request import ENDED, InferenceRequest
from gateway.ipc import record
from gateway.ipc.record import AttemptRecord, RequestRecord, uuid7
from gateway.limits.replies import LimitRefusal
from gateway.providers.errors import LACKING, OF_THE_ACCOUNT, OF_THE_REQUEST, ErrorCause
from gateway.routing.balancer import ONLY, recorded_scores, recorded_times
from gateway.routing.set_aside import KEY_SECONDS, MONEY_SECONDS
from gateway.upstream.errors import CONNECT, TIMEOUT, UpstreamError

log = logging.getLogger(__name__)


def finish(
    request: InferenceRequest,
    outcome: str,
    status: int,
    *,
    usage: Usage | None = None,
    error: str | None = None,
    details: str | None = None,
    response_body: bytes | None = None,
) -> None:
    """Write the record of a request to the journal, once; its current attempt ends with it.

    `status` is that of the response. `details` is the endpoint's own error message.
    """
    if request.recorded:
        return
    request.recorded = True
    limited, before, made = request.limited, len(request.attempts), None
    try:
        made = _record_of(request, outcome, status, usage, error, details, response_body)
        if limited is not None:
            settle(request, limited, made)
    except Exception:
        log.exception("the record of request %s, or what its limits count, is incomplete", request.id)
    request.services.record(made or _least_record(request, outcome, status, error, before))
    request.leave_endpoint()
    if limited is not None:
        pass_on(request, limited)


def _record_of(
    request: InferenceRequest,
    outcome: str,
    status: int,
    usage: Usage | None,
    error: str | None,
    details: str | None,
    response_body: bytes | None,
) -> RequestRecord:
    """End the current attempt, and return the record of the request."""
    services, exchange, attempt = request.services, request.exchange, request.attempt
    now = time.monotonic()
    if attempt is not None and attempt.active:
        attempt_status = 0 if outcome == record.CANCELLED else status
        record_attempt(request, attempt, outcome, attempt_status, error, now, details)
        if outcome in (record.FAILED, record.TRUNCATED):
            _report_failure(request, attempt, None if attempt.connection is None else attempt.connection.error)
    relay = first_token = None
    estimated = False
    if attempt is not None:
        relay, first_token = attempt.relay, attempt.first_token
        if relay is not None or outcome in _BROKEN_OFF:
            usage, estimated = _usage_of(request, attempt, usage, outcome)
    usage = usage or NOT_REPORTED
    if usage.is_damaged:
        services.bound_hits.hit(REPORTED_TOKENS)
    request_text = response_text = None
    if services.stores_bodies and _stores_bodies(services.config.store_bodies, outcome):
        request_text = redact(request.body) if request.body else None
        response_text = redact(response_body) if response_body else None
    elif outcome != record.OK or len(request.attempts) > 1:
        _drop_details(request)
    return RequestRecord(
        id=request.id,
        completed_us=time.time_ns() // 1000,
        kind=request.api.kind.name,
        model=request.model,
        outcome=outcome,
        # With a stream that has begun, the client received 200 with its header block.
        status=200 if status >= 400 and exchange.started else status,
        duration_us=int((now - exchange.arrived) * 1e6) or 1,
        first_token_us=None if first_token is None else int((first_token - exchange.arrived) * 1e6),
        attempts=tuple(request.attempts),
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        estimated=estimated,
        streamed=relay is not None,
        api_key_id=request.key_id,
        client_ip=exchange.head.peer.ip,
        error=error,
        request_body=request_text,
        response_body=response_text,
        queue_us=request.queue_us,
        request_id=request.client_request_id,
        cached_tokens=usage.cached_tokens,
        body_bytes=exchange.size,
        conversation=request.conversation,
        queue_class=request.queue_class,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        # Of a stream: if it is complete, or lacks nothing but its last events
        finish_reason=usage.finish_reason if relay is None else relay.finish_reason if relay.finished else None,
        left_steps=() if request.chain is None else tuple(request.chain.left),
        long_write_tokens=usage.long_write_tokens,
        service_tier=usage.service_tier,
        images=usage.images,
        audio_ms=usage.audio_ms,
    )


def _least_record(
    request: InferenceRequest, outcome: str, status: int, error: str | None, before: int
) -> RequestRecord:
    """Return the record of a request of which a fault of RouterDash forbids to say more: it is counted all the same.

    `before`: number of its attempts that had ended before the current one.
    """
    exchange, attempt, attempts = request.exchange, request.attempt, tuple(request.attempts)
    if attempt is not None and attempt.active and len(attempts) == before:
        us = int((time.monotonic() - attempt.started) * 1e6)
        attempts = (*attempts, AttemptRecord(attempt.decision.endpoint_id, outcome, status, us, error))
    return RequestRecord(
        id=request.id,
        completed_us=time.time_ns() // 1000,
        kind=request.api.kind.name,
        model=request.model,
        outcome=outcome,
        status=200 if status >= 400 and exchange.started else status,
        duration_us=int((time.monotonic() - exchange.arrived) * 1e6) or 1,
        attempts=attempts,
        api_key_id=request.key_id,
        client_ip=exchange.head.peer.ip,
        error=error,
    )


def record_attempt(
    request: InferenceRequest,
    attempt: Attempt,
    outcome: str,
    status: int,
    error: str | None,
    now: float,
    details: str | None = None,
) -> None:
    """Add an attempt that has ended to the record of its request, and report a success to the circuit breaker."""
    decision, started, model = attempt.decision, attempt.started, attempt.route.model
    requested, step = request.parsed.model, 0
    if request.chain is not None:
        requested, step = request.chain.requested, request.chain.stage.number
    if attempt.load is not None and outcome == record.OK:
        attempt.load.response_began()
    request.attempts.append(
        AttemptRecord(
            endpoint_id=decision.endpoint_id,
            outcome=outcome,
            status=status,
            duration_us=int((now - started) * 1e6),
            error=error,
            at_us=int((started - request.exchange.arrived) * 1e6),
            reason=decision.reason,
            scores=recorded_scores(decision) if decision.scores and decision.reason != ONLY else (),
            said=details,
            costs=recorded_times(decision),
            work=attempt.work(request.services.learned, now),
            connect_us=attempt.connect_us,
            served=None if model.id == requested or not model.id else model.id,
            canonical=model.canonical,
            step=step,
        )
    )
    if outcome == record.OK:
        attempt.endpoint.record_success(request.client, now)


def fail_attempt(request: InferenceRequest, attempt: Attempt, failure: Failure) -> Failure:
    """Record a failed attempt, report it to the circuit breaker, and return the failure."""
    if failure.error is not None and failure.error.bound is not None:
        request.services.bound_hits.hit(failure.error.bound)
    sentence = None if failure.details is None else failure.details.sentence
    record_attempt(request, attempt, failure.outcome, failure.status, failure.reason, time.monotonic(), sentence)
    if failure.cause in OF_THE_ACCOUNT:
        failure.details = None  # it is not the client's API key or account
    _blame(request, attempt, failure)
    return failure


# Of a provider: causes that set an endpoint aside, and for how long if the provider does not say it.
SETTING_ASIDE = frozenset((ErrorCause.MONEY, ErrorCause.KEY_REFUSED, ErrorCause.LIMITED, ErrorCause.OVERLOADED))
_PAUSES = {ErrorCause.MONEY: MONEY_SECONDS, ErrorCause.KEY_REFUSED: KEY_SECONDS}


def finish_failed(
    request: InferenceRequest,
    attempt: Attempt,
    failure: Failure,
    status: int,
    usage: Usage | None = None,
    response_body: bytes | None = None,
) -> None:
    """Record a request whose endpoint has begun to respond with `status`, and then reported a failure."""
    failure.status = status
    fail_attempt(request, attempt, failure)
    request.leave_endpoint()
    finish(request, record.FAILED, status, usage=usage, error=failure.reason, response_body=response_body)


def _blame(request: InferenceRequest, attempt: Attempt, failure: Failure) -> None:
    """Set the endpoint of a failed attempt aside, or report the failure to its circuit breaker, if it is its fault."""
    if failure.cause in LACKING or failure.cause in OF_THE_REQUEST:
        return
    if failure.cause is not None and attempt.endpoint.provider is not None:
        seconds = _PAUSES.get(failure.cause, failure.wait)
        if seconds is not None and failure.cause in SETTING_ASIDE:
            request.services.roster.aside.pause(attempt.endpoint, failure.cause, seconds)
            return
    _report_failure(request, attempt, failure.error, failure)


def _report_failure(
    request: InferenceRequest, attempt: Attempt, error: Exception | None, failure: Failure | None = None
) -> None:
    """Report a failure to the circuit breaker of the endpoint. `error` is that of the connection."""
    kind = error.kind if isinstance(error, UpstreamError) else None
    if kind == ENDED:
        return
    pause = None if failure is None else failure.wait
    # A request can make an endpoint fail that accepted it, but not refuse a connection or RouterDash's own API key.
    at_fault = kind in (CONNECT, TIMEOUT) or (failure is not None and failure.status in (401, 408, 429))
    attempt.endpoint.record_failure(pause, None if at_fault or pause is not None else request.client)


_BROKEN_OFF = (record.CANCELLED, record.TRUNCATED)


def _usage_of(
    request: InferenceRequest, attempt: Attempt, usage: Usage | None, outcome: str
) -> tuple[Usage | None, bool]:
    """Return the usage of a stream, or of a response that broke off; True if it is estimated.

    Without the endpoint's own counts, the prompt has the tokens that were expected: the endpoint has it, unless the
    attempt ended while it was connecting.
    """
    relay, is_estimated = attempt.relay, False
    if relay is not None:
        usage, is_estimated = _usage_of_stream(relay)
    if attempt.reads_stored or not (relay.estimates if relay is not None else attempt.connect_us is not None):
        return usage, is_estimated
    has_prompt = usage is not None and usage.input_tokens is not None
    if has_prompt or not (is_estimated or outcome in _BROKEN_OFF) or not request.api.kind.reads_text:
        return usage, is_estimated
    return Usage(expected_prompt(request, attempt.route), None).merged_with(usage), True


def _usage_of_stream(relay: StreamRelay) -> tuple[Usage | None, bool]:
    """Return the usage that a stream reported, or an estimate by its deltas; True marks the estimate.

    Of a stream that broke off, some servers have reported the output of its beginning only.
    """
    usage, deltas = relay.usage, relay.deltas
    reported = None if usage is None else usage.output_tokens
    if not deltas or not relay.estimates or (reported is not None and (relay.finished or reported >= deltas)):
        return usage, False
    return Usage(None, deltas).merged_with(usage), True


def _stores_bodies(setting: str, outcome: str) -> bool:
    return setting == "all" or (setting == "errors" and outcome != record.OK)


def _drop_details(request: InferenceRequest) -> None:
    """Remove the endpoints' own error messages, which are stored only together with bodies."""
    request.attempts = [
        attempt if attempt.said is None else structs.replace(attempt, said=None) for attempt in request.attempts
    ]


def rejected(exchange: Exchange, refusal: Refusal) -> RequestRecord:
    """Return the record of a request that RouterDash refuses."""
    return RequestRecord(
        id=uuid7(),
        completed_us=time.time_ns() // 1000,
        kind="",
        model="",
        outcome=record.REJECTED,
        status=refusal.status,
        duration_us=0,
        api_key_id=exchange.api_key.id if exchange.api_key else None,
        client_ip=exchange.head.peer.ip,
        error=refusal.code,
        limit=refusal.by if isinstance(refusal, LimitRefusal) else None,
    )
