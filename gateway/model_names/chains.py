"""The way of a request with a model name through the steps of that name.

Steps are strict and ordered: a request leaves one only for a reason that the step allows, and never after the first
byte of a response. Within a step the targets follow in the order in which they were drawn, and the balancer decides
among the endpoints of a target. Each step that was left or skipped is recorded with the reason.
"""

from functools import lru_cache
from urllib.parse import quote

from gateway.base import errors
from gateway.base.errors import Refusal
from gateway.base.request_kinds import CAN_EMBED, Kind
from gateway.dialects.body_edits import Places
from gateway.dialects.openai_requests import Request
from gateway.http.exchange import Exchange
from gateway.http.key_permissions import external_refusal, model_refusal
from gateway.model_names.plan import Leaf, NamePlan, plan_of_list
from gateway.model_names.step_reasons import (
    EXTERNAL,
    FAILED,
    FULL,
    LACKING,
    NOT_ALLOWED,
    NOT_CAPABLE,
    OTHER_VECTORS,
    PINNED,
    STORED_ELSEWHERE,
    TOO_LONG,
    UNAVAILABLE,
)
from gateway.model_names.targets import (
    UNKNOWN,
    Open,
    StepTargets,
    lacking_refusal,
    vectors_of,
)
from gateway.routing.affinity.affinity import Affinity, Prefix
from gateway.routing.balancer import EXCLUDED, OPEN, Decision
from gateway.routing.learned_routes import LearnedFacts
from gateway.routing.roster import Roster, plan_of
from gateway.routing.routes import Route, Routes
from gateway.upstream.errors import CONNECT

MAX_ATTEMPTS = 5  # over all steps
_SAFE = " !#$&'()*+,-./:;<=>?@[]^_`{|}~"


def requested_plan(roster: Roster, parsed: Request) -> NamePlan | None:
    """Return the steps of the requested model name, or of several models; None if it is neither."""
    if parsed.models is None:
        return plan_of(roster, parsed.model)
    models = dict.fromkeys((parsed.model, *parsed.models))
    return plan_of_list(list(models), roster.names, roster)


