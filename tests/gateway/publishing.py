"""A registry store that a test publishes, as control does: each call has the whole state."""

from collections.abc import Iterable

from gateway.base.config import Config
from gateway.ipc.live_page import LivePage
from gateway.registry.kinds import ENDPOINTS, KEYS, MODELS
from gateway.registry.schema import PublishedEndpoint, PublishedKey
from gateway.registry.writer import Changes, RegistryWriter, contents_of


class PublishedRegistry:
    """The store of a data directory. It is built at the first call."""

    def __init__(self, config: Config) -> None:
        self.root = config.registry_dir
        self.page = LivePage(config.live_page_path)
        self.writer = RegistryWriter(self.root, self.page)
        self._endpoints: set[str] = set()
        self._keys: set[str] = set()

    def publish(
        self,
        endpoints: Iterable[PublishedEndpoint],
        keys: Iterable[PublishedKey] = (),
        database_id: str = "database-1",
    ) -> int:
        """Publish the whole state, and return its version."""
        endpoints, keys = list(endpoints), list(keys)
        state = self.writer.state()
        if state is None or state.database_id != database_id:
            self.writer.rebuild(database_id, contents_of(endpoints, keys))
        else:
            changes = Changes()
            changes.put(ENDPOINTS, dict.fromkeys(self._endpoints))
            changes.put(KEYS, dict.fromkeys(self._keys))
            changes.put(KEYS, {key.hash: key for key in keys})
            for endpoint in endpoints:
                changes.put(ENDPOINTS, {endpoint.id: endpoint.facts()})
                changes.put(MODELS, {endpoint.id: endpoint.models})
            self.writer.apply(changes)
        self._endpoints = {endpoint.id for endpoint in endpoints}
        self._keys = {key.hash for key in keys}
        return self.page.version

    def close(self) -> None:
        self.writer.close()
