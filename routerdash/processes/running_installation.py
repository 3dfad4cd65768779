"""State of the running installation, for pages and API: see metrics.memory.installation.InstallationState."""

from collections.abc import Container, Iterable, Mapping
from datetime import datetime

from django.utils.translation import gettext

from access.directory import KeyEntry, access, read_key
from access.key_names import KeyNames
from endpoints.registry import registry
from gateway.ipc.limit_hits import Hits
from gateway.registry.reader import StoreUnreadable
from gateway.registry.schema import EndpointFacts, Lengths, Model, Speeds, speed_key
from metrics.learning.prefixes import PrefixShare
from metrics.memory.backlog import WriterHandle
from routerdash.publication.learner import Learner
from routerdash.publication.publisher import Publisher


class RunningInstallation:
    """Implementation of InstallationState in the control process, by the live page and the registry store."""

    def __init__(self, publisher: Publisher, writer: WriterHandle, limit_hits: Hits, learner: Learner) -> None:
        self._publisher = publisher
        self._learner = learner
        self.writer: WriterHandle | None = writer
        self.limit_hits = limit_hits
        self._key_names = KeyNames()
        access.subscribe_to_keys(lambda keys: self._key_names.expire())
        self.caches_outdated = False  # set by control while endpoints, users and keys cannot be read

    def in_flight(self) -> Mapping[str, int]:
        return self._publisher.live.in_flight()

    def waiting(self) -> int:
        return self._publisher.live.waiting()

    def trials(self) -> Mapping[str, int]:
        return self._publisher.live.trials()

    def routes(self, model: str) -> list[tuple[EndpointFacts, Model]]:
        try:
            return self._publisher.routes(model)
        except StoreUnreadable:
            return []

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

    def pending(self) -> Mapping[str, int]:
        return self._publisher.live.pending()

    def revision(self) -> int:
        return self._publisher.revision + registry.failed_reads + access.failed_reads

    def is_pending(self) -> bool:
        return self._publisher.is_pending()

    def pending_reason(self) -> str | None:
        if registry.outdated or access.outdated:
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
        return KeyEntry(key.id, hashed, key.owner_id, key.permissions, key.expires_at)

    def key_names(self, ids: Iterable[str]) -> Mapping[str, str]:
        return self._key_names.of(ids)

    def generated_passwords(self) -> list[tuple[str, str, datetime]]:
        return access.generated_passwords()