class Chain(StepTargets):
    """The state of one request on its way through the steps."""

    __slots__ = (
        "_open", "_open_version", "_place", "_stages", "failed", "leaf", "left", "places", "prefix", "reason",
        "session", "stage",
    )  # fmt: skip

    def __init__(
        self,
        roster: Roster,
        learned: LearnedFacts,
        exchange: Exchange,
        kind: Kind,
        parsed: Request,
        plan: NamePlan,
        places: Places | None = None,
    ) -> None:
        self._roster = roster
        self._learned = learned
        self._exchange = exchange
        self.kind = kind
        self._vectors = vectors_of(roster, plan) if kind.capability == CAN_EMBED else None
        self.plan = plan
        self.preferred = None
        self.requested = parsed.model
        self.parsed = parsed
        self.places = places  # of the top-level values in a large body
        self.left: list[tuple[int, str]] = []  # steps that were left or skipped, and why
        self.leaf: Leaf | None = None  # target of the current or the last attempt
        self.reason = UNAVAILABLE  # why nothing is left to ask in this stage
        self.prefix: Prefix | None = None  # of the prompt, for no model
        self.session: bytes | None = None  # with which it was read
        self._stages = plan.stages()
        self._place = 0  # index of the stage
        self.stage = self._stages[0]
        self._open: list[Open] | None = None  # targets of the stage that may be asked
        self._open_version: object = None  # version of the endpoints and the API key with which they were found
        self.failed: set[tuple[str, str]] | None = None  # endpoints, each with the id of a model, or "" for all

    @property
    def line(self) -> str:
        """The name of the requests that wait for the same endpoints."""
        leaves = "\n".join(f"{target.leaf.model}\t{len(target.routes)}" for target in self.targets())
        return f"{self.requested}\n{self.stage.number}\n{leaves}"

    # Targets

    def start(self, preferred: Decision | None) -> None:
        """Go to the first step that is not skipped. Raises Refusal if no endpoint of any step could be used.

        `preferred`: see InferenceRequest.
        """
        self.preferred = preferred
        if preferred is None and self.targets():
            return  # the usual case
        skipped: list[tuple[int, str]] = []
        plan_place = self._next(0, skipped)
        self._note(skipped)
        if plan_place is None:
            raise self._refusal({reason for _, reason in skipped})
        self._go_to(plan_place)
        if preferred is not None and (storing := self._storing(preferred.endpoint_id)) not in (None, plan_place):
            assert storing is not None
            self._leave_to(storing, PINNED if preferred.reason == PINNED else STORED_ELSEWHERE)

    def targets(self) -> list[Open]:
        """Return the targets of the current stage that may be asked, in drawn order."""
        now = self._roster.reader.version, self._exchange.api_key
        if self._open is None or self._open_version != now:
            self._open_version = now
            self._open = self.open_targets(self._stages, self._place)[0]
        return self._open

    def lost_permission(self) -> Refusal | None:
        """Return the refusal of a request whose API key may not use any target of the current stage any more."""
        if self.targets():
            return None
        why = self.open_targets(self._stages, self._place)[1]
        return self._refusal({why}) if why in (EXTERNAL, NOT_ALLOWED) else None

    def endpoints_tried(self, routes: Routes) -> list[str]:
        """Return the ids of those endpoints of a target at which its model has failed."""
        failed = self.failed
        if failed is None:
            return []
        return [
            route.endpoint.id
            for route in routes
            if (route.endpoint.id, route.model.id) in failed or (route.endpoint.id, "") in failed
        ]

    def note_failure(self, route: Route, kind: str | None, *, too_long: bool) -> None:
        """Note a failed attempt. `kind` of the connection's error.

        Another model at the same endpoint may still succeed, unless the endpoint cannot be reached.
        """
        if self.failed is None:
            self.failed = set()
        self.failed.add((route.endpoint.id, "" if kind == CONNECT else route.model.id))
        self.reason = FAILED
        if too_long:
            self.reason = TOO_LONG
            for leaf in self.stage.leaves:  # the same model has the same context elsewhere
                same = (known for known in self._roster.routes(leaf.model) if known.name == route.name)
                self.failed |= {(known.endpoint.id, known.model.id) for known in same if not _is_longer(known, route)}

    # Leaving a step

    def may_leave(self, reason: str) -> bool:
        """Return True if the request may leave the stage for this reason, and there is another one for it.

        For an endpoint that may recover, or become free, it is left only for one that could be asked now.
        """
        return (
            self._allows(reason)
            and self._next(self._place + 1, [], available=reason in (FULL, UNAVAILABLE)) is not None
        )

    def leave(self, reason: str) -> bool:
        """Leave the stage for the next one, if the stage allows it for this reason and there is one."""
        if not self._allows(reason):
            return False
        skipped: list[tuple[int, str]] = []
        plan_place = self._next(self._place + 1, skipped)
        if plan_place is None:
            return False
        self._leave_to(plan_place, reason)
        self._note(skipped)
        return True

    def seconds_when_full(self) -> float | None:
        """Return the seconds that the request may wait while the stage is full; None: it must wait for a slot."""
        return self.stage.if_full_secs if self.may_leave(FULL) else None

    def has_other(self, leaf_of: Route) -> bool:
        """Return True if a prompt that is too long for this model may go to another one."""
        others = (target for target in self.targets() if any(_is_longer(route, leaf_of) for route in target.routes))
        return any(others) or self.may_leave(TOO_LONG)

    def _allows(self, reason: str) -> bool:
        stage = self.stage
        if reason == FULL:
            return stage.if_full_secs is not None
        return {UNAVAILABLE: stage.if_unavailable, FAILED: stage.if_failed, TOO_LONG: stage.if_too_long}[reason]

    def _next(self, place: int, skipped: list[tuple[int, str]], *, available: bool = False) -> int | None:
        """Return the first stage from `place` on that is not skipped; those that are, are added to `skipped`.

        `available`: only one with an endpoint that could be asked now.
        """
        for index in range(place, len(self._stages)):
            stage = self._stages[index]
            targets, why = self.open_targets(self._stages, index)
            if why == UNKNOWN and not targets:
                if not stage.if_unavailable:
                    return None if available else index  # no condition lets the request go on
                why = UNAVAILABLE
            elif targets and (not available or self._is_available(targets)):
                return index
            skipped.append((stage.number, why or UNAVAILABLE))
        return None

    def _is_available(self, targets: list[Open]) -> bool:
        return any(
            route.endpoint.rank < OPEN and route.endpoint.id not in self.endpoints_tried(target.routes)
            for target in targets
            for route in target.routes
        )

    def is_unavailable(self, targets: list[Open]) -> bool:
        """Return True if no endpoint of the stage works, and one of a later stage does, to which the request may go.

        `targets`: those of the stage.
        """
        return not self._is_available(targets) and self.may_leave(UNAVAILABLE)

    def _leave_to(self, place: int, reason: str) -> None:
        before = self.stage.number
        self._go_to(place)
        self.reason = UNAVAILABLE
        if self.stage.number != before:
            self._note([(before, reason)])

    def _go_to(self, place: int) -> None:
        self._place = place
        self.stage = self._stages[place]
        self._open = None

    def _note(self, left: list[tuple[int, str]]) -> None:
        self.left += (name for name in left if name not in self.left)

    def _storing(self, endpoint_id: str) -> int | None:
        """Return the stage with the endpoint that stores the previous response, or is pinned, if it is available."""
        for place in range(len(self._stages)):
            for target in self.open_targets(self._stages, place)[0]:
                route = target.routes.by_id.get(endpoint_id)
                if route is not None and route.endpoint.rank < EXCLUDED:
                    return place
        return None

    def _refusal(self, reasons: set[str]) -> Refusal:
        """Return the refusal of a request for which all steps were skipped."""
        if NOT_ALLOWED in reasons:
            return model_refusal(self.requested)
        if EXTERNAL in reasons:
            return external_refusal(self._exchange, self.requested)
        model = f"The model {self.requested!r}"
        if reasons == {UNAVAILABLE}:
            message = f"{model} leads to no model that an endpoint has; GET /v1/models lists the models."
            return Refusal(404, errors.MODEL_NOT_FOUND, message, param="model")
        if OTHER_VECTORS in reasons:
            message = (
                f"{model} leads to models whose embeddings cannot be compared, and the first one is at no endpoint."
            )
            return Refusal(503, errors.NO_CAPABLE_ENDPOINTS, message, headers=((b"retry-after", b"5"),))
        lacking = [reason for reason in LACKING.values() if reason in reasons]
        if lacking:
            return lacking_refusal(self.requested, lacking[0] if len(lacking) == 1 else NOT_CAPABLE)
        kind = self.kind
        message = f"{model} cannot be used for {kind.path}, which requires the capability {kind.capability}."
        return Refusal(400, errors.MODEL_NOT_CAPABLE, message, param="model")

    # What the client and the record see

    def header_lines(self, route: Route) -> bytes:
        """Return the header lines that name the model and the step that serve the request."""
        return _header_lines(route.model.id, self.stage.number)

    def explanation(self) -> str:
        """Return which steps were left and why, for the message of an error."""
        return "; ".join(f"step {number} was left: {reason}" for number, reason in self.left)

    def scoped_prefix(self, affinity: Affinity | None, model: str) -> Prefix | None:
        """Return the beginning of the prompt for the prefix caches of a model. `affinity`: None without one."""
        if self.prefix is None or affinity is None:
            return None
        key = self._exchange.api_key
        return affinity.scoped(self.prefix, self.session, None if key is None else key.id, model)


@lru_cache(maxsize=4096)
def _header_lines(model: str, step: int) -> bytes:
    return f"x-routerdash-model: {quote(model, safe=_SAFE)}\r\nx-routerdash-step: {step}\r\n".encode()


def _is_longer(other: Route, route: Route) -> bool:
    """Return True if another model may have a longer context than the one at this route."""
    if other.name != route.name:
        return True
    return other.model.max_tokens is not None and other.model.max_tokens > (route.model.max_tokens or 0)
