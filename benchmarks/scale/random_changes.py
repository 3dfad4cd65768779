"""Changes of endpoints and API keys at random, over the API and by SQL, and the API keys that they leave."""

import http.client
import json
import random
import threading
import urllib.error
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from benchmarks.filled import iso
from benchmarks.scale import installation
from benchmarks.simulator import Endpoint, Simulator
from tests.http import Response
from tests.router import RouterDash
from tests.withdrawals import OwnKeys

MODEL = "only-{}"  # the model that only the endpoint with this number has
SHARED_BY = 5  # endpoints with a model in common
EXTRA = 3  # models that an endpoint may also have
PERMISSIONS = ["openai.inference", "openai.models.read"]


class OwnState:
    """The endpoints and API keys of an installation, the secrets included. Used by several threads."""

    def __init__(self, router: RouterDash, simulator: Simulator, endpoints: int) -> None:
        self.router = router
        self.simulated: list[Endpoint] = []
        self.endpoints: list[str] = []  # ids
        for number in range(endpoints):
            self.simulated.append(simulator.add(models=models_of(number, ())))
            self.endpoints.append(router.add(self.simulated[-1], f"server {number}"))
        ((self._owner,),) = router.query("SELECT id FROM users WHERE username = ?", "admin")
        self._lock = threading.Lock()
        self._next_key = 0
        self.secrets: list[str] = []  # of every key, deleted ones too
        self._usable: dict[str, str] = {}  # secret -> id
        self.changes = 0
        self.failed = 0
        self.broken_promises = 0
        for _ in range(20):
            self.create_by_sql()

    def count(self) -> int:
        """Count a change, and return how many there are with it."""
        with self._lock:
            self.changes += 1
            return self.changes

    def note_failure(self) -> None:
        with self._lock:
            self.failed += 1

    def note_broken_promise(self) -> None:
        with self._lock:
            self.broken_promises += 1

    def keep(self, secret: str, key_id: str) -> None:
        with self._lock:
            self.secrets.append(secret)
            self._usable[secret] = key_id

    def take(self, chosen: random.Random) -> tuple[str, str] | None:
        """Remove a usable key, and return its secret and id; None if there are too few."""
        with self._lock:
            if len(self._usable) < 10:
                return None
            secret = chosen.choice(list(self._usable))
            return secret, self._usable.pop(secret)

    def sample(self, number: int) -> list[str]:
        """Return secrets of the keys that the database has, the newest."""
        stored = self.hashes()
        return [secret for secret in reversed(self.secrets) if installation.hash_of(secret) in stored][:number]

    def hashes(self) -> set[str]:
        return {key_hash for (key_hash,) in self.router.query("SELECT key_hash FROM api_keys")}

    def create_by_sql(self) -> None:
        with self._lock:
            self._next_key += 1
            secret = installation.secret(self._next_key)
        key_id = str(uuid.uuid4())
        self.router.query(
            "INSERT INTO api_keys (id, key_hash, name, created_by, created_at, permissions) VALUES (?, ?, ?, ?, ?, ?)",
            key_id, installation.hash_of(secret), f"by SQL {key_id}", self._owner,
            iso(datetime.now(UTC).timestamp()), json.dumps(PERMISSIONS),
        )  # fmt: skip
        self.keep(secret, key_id)

    def delete_by_sql(self, secret: str) -> None:
        self.router.query("DELETE FROM api_keys WHERE key_hash = ?", installation.hash_of(secret))

    def accepts(self, secret: str) -> bool:
        """Return True if the gateway that accepts the connection accepts the key."""
        return self.router.get("/v1/models/none", key=secret).status != 401


def models_of(number: int, extra: tuple[int, ...]) -> list[str]:
    """Return the models of a simulated server."""
    return [MODEL.format(number), f"shared-{number // SHARED_BY}", *(f"extra-{number}-{one}" for one in extra)]


class AnyChange:
    """Makes one random change after the other; the seed decides which."""

    def __init__(self, router: RouterDash, state: OwnState, seed: int) -> None:
        self._router = router
        self._state = state
        self._random = random.Random(seed)
        self._keys = OwnKeys(router)
        self._label = f"driver {seed}"
        self._names = 0
        self._kinds: list[Callable[[], None]] = [
            self._rename, self._limit, self._switch, self._sync, self._create_key, self._delete_key,
            self._create_by_sql, self._delete_by_sql, self._rename_by_sql,
        ]  # fmt: skip

    def make(self) -> None:
        """Make a change. A failure is only counted, because control and gateways are killed at any moment."""
        try:
            self._random.choice(self._kinds)()
        except (OSError, http.client.HTTPException, urllib.error.HTTPError):
            self._state.note_failure()

    def _number(self) -> int:
        return self._random.randrange(len(self._state.endpoints))

    def _name(self) -> str:
        self._names += 1
        return f"{self._label} name {self._names}"

    def _send(self, method: str, path: str, body: Any = None) -> None:
        answer: Response = self._router.request(method, path, body)
        if answer.status != 200:
            self._state.note_failure()

    def _path(self) -> str:
        return f"/api/endpoints/{self._state.endpoints[self._number()]}"

    def _rename(self) -> None:
        self._send("PATCH", self._path(), {"name": self._name()})

    def _limit(self) -> None:
        self._send("PATCH", self._path(), {"max_concurrency": self._random.choice([None, 4, 8, 100])})

    def _switch(self) -> None:
        self._send("POST", f"{self._path()}/{self._random.choice(['disable', 'enable', 'drain', 'enable'])}")

    def _sync(self) -> None:
        number = self._number()
        extra = tuple(self._random.sample(range(EXTRA * 2), EXTRA))
        self._state.simulated[number].set(models=models_of(number, extra))
        self._send("POST", f"/api/endpoints/{self._state.endpoints[number]}/sync")

    def _create_key(self) -> None:
        body = {"name": self._name(), "permissions": PERMISSIONS}
        _, created = self._keys.call("POST", body=body)
        self._state.keep(created["key"], created["id"])

    def _delete_key(self) -> None:
        if (taken := self._state.take(self._random)) is None:
            return self._create_key()
        secret, key_id = taken
        status, _ = self._keys.call("DELETE", f"/{key_id}")
        if status == 204 and self._state.accepts(secret):
            self._state.note_broken_promise()
        return None

    def _create_by_sql(self) -> None:
        self._state.create_by_sql()

    def _delete_by_sql(self) -> None:
        if (taken := self._state.take(self._random)) is not None:
            self._state.delete_by_sql(taken[0])

    def _rename_by_sql(self) -> None:
        endpoint_id = self._state.endpoints[self._number()]
        self._router.query("UPDATE endpoints SET name = ? WHERE id = ?", self._name(), endpoint_id)
