"""Whether the limits and budgets of an API key would let in a request now. Nothing is taken from them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Annotated, Literal, TypedDict

from django.conf import settings

from endpoints.openapi.payload_fields import Choices, Help
from gateway.base.queue_class import part_for_bulk
from gateway.base.request_kinds import BY_NAME
from gateway.limits.spent_now import SpentNow
from gateway.prices.amounts import text_of
from gateway.registry.limits import (
    CONCURRENCY,
    EVERYONE_LEVEL,
    KEY_LEVEL,
    LEVELS,
    MONEY,
    PERIODS,
    REQUESTS,
    TOKENS,
    USER_LEVEL,
    Budget,
    LimitFacts,
    Subject,
)
from metrics.memory.runtime import runtime
from metrics.queries.api_keys import key_owners

ADMITTED, WAITS, REFUSED = "admitted", "waits", "refused"
DECISIONS = (ADMITTED, WAITS, REFUSED)
LimitsOf = Callable[[Collection[Subject]], Mapping[Subject, LimitFacts]]
EXCEEDED = (CONCURRENCY, REQUESTS, TOKENS, MONEY)  # limits of ExceededLimit


class ExceededLimit(TypedDict):
    """A limit or budget that the request would exceed. Amounts of money are in 10⁻⁹ of the reporting currency."""

    level: str
    limit: str
    period: str | None
    amount: int
    used: int
    requested: int
    waits: bool


class AdmissionNow(TypedDict):
    """Whether the limits would admit a request now. `instead`: the model that it would use for a spent budget."""

    decision: Literal["admitted", "waits", "refused"]
    exceeded: list[ExceededLimit]
    instead: str | None


class ExceededPayload(TypedDict):
    """A limit or budget that the request would exceed."""

    level: Annotated[str, Choices(LEVELS)]
    limit: Annotated[str, Choices(EXCEEDED), Help("With a `period`, it is a budget.")]
    period: Annotated[str | None, Choices(PERIODS), Help("Period of the budget.")]
    amount: Annotated[str, Help("The most that is allowed; money in the currency of ROUTERDASH_CURRENCY.")]
    used: Annotated[str, Help("The present use, with reservations.")]
    requested: Annotated[str, Help("The part that the request would take; of money, 0: its cost is not computed.")]
    waits: Annotated[bool, Help("Whether the request would wait for it; otherwise it is refused.")]


class AdmissionPayload(TypedDict):
    """Whether the limits of the API key, its user and everyone would admit the request."""

    decision: Annotated[str, Choices(DECISIONS), Help("By the first limit that is exceeded.")]
    exceeded: list[ExceededPayload]
    instead: Annotated[str | None, Help("Model that the request would use instead, because a budget is spent.")]


def admission_now(
    key_id: str | None,
    kind: str,
    tokens: int,
    limits_of: LimitsOf,
    *,
    is_bulk: bool = False,
    has_bulk_only: bool = False,
) -> AdmissionNow:
    """Return whether the limits would admit a request of an API key that reserves so many tokens.

    None: a request without an API key. `is_bulk`: it is a bulk request, which may use a part of shared limits;
    `has_bulk_only`: the key has no others, so that it shares its own limits with none. Raises django.db.Error.
    """
    subjects: list[Subject] = [(EVERYONE_LEVEL, "")]
    if key_id is not None:
        owner = key_owners([key_id]).get(key_id)
        subjects = [(KEY_LEVEL, key_id), *([(USER_LEVEL, owner.id)] if owner else []), *subjects]
    by_subject = limits_of(subjects)
    limits = [(subject, by_subject[subject]) for subject in subjects if subject in by_subject]
    exceeded = [
        exceeded_limit
        for subject, facts in limits
        for exceeded_limit in _limits(
            subject, facts, kind, tokens, in_part=is_bulk and not (has_bulk_only and subject[0] == KEY_LEVEL)
        )
    ]
    instead = None
    if BY_NAME[kind].needs_slot:
        config = settings.ROUTERDASH
        amounts = SpentNow(config.live_page_path, config.zone)
        for subject, budget in ((subject, budget) for subject, facts in limits for budget in facts.budgets):
            used = amounts.used(subject, budget.unit, budget.period) or 0
            if budget.instead is not None:
                instead = instead or (budget.instead if used >= budget.amount else None)
            elif (over := _over(subject[0], budget, used, tokens)) is not None:
                exceeded.append(over)
    # As in a gateway, the first one decides: limits come before budgets.
    decision = ADMITTED if not exceeded else WAITS if exceeded[0]["waits"] else REFUSED
    return {"decision": decision, "exceeded": exceeded, "instead": instead}  # type: ignore[typeddict-item]


def admission_payload(admission: AdmissionNow) -> AdmissionPayload:
    """Return the payload of an admission, with amounts in text."""
    exceeded: list[ExceededPayload] = []
    for row in admission["exceeded"]:
        text = text_of if row["limit"] == MONEY else str
        exceeded.append(
            {**row, "amount": text(row["amount"]), "used": text(row["used"]), "requested": text(row["requested"])}
        )
    return {**admission, "exceeded": exceeded}


def _limits(subject: Subject, facts: LimitFacts, kind: str, tokens: int, *, in_part: bool) -> Iterator[ExceededLimit]:
    has_slot, use = BY_NAME[kind].needs_slot, None
    for name, requested in ((CONCURRENCY, 1), (REQUESTS, 1), (TOKENS, tokens)):
        whole = getattr(facts, name)
        if whole is None or not (has_slot or name == REQUESTS):
            continue
        amount = part_for_bulk(whole) if in_part else whole
        use = use or runtime.installation.limit_use(*subject)
        used = getattr(use, name)
        if used + requested > amount:
            waits = has_slot and name in facts.waiting and requested <= whole
            yield {
                "level": subject[0], "limit": name, "period": None, "amount": amount, "used": used,
                "requested": requested, "waits": waits,
            }  # fmt: skip


def _over(level: str, budget: Budget, used: int, tokens: int) -> ExceededLimit | None:
    """Return a budget that the request would exceed. Of money, only one that is spent: its cost is not known here."""
    requested = 0 if budget.unit == MONEY else tokens
    if used + max(requested, 1) <= budget.amount:
        return None
    return {
        "level": level, "limit": budget.unit, "period": budget.period, "amount": budget.amount, "used": used,
        "requested": requested, "waits": False,
    }  # fmt: skip
