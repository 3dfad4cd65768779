"""Writer and reader of the torture test, each in a process of its own.

A process ends well when it has reached the last version, and its store and memory are exactly right. It ends with an
error at the first wrong answer.
"""

import asyncio
import logging
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gateway.base.errors import Refusal
from gateway.base.sealing import Sealer
from gateway.ipc.live_page import LivePage
from gateway.registry import folders
from gateway.registry import reader as reader_module
from gateway.registry import writer as writer_module
from gateway.registry.kinds import CHANGES, ENDPOINTS, KEYS, MODELS, NAMES, Table
from gateway.registry.schema import ref
from gateway.registry.store import RegistryStore, is_damage
from gateway.registry.writer import RegistryWriter, contents_of
from gateway.routing import roster as roster_module
from gateway.routing.roster import Roster
from gateway.upstream.pool import Sweeper
from tests.torture.registry.broken import RULES
from tests.torture.registry.history import BULK, FIRST, KEY_COUNT, History, digest

WRITE, READ = "writer", "reader"
DATABASE = "database-1"
KEPT = 4  # versions in the log: few, so that readers fall off it
STEPS = 8  # versions that a reader follows one by one
CACHED = 10  # values in each half of a cache
NEVER = 1 << 40


class Wrong(Exception):
    """An answer, or a row of the store, is not what it must be."""


def require(right: bool, text: str) -> None:
    if not right:
        raise Wrong(text)


def check_store(store: RegistryStore, history: History) -> None:
    """Compare all rows of the store with the history. Raises Wrong."""
    with store.reading():
        version = store.state().version
        history.to(version)
        require(history.version == version, f"the store is at {version}, before {history.version}")
        endpoints = {ref(endpoint_id): facts for endpoint_id, facts in history.endpoints.items()}
        models = {
            ref(endpoint_id) + ref(model.id): model for endpoint_id, all_ in history.models.items() for model in all_
        }
        tables: tuple[tuple[Table[Any], Mapping[bytes, object]], ...] = (
            (ENDPOINTS, endpoints),
            (MODELS, models),
            (NAMES, history.name_rows()),
            (KEYS, history.key_rows()),
        )
        for table, expected in tables:
            stored = {key: table.unpack(raw) for key, raw in store.raw_rows(table)}
            differing = [key.hex() for key in stored.keys() | expected.keys() if stored.get(key) != expected.get(key)]
            require(not differing, f"{table.create} at {version}: rows {differing[:3]} differ")
        logged = [int.from_bytes(key, "big") for key, _ in store.raw_rows(CHANGES)]
        require(logged == list(range(version - len(logged) + 1, version + 1)), f"log {logged} at {version}")
        require(len(logged) <= KEPT, f"{len(logged)} versions in the log")


# Writer


