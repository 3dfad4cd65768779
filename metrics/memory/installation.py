"""State of the running installation beside the journals: gateways, caches, limits. Control has the implementation."""

from collections.abc import Callable, Container, Iterable, Mapping
from datetime import datetime
from typing import Protocol

from endpoints.engine_reports import EngineReading
from gateway.ipc.counters.limit_use import LimitUse
from gateway.ipc.limit_hits import Hits
from gateway.registry.schema import EndpointFacts, EngineState, Lengths, Model, Speeds
from gateway.routing.affinity.affinity import Affinity
from gateway.routing.model_names import ModelNames
from gateway.routing.set_aside import AsideNote
from metrics.learning.prefixes import PrefixShare
from metrics.memory.backlog import WriterHandle


class InstallationState(Protocol):
    """State of the running installation, as the control process knows it.

    `routerdash.processes.running_installation` implements it; StoppedInstallation is its null object.
    """

    @property
    def limit_hits(self) -> Hits:
        """Hits of resource limits, over all processes."""
        ...

    @property
    def writer(self) -> WriterHandle | None:
        """The database writer; None if this process has none."""
        ...

    def in_flight(self) -> Mapping[str, int]:
        """Return the running requests by endpoint id, over all workers."""
        ...

    def waiting(self) -> int:
        """Return the number of requests in the queues of all workers."""
        ...

    def waiting_interactive(self) -> int:
        """Return the number of those among them that do not give way: they are no bulk requests."""
        ...

    def trials(self) -> Mapping[str, int]:
        """Return BreakerCells.trial_due by endpoint id, for circuit breakers that are not closed."""
        ...

    def aside(self) -> Mapping[str, AsideNote]:
        """Return the endpoints that get no requests now, or lack a kind of requests, by id."""
        ...

    def limit_use(self, level: str, subject_id: str) -> LimitUse:
        """Return the present use of the limits of an API key, a user, or everyone, over all workers."""
        ...

    def routes(self, model: str) -> list[tuple[EndpointFacts, Model]]:
        """Return the published endpoints, in any state, that have a model of this name."""
        ...

    def model_names(self) -> ModelNames | None:
        """Return the published model names; None if there are none."""
        ...

    def speeds(self, endpoint_id: str, model_id: str, kind: str) -> Speeds | None:
        """Return the published speeds of a model at an endpoint; None if there are none, or they cannot be read."""
        ...

    def lengths(self, model: str, key_id: str | None) -> Lengths:
        """Return the published lengths of the requests for a model, of an API key if there are."""
        ...

    @property
    def engine(self) -> Callable[[str], EngineReading | None]:
        """A function that returns what the engine of an endpoint, by its id, last reported; None: that is unknown."""
        ...

    def prefix_share(self) -> PrefixShare:
        """Return how many of the responses that routing learns from found their prefix, over all endpoints."""
        ...

    def engine_state(self, endpoint_id: str) -> EngineState:
        """Return the published state of an endpoint's engine."""
        ...

    def affinity(self) -> Affinity | None:
        """Open the prefix affinity of the gateways, to read it; None if it is off."""
        ...

    def pending(self) -> Mapping[str, int]:
        """Return the prompt tokens by endpoint id whose responses have not begun, over all workers."""
        ...

    def revision(self) -> int:
        """Return a number that grows with each change that is to be published for the gateways."""
        ...

    def is_pending(self) -> bool:
        """Return True while gateways that could read the last change have not confirmed it."""
        ...

    def pending_reason(self) -> str | None:
        """Return why the last change is not in effect in every gateway; None if it is."""
        ...

    def publication_failure(self) -> str | None:
        """Return why changes cannot be published for the gateways; None if they can."""
        ...

    def drifted_at(self) -> float | None:
        """Return when (seconds since 1970) the audit last found a difference between database and gateways."""
        ...

    def watch(self, until: int) -> int:
        """Let workers publish their running requests until this second. Return the previous value."""
        ...

    def cancel(self, request_id: str) -> None:
        """Let the worker that runs this request cancel it. Raises OSError."""
        ...

    def cancelled(self) -> Container[str]:
        """Return the ids of the requests that were cancelled in the last minute."""
        ...

    def unrecorded(self) -> int:
        """Return the number of requests that no journal has accepted or reported as lost yet."""
        ...

    def is_serving(self) -> bool:
        """Return True if gateways have endpoints and keys to serve with."""
        ...

    def is_outdated(self) -> bool:
        """Return True if endpoints, users and keys cannot be read again from the database."""
        ...

    def key_names(self, ids: Iterable[str]) -> Mapping[str, str]:
        """Return the names of these API keys by id; while the database is away, those known before."""
        ...

    def generated_passwords(self) -> list[tuple[str, str, datetime]]:
        """Return the administrators that still have a generated password: user id, name, since when."""
        ...


class StoppedInstallation:
    """Null object: the state of an installation that does not run, for tests, shell and commands."""

    def __init__(self) -> None:
        self.limit_hits = Hits()
        self.writer: WriterHandle | None = None
        self.engine: Callable[[str], EngineReading | None] = lambda endpoint_id: None

    def in_flight(self) -> Mapping[str, int]:
        return {}

    def waiting(self) -> int:
        return 0

    def waiting_interactive(self) -> int:
        return 0

    def trials(self) -> Mapping[str, int]:
        return {}

    def aside(self) -> Mapping[str, AsideNote]:
        return {}

    def limit_use(self, level: str, subject_id: str) -> LimitUse:
        return LimitUse()

    def routes(self, model: str) -> list[tuple[EndpointFacts, Model]]:
        return []

    def model_names(self) -> ModelNames | None:
        return None

    def speeds(self, endpoint_id: str, model_id: str, kind: str) -> Speeds | None:
        return None

    def lengths(self, model: str, key_id: str | None) -> Lengths:
        return Lengths(None)

    def prefix_share(self) -> PrefixShare:
        return PrefixShare()

    def engine_state(self, endpoint_id: str) -> EngineState:
        return EngineState(0.0)

    def affinity(self) -> Affinity | None:
        return None

    def pending(self) -> Mapping[str, int]:
        return {}

    def revision(self) -> int:
        return 0

    def is_pending(self) -> bool:
        return False

    def pending_reason(self) -> str | None:
        return None

    def publication_failure(self) -> str | None:
        return None

    def drifted_at(self) -> float | None:
        return None

    def watch(self, until: int) -> int:
        return 0

    def cancel(self, request_id: str) -> None:
        pass

    def cancelled(self) -> Container[str]:
        return frozenset()

    def unrecorded(self) -> int:
        return 0

    def is_serving(self) -> bool:
        return False

    def is_outdated(self) -> bool:
        return False

    def key_names(self, ids: Iterable[str]) -> Mapping[str, str]:
        return {}

    def generated_passwords(self) -> list[tuple[str, str, datetime]]:
        return []
