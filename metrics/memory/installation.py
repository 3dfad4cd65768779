"""State of the running installation beside the journals: gateways, caches, limits."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from endpoints.engine_reports import EngineReading
from gateway.ipc.bound_hits import Hits
from gateway.ipc.counters.limit_use import LimitUse
from gateway.model_names.plan import ModelNames
from gateway.registry.schema import EndpointFacts, EngineState, Lengths, Model, Speeds
from gateway.routing.affinity.affinity import Affinity
from gateway.routing.set_aside import AsideNote
from metrics.learning.prefixes import PrefixShare
from metrics.memory.backlog import WriterHandle


class InteractiveWaits(NamedTuple):
    """Requests in the queue that are no bulk requests, over all workers."""

    number: int = 0
    endpoints: frozenset[str] = frozenset()  # that they wait for; with more than 64 endpoints, others, too


@dataclass(slots=True, kw_only=True)
class InstallationState:
    """State of the running installation, as the control process knows it, for pages and API.

    The defaults are those of a process that runs none: tests, shell and commands. Control has those of
    `routerdash.processes.wiring`. Counts are over all workers, and mappings have endpoint ids as keys.
    """

    bound_hits: Hits = field(default_factory=Hits)  # of resource limits, over all processes
    writer: WriterHandle | None = None  # of the database; None: this process has none

    # Requests
    in_flight: Callable[[], Mapping[str, int]] = dict
    waiting: Callable[[], int] = lambda: 0  # requests in the queues
    waiting_interactive: Callable[[], InteractiveWaits] = InteractiveWaits  # those of them that do not give way
    pending: Callable[[], Mapping[str, int]] = dict  # prompt tokens whose responses have not begun
    # Lets workers publish their running requests until a second, and returns the previous value.
    watch: Callable[[int], int] = lambda until: 0
    # Lets the worker that runs a request, by its id, cancel it. Raises OSError.
    cancel: Callable[[str], None] = lambda request_id: None
    cancelled: Callable[[], Container[str]] = frozenset  # ids of the requests that were cancelled in the last minute
    # Requests that no journal has accepted or reported as lost yet; unless `lost=False`, with those that a fault of
    # RouterDash has left without a record (gateway.ipc.request_counts).
    unrecorded: Callable[..., int] = lambda *, lost=True: 0

    # Endpoints
    trials: Callable[[], Mapping[str, int]] = dict  # BreakerCells.trial_due, of circuit breakers that are not closed
    # Endpoints that get no requests now, or lack a kind of requests.
    aside: Callable[[], Mapping[str, AsideNote]] = dict
    # The last report of an endpoint's engine; None: there is none.
    engine: Callable[[str], EngineReading | None] = lambda endpoint_id: None
    # Present use of the limits of an API key, a user, or everyone, by level and id.
    limit_use: Callable[[str, str], LimitUse] = lambda level, subject_id: LimitUse()

    # Published for the gateways
    # Endpoints, in any state, that have a model of this name.
    routes: Callable[[str], list[tuple[EndpointFacts, Model]]] = lambda model: []
    model_names: Callable[[], ModelNames | None] = lambda: None  # None: there are none
    # Speeds of a kind of requests for a model at an endpoint; None: there are none, or they cannot be read.
    speeds: Callable[[str, str, str], Speeds | None] = lambda endpoint_id, model_id, kind: None
    # Lengths of the requests for a model, of an API key if there are.
    lengths: Callable[[str, str | None], Lengths] = lambda model, key_id: Lengths(None)
    engine_state: Callable[[str], EngineState] = lambda endpoint_id: EngineState(0.0)
    affinity: Callable[[], Affinity | None] = lambda: None  # opens the prefix affinity to read it; None: it is off
    # How many of the responses that routing learns from found their prefix, over all endpoints.
    prefix_share: Callable[[], PrefixShare] = PrefixShare

    # Publication
    revision: Callable[[], int] = lambda: 0  # grows with each change that is to be published
    is_pending: Callable[[], bool] = lambda: False  # a gateway has not confirmed the last change
    # Why the last change is not in effect in every gateway; None: it is.
    pending_reason: Callable[[], str | None] = lambda: None
    publication_failure: Callable[[], str | None] = lambda: None  # why changes cannot be published; None: they can
    # When (seconds since 1970) the audit last found a difference between database and gateways.
    drifted_at: Callable[[], float | None] = lambda: None
    is_serving: Callable[[], bool] = lambda: False  # gateways have endpoints and keys to serve with
    is_outdated: Callable[[], bool] = lambda: False  # endpoints, users and keys cannot be read from the database

    # Users
    # Names of API keys by id; while the database is away, those known before.
    key_names: Callable[[Iterable[str]], Mapping[str, str]] = lambda ids: {}
    # Administrators that still have a generated password: user id, name, since when.
    generated_passwords: Callable[[], list[tuple[str, str, datetime]]] = list