class Fuse:
    """Kills this process at one of its next statements or file operations, if it is armed."""

    def __init__(self, count: int) -> None:
        self._left = count

    def burn(self, *_: object) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        configure = RegistryStore._configure

        def traced(store: RegistryStore, *, writable: bool, new: bool) -> None:
            store._database.set_trace_callback(self.burn)  # before each statement, COMMIT included
            configure(store, writable=writable, new=new)

        RegistryStore._configure = traced  # type: ignore[method-assign, assignment]
        for owner, name in ((RegistryWriter, "_publish"), (folders, "use"), (folders, "remove")):
            setattr(owner, name, self._before_and_after(getattr(owner, name)))

    def _before_and_after(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def fused(*arguments: Any) -> None:
            self.burn()
            function(*arguments)
            self.burn()

        return fused


class Writing:
    def __init__(self, root: Path, seed: int) -> None:
        self.page = LivePage(root / "live-page")
        self.writer = RegistryWriter(root / "registry", self.page)
        self._seed = seed
        self.history = History(seed)

    def start(self) -> None:
        """Take up the store that is there, as control does at its start."""
        if self.writer.is_usable:
            self.writer.publish()
            assert self.writer._store is not None
            check_store(self.writer._store, self.history)
            self.page.clear_dead_rows()
        else:
            self.rebuild()

    def rebuild(self) -> None:
        stored = self.writer._stored_version()
        version = 1 + max(self.page.version, self.page.newest_applied(), stored)
        self.history = History(self._seed)
        self.history.to(max(version, FIRST))
        keys = sorted(self.history.keys.items())
        self.writer.rebuild(DATABASE, contents_of(self.history.published(), [key for _, key in keys]))
        state = self.writer.state()
        assert state is not None
        require(state.version == version, f"the rebuilt store has version {state.version}, not {version}")

    def step(self) -> None:
        if not self.writer.is_usable:
            self.rebuild()
            return
        changes = self.history.step()
        version = self.writer.apply(changes)
        require(version == self.history.version, f"version {version} instead of {self.history.version}")


def write(root: Path, seed: int, last: int) -> None:
    """Write until the last version; if there is none, kill this process at a random point."""
    writer_module.KEPT_CHANGES, writer_module.MAX_NAMED = KEPT, BULK // 2
    rng = random.Random()
    if last == NEVER:
        Fuse(int(10 ** rng.uniform(0.5, 3.5))).install()  # soon, or only after many changes
    writing: Writing | None = None
    while writing is None or writing.history.version < last:
        try:
            if writing is None:
                writing = Writing(root, seed)
                writing.start()
            else:
                writing.step()
        except Exception as error:
            if not is_damage(error):
                raise
            assert writing is not None  # a writer can be made of any store
            writing.rebuild()
        time.sleep(0.003 * rng.random())
    store = writing.writer._store
    assert store is not None
    check_store(store, History(seed))
    while writing.page.behind(last):  # readers exit when they have it
        time.sleep(0.01)
        writing.page.clear_dead_rows()


# Reader


class Reading:
    def __init__(self, root: Path, seed: int, number: int) -> None:
        self._page = LivePage(root / "live-page")
        self._row = self._page.claim_row()
        self._roster = Roster(root / "registry", self._page, self._row, Sealer([]), Sweeper(asyncio.new_event_loop()))
        self._seed = seed
        self._history = History(seed)
        self._name = f"reader {number}"
        self._rng = random.Random()
        self.right = self.refused = 0

    @property
    def version(self) -> int:
        return self._roster.version

    def turn(self) -> None:
        """Follow, look up twenty keys or names, and compare everything."""
        before = self.version
        self._roster.refresh()
        require(self.version >= before, f"{self._name}: version {self.version} after {before}")
        self._row.set_applied(self.version)
        for _ in range(20):
            if self._rng.random() < 0.5:
                self._look_up_a_key()
            else:
                self._look_up_a_name()
        self._catch_up()
        known = {one.id: one.facts for one in self._roster.endpoints.values()}
        require(known == self._history.endpoints, f"{self._name}: endpoints at {self.version}")

    def _look_up_a_key(self) -> None:
        revoked = self._history.revoked
        sha256 = digest(self._rng.randrange(KEY_COUNT))
        if revoked and self._rng.random() < 0.4:
            sha256 = self._rng.choice(revoked)
        self._compare(sha256.hex(), lambda: self._roster.key_of(sha256), lambda: self._history.key(sha256))

    def _look_up_a_name(self) -> None:
        number = self._rng.randrange(60)
        name = self._rng.choice((f"org/M-{number}", f"m-{number}", f"M-{number}", "ALIAS", "alias", "x3", "nobody"))
        self._compare(
            name,
            lambda: [(route.endpoint.id, route.model) for route in self._roster.routes(name)],
            lambda: self._history.routes(name),
        )

    def _compare(self, what: str, look_up: Callable[[], object], true: Callable[[], object]) -> None:
        try:
            looked_up = look_up()
        except Refusal:  # 503: damaged, or not built yet
            self.refused += 1
            return
        self._catch_up()
        expected = true()
        require(looked_up == expected, f"{self._name}: {what} at {self.version}: {looked_up}, not {expected}")
        self.right += 1

    def _catch_up(self) -> None:
        if self._history.version > self.version:  # of a store that was rebuilt
            self._history = History(self._seed)
        self._history.to(self.version)

    def check_everything(self) -> None:
        store = self._roster.reader._store
        require(store is not None, f"{self._name} has no store")
        assert store is not None
        check_store(store, History(self._seed))

    def pause(self) -> None:
        self._row.set_applied(self.version)
        roll = self._rng.random()
        time.sleep(0.002 * roll)
        if roll < 0.05:  # let the log go on, perhaps until it has forgotten what this process knows
            deadline, wanted = time.monotonic() + 1.0, self.version + self._rng.randrange(2 * STEPS)
            while self._page.version < wanted and time.monotonic() < deadline:
                time.sleep(0.01)


def read(root: Path, seed: int, last: int, number: int) -> Reading:
    reader_module.MAX_STEPS, KEYS.cached, roster_module.CACHED_NAMES = STEPS, CACHED, CACHED
    reading = Reading(root, seed, number)
    while reading.version < last:
        reading.turn()
        reading.pause()
    reading.check_everything()
    reading._row.release()
    return reading


def run(role: str, root: Path, seed: int, last: int, number: int, rule: str) -> None:
    """Run one process, and write its result into a file beside the store: of a reader, counts; after an error, it."""
    logging.disable()
    if rule:
        RULES[rule]()
    result = result_path(root, role, number)
    try:
        if role == WRITE:
            write(root, seed, last)
        else:
            reading = read(root, seed, last, number)
            result.write_text(f"{reading.right} right answers, {reading.refused} refused")
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        result.write_text(f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})")
        raise SystemExit(1) from error


def result_path(root: Path, role: str, number: int) -> Path:
    return root / f"{role}-{number}"
