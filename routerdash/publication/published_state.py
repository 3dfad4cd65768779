"""The state that is published for gateways, as pages and API of control read it, and the changes on their way."""

from django.utils.translation import gettext

from access.directory import KeyEntry, access, read_key
from access.limits.reading import limit_changes
from endpoints.model_names.name_cache import model_names
from endpoints.registry import registry
from gateway.model_names.plan import ModelNames
from gateway.registry.reader import RegistryReader, StoreUnreadable
from gateway.registry.schema import NOT_READ, EndpointFacts, EngineState, Lengths, Model, Speeds, ref, speed_key
from routerdash.publication.publisher import Publisher


class PublishedState:
    """The registry store, where a store that cannot be read has nothing; and the changes on their way to it."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

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
            speeds = self._publisher.look_up(lambda reader: reader.speeds(speed_key(endpoint_id, model_id, kind)))
        except StoreUnreadable:
            return None
        return speeds if speeds.write else None

    def lengths(self, model: str, key_id: str | None) -> Lengths:
        try:
            return self._publisher.look_up(lambda reader: reader.lengths(model, key_id))
        except StoreUnreadable:
            return Lengths(None)

    def engine_state(self, endpoint_id: str) -> EngineState:
        try:
            return self._publisher.look_up(lambda reader: reader.engine(ref(endpoint_id)))
        except StoreUnreadable:
            return NOT_READ

    def find_key(self, hashed: str) -> KeyEntry | None:
        """Return the published API key with this hash; while the store cannot be read, that of the database."""
        try:
            key = self._publisher.key(hashed)
        except StoreUnreadable:
            return read_key(hashed)
        if key is None:
            return None
        return KeyEntry(
            key.id, hashed, key.owner_id, key.permissions, key.expires_at, key.external, key.enabled, key.rules
        )

    def revision(self) -> int:
        caches = (registry, access, model_names, limit_changes)
        return self._publisher.revision + sum(cache.failed_reads for cache in caches)

    def pending_reason(self) -> str | None:
        if registry.outdated or access.outdated or model_names.outdated or limit_changes.outdated:
            return gettext("the database could not be read again")
        return self._publisher.pending_reason()
