"""State of the running installation, for pages and API: see metrics.memory.installation.InstallationState."""

from collections.abc import Callable, Container, Iterable, Mapping
from datetime import datetime

from django.utils.translation import gettext

from access.directory import KeyEntry, access, read_key
from access.keys.names import KeyNames
from access.limits.reading import limit_changes
from endpoints.engine_reports import EngineReading
from endpoints.model_names.registry import model_names
from endpoints.registry import registry
from gateway.ipc.counters.limit_use import LimitUse
from gateway.ipc.limit_hits import Hits
from gateway.registry.reader import NOT_READ, RegistryReader, StoreUnreadable
from gateway.registry.schema import EndpointFacts, EngineState, Lengths, Model, Speeds, ref, speed_key
from gateway.routing.affinity.affinity import Affinity
from gateway.routing.model_names import ModelNames
from gateway.routing.set_aside import AsideNote
from metrics.learning.prefixes import PrefixShare
from metrics.memory.backlog import WriterHandle
from routerdash.publication.learner import Learner
from routerdash.publication.publisher import Publisher


class RunningInstallation:
    """Implementation of InstallationState in the control process, by the live page and the registry store."""

    def __init__(
        self,
        publisher: Publisher,
        writer: WriterHandle,
        limit_hits: Hits,
        learner: Learner,
        engine: Callable[[str], EngineReading | None] = lambda endpoint_id: None,
    ) -> None:
        """`engine(id)`: what the engine of an endpoint last reported."""
        self._publisher = publisher
        self._learner = learner
        self.engine = engine
        self.writer: WriterHandle | None = writer
        self.limit_hits = limit_hits
        self._key_names = KeyNames()
        access.subscribe_to_keys(lambda keys: self._key_names.expire())
        self.caches_outdated = False  # set by control while endpoints, users and keys cannot be read

    def in_flight(self) -> Mapping[str, int]:
        return self._publisher.live.in_flight()

    def waiting(self) -> int:
        return self._publisher.live.waiting()

    def waiting_interactive(self) -> int:
        return self._publisher.live.waiting_interactive()

    def trials(self) -> Mapping[str, int]:
        return self._publisher.live.trials()

    def aside(self) -> Mapping[str, AsideNote]:
        return self._publisher.live.aside()

    def limit_use(self, level: str, subject_id: str) -> LimitUse:
        return self._publisher.live.limit_use(level, subject_id)

    def routes(self, model: str) -> list[tuple[EndpointFacts, Model]]:
        try:
            return self._publisher.routes(model)
        except StoreUnreadable:
            return []

    def model_names(self) -> ModelNames | None:
        try:
            rows = self._publisher.look_up(RegistryReader.model_names)
        except StoreUnreadable:
            return None
        return ModelNames(rows) if rows else None

    def speeds(self, endpoint_id: str, model_id: str, kind: str) -> Speeds | None:
        try:
            found = self._publisher.look_up(lambda reader: reader.speeds(speed_key(endpoint_id, model_id, kind)))
        except StoreUnreadable:
            return None
        return found if found.write else None

    def lengths(self, model: str, key_id: str | None) -> Lengths:
        try:
            return self._publisher.look_up(lambda reader: reader.lengths(model, key_id))
        except StoreUnreadable:
            return Lengths(None)

    def prefix_share(self) -> PrefixShare:
        return self._learner.prefix_share

    def engine_state(self, endpoint_id: str) -> EngineState:
        try:
            return self._publisher.look_up(lambda reader: reader.engine(ref(endpoint_id)))
        except StoreUnreadable:
            return NOT_READ

    def affinity(self) -> Affinity | None:
        return self._publisher.live.affinity()

    def pending(self) -> Mapping[str, int]:
        return self._publisher.live.pending()

    def revision(self) -> int:
        caches = (registry, access, model_names, limit_changes)
        return self._publisher.revision + sum(cache.failed_reads for cache in caches)

    def is_pending(self) -> bool:
        return self._publisher.is_pending()

    def pending_reason(self) -> str | None:
        if registry.outdated or access.outdated or model_names.outdated or limit_changes.outdated:
            return gettext("the database could not be read again")
        return self._publisher.pending_reason()

    def publication_failure(self) -> str | None:
        return self._publisher.failure

    def drifted_at(self) -> float | None:
        return self._publisher.drifted_at

    def watch(self, until: int) -> int:
        return self._publisher.live.watch(until)

    def cancel(self, request_id: str) -> None:
        self._publisher.live.cancel(request_id)

    def cancelled(self) -> Container[str]:
        return self._publisher.live.cancelled()

    def unrecorded(self) -> int:
        return self._publisher.live.unrecorded()

    def is_serving(self) -> bool:
        return self._publisher.is_serving

    def is_outdated(self) -> bool:
        return self.caches_outdated

    def find_key(self, hashed: str) -> KeyEntry | None:
        """Return the published API key with this hash, from the registry store."""
        try:
            key = self._publisher.key(hashed)
        except StoreUnreadable:
            return read_key(hashed)
        if key is None:
            return None
        return KeyEntry(
            key.id, hashed, key.owner_id, key.permissions, key.expires_at, key.external, key.enabled, key.rules
        )

    def key_names(self, ids: Iterable[str]) -> Mapping[str, str]:
        return self._key_names.of(ids)

    def generated_passwords(self) -> list[tuple[str, str, datetime]]:
        return access.generated_passwords()
