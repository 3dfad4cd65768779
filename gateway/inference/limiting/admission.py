"""The admission of a request by the limits of its API key, its user and everyone.

A request is taken from all of them when it gets an endpoint, once for all attempts, and settled before its record is
written. A request that reaches no endpoint is undone. The same holds for budgets.
"""

from msgspec.structs import force_setattr

from gateway.base.errors import Refusal
from gateway.inference.limiting.budgeting import cost_of, expected_tokens, reserve, reserve_budgets
from gateway.inference.request import NO_STAY, InferenceRequest
from gateway.ipc import record
from gateway.ipc.counters.counter_file import MAX_TOKENS_IN_CELL
from gateway.ipc.counters.places import NoPlace
from gateway.ipc.record import RequestRecord
from gateway.limits import replies
from gateway.limits.budget_replies import budget_refusal
from gateway.limits.budgets import Held
from gateway.limits.compiled import CompiledLimits, LimitedRequest
from gateway.prices.counts import plausible
from gateway.registry.reader import StoreUnreadable
from gateway.routing.balancer import HELD, OVER, Decision
from gateway.routing.routes import Route


def find_limits(request: InferenceRequest) -> None:
    """Find the limits of a request. Raises Refusal (503) if they cannot be read."""
    try:
        compiled = request.services.limits.of(request.exchange.api_key)
    except StoreUnreadable:
        raise replies.unavailable() from None
    request.limited = None if compiled is None else limited_by(request, compiled)


def limited_by(request: InferenceRequest, compiled: CompiledLimits) -> LimitedRequest:
    """Return the part of a request that its limits concern."""
    return LimitedRequest(compiled, request.services.limits.budgets, request.api.kind.anthropic)


def admit(
    request: InferenceRequest, limited: LimitedRequest, route: Route | None = None, prompt: int = 0, output: float = 0.0
) -> Decision | None:
    """Take a request that has an endpoint from its limits, unless it has been. Return HELD if it must wait for one.

    OVER: it is to be refused, for the reason that `refusal_of` returns. The limits are those of this moment: they may
    have changed while the request waited. `route`: that to its endpoint, to reserve from budgets what it needs there.
    `prompt` and `output`: its `expected_tokens`, where they are known.
    """
    if limited.left is not None:
        return None
    compiled, reserved = limited.compiled, limited.reserved
    if (
        not compiled.is_simple
        or request.stay is not NO_STAY
        or compiled.version != request.services.roster.reader.limits_version
        or not request.api.kind.needs_slot
    ):
        return _admit_any(request, limited, route)
    if reserved is None and compiled.has_tokens:  # as `reserve`, without its call
        if not prompt:
            prompt, output, _ = expected_tokens(request)
        limited.prompt = prompt
        reserved = prompt + output.__trunc__() * request.parsed.choices  # int(…) takes twice as long
        if reserved > MAX_TOKENS_IN_CELL:
            reserved = MAX_TOKENS_IN_CELL
        limited.reserved = reserved
    plan = compiled.plan
    if plan.elsewhere and plan.older_wait(request.exchange.arrived) is not None:
        return _admit_any(request, limited, route)
    try:
        left = plan.enter(reserved or 0)
    except NoPlace:
        limited.excess = limited.exceeded = None
        return OVER
    if type(left) is list:
        limited.left, limited.cell = left, plan.number
        return None
    limited.excess = left  # type: ignore[assignment]  # isinstance would be dearer
    return _held(request, limited)


def _admit_any(request: InferenceRequest, limited: LimitedRequest, route: Route | None) -> Decision | None:
    """Do the same for any request, not only for one as most are."""
    if limited.compiled.version != request.services.roster.reader.limits_version and not _follow(request, limited):
        return None
    if request.stay is not NO_STAY and not _follow_class(request, limited):
        return None
    if limited.compiled.budgets and route is not None:
        reserve_budgets(request, limited, route)
    else:
        reserve(request, limited)
    try:
        taken = limited.take(request.exchange.arrived) if request.api.kind.needs_slot else limited.count()
    except NoPlace:
        limited.excess = limited.exceeded = None
        return OVER
    if taken:
        return None
    return OVER if limited.excess is None else _held(request, limited)


def _follow(request: InferenceRequest, limited: LimitedRequest) -> bool:
    """Use the present limits of a request; return False if there are none any more."""
    try:
        compiled = request.services.limits.of(request.exchange.api_key)
    except StoreUnreadable:
        return True
    if compiled is None:
        request.limited = None
        return False
    limited.compiled = compiled
    return True


def _follow_class(request: InferenceRequest, limited: LimitedRequest) -> bool:
    """Use the part of the limits that the class of a request allows; return False if there are none any more.

    A bulk request that has aged may use the whole.
    """
    if request.stay.gives_way:
        key = request.exchange.api_key
        limited.compiled = limited.compiled.for_bulk(has_bulk_only=key is not None and key.bulk)
    elif limited.compiled.gives_way:
        return _follow(request, limited)
    return True


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
    excess.subject.wait_since(request.exchange.arrived, gives_way=request.stay.gives_way)
    return HELD


def must_wait(request: InferenceRequest, limited: LimitedRequest) -> bool:
    """Return True if a request has to wait for a limit, whether an endpoint is free or not.

    Raises Refusal if it exceeds a limit for which it does not wait: it need not wait for an endpoint first.
    """
    if limited.left is not None or not limited.compiled.levels:
        return False
    if not _follow_class(request, limited):
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
    """End the request, with the tokens of its record; complete the record.

    Of a response that broke off, or whose usage is estimated, the input counts as it was expected.
    """
    compiled, reserved = limited.compiled, limited.reserved
    if made.attempts:
        cell = limited.cell
        if cell is not None:
            tokens = made.output_tokens or 0
            if made.input_tokens is not None:
                tokens += made.input_tokens
            elif made.estimated or made.outcome in (record.CANCELLED, record.TRUNCATED):
                tokens += limited.prompt
            limited.cell = None
            compiled.plan.leave(cell, 0, (reserved or 0) - tokens)
        if reserved is not None:
            force_setattr(made, "reserved_tokens", reserved)
        if limited.held is not None:
            _settle_budgets(limited.held, made, cost_of(request, limited, made))
            limited.held = None
    else:
        limited.cancel()
    if limited.waited_for is not None:
        force_setattr(made, "limit", limited.waited_for)
    if compiled.has_user:
        force_setattr(made, "user_id", compiled.owner_id)
    # Without requests in the own queue, and while no other process counts, none waits for these limits.
    if (request.services.queue.length or compiled.plan.elsewhere) and request.services.limits.waits[0]:
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
    """Have the own queue served, and those of other processes: another request may wait for the same limit."""
    if request.services.queue.length:
        request.services.serve_queue()
    limited.compiled.other_waits.pass_on()


def stop_waiting(request: InferenceRequest, limited: LimitedRequest) -> None:
    """Let those of other processes go on that wait behind a request which waits no more, although it was not taken."""
    if limited.waited_for is not None and limited.left is None and limited.wait_no_more(request.exchange.arrived):
        limited.compiled.other_waits.pass_on()
