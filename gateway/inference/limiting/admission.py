"""The admission of a request by the limits of its API key, its user and everyone.

A request is taken from all of them when it gets an endpoint, once for all attempts, and settled before its record is
written; others that wait go on after that. A request that reaches no endpoint is undone. The same holds for budgets.
"""

import logging

from msgspec.structs import force_setattr

from gateway.base.errors import INVALID_REQUEST, Refusal
from gateway.base.request_kinds import RESPONSES
from gateway.inference.limiting.budgeting import cost_of, reserve
from gateway.inference.request import InferenceRequest
from gateway.ipc.counters.places import NoPlace
from gateway.ipc.record import RequestRecord
from gateway.limits import replies
from gateway.limits.budget_replies import budget_refusal
from gateway.limits.budgets import Held
from gateway.limits.compiled import LimitedRequest
from gateway.prices.counts import plausible
from gateway.registry.reader import StoreUnreadable
from gateway.routing.balancer import HELD, OVER, Decision
from gateway.routing.routes import Route

log = logging.getLogger(__name__)


def find_limits(request: InferenceRequest) -> None:
    """Set the present limits of a request, or the part of them that its class allows. `limited` is None without limits.

    If they cannot be read now, the request keeps those that it has. Raises Refusal (503) if it has none yet.
    """
    services, key, limited = request.services, request.exchange.api_key, request.limited
    try:
        compiled = services.limits.of(key)
    except StoreUnreadable:
        if limited is None:
            raise replies.unavailable() from None
        compiled = limited.compiled
    if compiled is None:
        request.limited = None
        return
    if request.gives_way:  # a bulk request that has aged may use the whole
        compiled = compiled.for_bulk(has_bulk_only=key is not None and key.bulk)
    if limited is None:
        request.limited = LimitedRequest(compiled, services.limits.budgets, request.api.kind.anthropic)
    else:
        limited.compiled = compiled


def admit(request: InferenceRequest, limited: LimitedRequest, route: Route | None = None) -> Decision | None:
    """Take a request that has an endpoint from its limits, unless it has been. Return HELD if it must wait for one.

    OVER: it is to be refused, for the reason that `refusal_of` returns. The limits are those of this moment: they may
    have changed while the request waited. `route`: that to its endpoint, to reserve from budgets what it needs there.
    """
    if limited.left is not None:
        return None
    find_limits(request)
    if request.limited is None:
        return None
    reserve(request, limited, route)
    try:
        taken = limited.take(request.exchange.arrived) if request.api.kind.needs_slot else limited.count()
    except NoPlace:
        limited.excess = limited.exceeded = None
        return OVER
    if taken:
        return None
    return OVER if limited.excess is None else _held(request, limited)


def check_background(request: InferenceRequest, limited: LimitedRequest) -> None:
    """Raise Refusal (400) for a response that would run on unseen, beside limits and budgets, when its request ends."""
    if request.parsed.background and limited.compiled.needs_end and request.api.kind.name == RESPONSES:
        message = (
            "`background` is not available to API keys with a budget, or a limit on tokens or concurrent requests. "
            "Leave it out, and use `stream` for long responses."
        )
        raise Refusal(400, INVALID_REQUEST, message, param="background")


def _held(request: InferenceRequest, limited: LimitedRequest) -> Decision:
    """Return HELD if a request waits for the limit that it has exceeded, or OVER."""
    excess = limited.excess
    assert excess is not None
    level = limited.compiled.level_of(excess)
    may_wait = request.api.kind.needs_slot and excess.limit in level.facts.waiting
    if not may_wait or replies.can_never_fit(level.whole, excess, limited.reserved or 0):
        return OVER
    limited.waited_for = replies.name_of(level, excess.limit)
    limited.wait_no_more(request.exchange.arrived, but_for=excess.subject)
    excess.subject.wait_since(request.exchange.arrived, gives_way=request.gives_way)
    return HELD


def must_wait(request: InferenceRequest, limited: LimitedRequest) -> bool:
    """Return True if a request has to wait for a limit, whether an endpoint is free or not.

    Raises Refusal if it exceeds a limit for which it does not wait: it need not wait for an endpoint first.
    """
    if limited.left is not None:
        return False
    find_limits(request)
    if request.limited is None or not limited.compiled.levels:
        return False
    try:
        limited.excess = limited.compiled.plan.look(limited.reserved or 0)
    except NoPlace:
        raise replies.unavailable() from None
    if limited.excess is None:
        return False
    if _held(request, limited) is OVER:
        raise refusal_of(limited)
    return True


def refusal_of(limited: LimitedRequest) -> Refusal:
    """Return the refusal of a request that has exceeded a limit, or could not be counted, at its last try."""
    if limited.excess is None:
        exceeded = limited.exceeded
        return replies.unavailable() if exceeded is None else budget_refusal(exceeded)
    try:
        return replies.refusal(limited, limited.excess)
    except NoPlace:
        return replies.unavailable()


def settle(request: InferenceRequest, limited: LimitedRequest, made: RequestRecord) -> None:
    """End the request, with the tokens of its record; complete the record."""
    if made.attempts:
        limited.settle((made.input_tokens or 0) + (made.output_tokens or 0))
        if limited.reserved is not None:
            force_setattr(made, "reserved_tokens", limited.reserved)
        if limited.held is not None:
            _settle_budgets(limited.held, made, cost_of(request, limited, made))
            limited.held = None
    else:
        limited.cancel()
    if limited.waited_for is not None:
        force_setattr(made, "limit", limited.waited_for)
    if limited.compiled.has_user:
        force_setattr(made, "user_id", limited.compiled.owner_id)


def pass_on(request: InferenceRequest, limited: LimitedRequest) -> None:
    """Let others go on that may wait for the limits of a request, once it has settled and its record is written."""
    # Without requests in the own queue, and while no other process counts, none waits for these limits.
    if (request.services.queue.length or limited.compiled.plan.elsewhere) and request.services.limits.waits[0]:
        let_others_go_on(request, limited)


def _settle_budgets(held: Held, made: RequestRecord, cost: int) -> None:
    """Count a request in its budgets, as the figures of control count its record."""
    tokens = (plausible(made.input_tokens) or 0) + (plausible(made.output_tokens) or 0)
    settled = held.settle(tokens, cost, made.completed_us)
    if settled is not None:
        force_setattr(made, "epoch", settled.epoch)
        force_setattr(made, "row", settled.row)
        force_setattr(made, "budgets", settled.budgets)


def let_go(request: InferenceRequest, limited: LimitedRequest) -> None:
    """End a request that holds a part of limits or budgets, but has no record of its own: it failed on the way."""
    if request.attempts:
        limited.give_back()
        limited.settle(0)
    else:
        limited.cancel()
    let_others_go_on(request, limited)


def let_others_go_on(request: InferenceRequest, limited: LimitedRequest) -> None:
    """Have the own queue served, and those of other processes: another request may wait for the same limit.

    A fault there does not end this request in another way.
    """
    try:
        if request.services.queue.length:
            request.services.serve_queue()
        limited.compiled.other_waits.pass_on()
    except Exception:
        log.exception("requests that wait for a limit were not woken; they look again themselves")


def stop_waiting(request: InferenceRequest, limited: LimitedRequest) -> None:
    """Let those of other processes go on that wait behind a request which waits no more, although it was not taken."""
    if limited.waited_for is not None and limited.left is None and limited.wait_no_more(request.exchange.arrived):
        limited.compiled.other_waits.pass_on()
