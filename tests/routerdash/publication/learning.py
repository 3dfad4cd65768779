"""Writer, publisher and learner as in control, driven by a test."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from access.models import ApiKey
from endpoints.registry import registry
from gateway.base.config import Config
from gateway.ipc.record import RequestRecord
from gateway.registry.kinds import LENGTHS, SPEEDS
from gateway.registry.schema import Lengths, Speeds, length_key, speed_key
from gateway.registry.store import RegistryStore
from routerdash.publication.learner import Learner
from routerdash.publication.publisher import Publisher
from tests.access.people import make_user
from tests.metrics.learning.work import answered
from tests.metrics.records import AT, KEY, A
from tests.metrics.world import World, own_database
from tests.routerdash.publication import store

T = TypeVar("T")
MODEL, CHAT = "llama:8b", "chat_completions"


class Control:
    """Writer, publisher and learner as in control, driven by a test."""

    def __init__(self, config: Config, start: Callable[[], Publisher], root: Path) -> None:
        self.config, self._start = config, start
        self.world = World(root)
        self.clock = 0.0
        own_database()
        if not ApiKey.objects.filter(id=KEY).exists():
            ApiKey.issue(make_user("keys"), "of requests", (), id=KEY)
        self.restart()

    def restart(self) -> None:
        """Begin with nothing but the database and the registry store, as after a SIGKILL."""
        self.publisher: Publisher = self._start()
        self.learner = Learner(self.publisher, clock=lambda: self.clock, now=lambda: AT)
        registry.subscribe(self.learner.endpoints_changed)
        self.learner.endpoints_changed(None)
        self.world.writer._learned = self.learner.samples_changed
        self.learner.read_again()

    def write(self, *entries: RequestRecord) -> None:
        if entries:
            self.world.gateway(*entries)
        self.world.write()

    def learn(self) -> None:
        """Run the learner until nothing is left that would be published in time."""
        while (due := self.learner.step()) is not None:
            self.clock += due

    def speeds(self, endpoint: str = A, model: str = MODEL) -> Speeds | None:
        return self._read(lambda opened: opened.get(SPEEDS, speed_key(endpoint, model, CHAT)))

    def lengths(self, model: str = "tiny", key: str | None = None) -> Lengths | None:
        return self._read(lambda opened: opened.get(LENGTHS, length_key(model, key)))

    def everything(self) -> list[object]:
        return self._read(lambda opened: [*opened.raw_rows(SPEEDS, b""), *opened.raw_rows(LENGTHS, b"")])

    def version(self) -> int:
        return store.read(self.config).state.version

    def _read(self, read: Callable[[RegistryStore], T]) -> T:
        opened = RegistryStore(store.file_of(self.config).parent)
        with closing(opened), opened.reading():
            return read(opened)


def traffic(count: int, endpoint: str = A, *, ago: float = 0.0, slower: float = 1.0) -> list[RequestRecord]:
    return [
        answered(
            endpoint,
            ago=ago + count - number,
            output_tokens=50 + number % 7 * 20,
            input_tokens=100 + number % 11 * 50,
            duration_us=round(slower * (1_000_000 + number % 7 * 400_000)),
            api_key_id=KEY if number % 2 else None,
        )
        for number in range(count)
    ]
