"""What a registry store must contain at each version."""

import hashlib
import random
from collections.abc import Iterable

import msgspec

from gateway.registry.kinds import ENDPOINTS, KEYS, MODELS
from gateway.registry.schema import ApiKey, EndpointFacts, KeyFacts, Model, PublishedEndpoint, PublishedKey, ref
from gateway.registry.writer import Changes

FIRST = 1  # the version of the first, empty store
ENDPOINT_COUNT, MODEL_COUNT, KEY_COUNT = 40, 60, 60  # at most: few, so that caches often have what changes
BULK = 40  # keys in a change that names too many rows


def digest(number: int) -> bytes:
    return hashlib.sha256(b"key %d" % number).digest()


class History:
    """The state at one version. It only goes forward."""

    def __init__(self, seed: int) -> None:
        self.version = FIRST
        self.endpoints: dict[str, EndpointFacts] = {}
        self.models: dict[str, list[Model]] = {}
        self.keys: dict[bytes, PublishedKey] = {}  # by SHA-256
        self.revoked: list[bytes] = []  # the last ones
        self._seed = seed
        self._rng = random.Random()

    def to(self, version: int) -> None:
        while self.version < version:
            self.step()

    def step(self) -> Changes:
        """Go to the next version, and return the changes that lead there. Each differs from what was before."""
        self.version += 1
        self._rng.seed(f"{self._seed}:{self.version}")
        changes = self._changes()
        for endpoint_id, facts in changes.of(ENDPOINTS).items():
            if facts is None:
                del self.endpoints[endpoint_id], self.models[endpoint_id]
            else:
                self.endpoints[endpoint_id] = facts
        self.models.update({endpoint_id: list(models or ()) for endpoint_id, models in changes.of(MODELS).items()})
        for hashed, key in changes.of(KEYS).items():
            if key is None:
                self.revoked = [*self.revoked[-4:], bytes.fromhex(hashed)]
                del self.keys[bytes.fromhex(hashed)]
            else:
                self.keys[bytes.fromhex(hashed)] = key
        return changes

    def _changes(self) -> Changes:
        rng, some, roll = self._rng, sorted(self.endpoints), self._rng.random()
        if not some or roll < 0.12:
            return self._whole(rng.randrange(ENDPOINT_COUNT))
        chosen = rng.choice(some)
        if roll < 0.17:
            return Changes(endpoints={chosen: None})
        if roll < 0.45:
            return Changes(endpoints={chosen: self._facts(self.endpoints[chosen].slot)})
        if roll < 0.57:
            return self._new_models(chosen)
        if roll < 0.6:
            return Changes(
                endpoints={one: self._facts(self.endpoints[one].slot) for one in rng.sample(some, min(8, len(some)))}
            )
        if roll < 0.74 or not self.keys:
            return Changes(keys=self._some_keys(1))
        if roll < 0.9:
            return Changes(keys={rng.choice(sorted(self.keys)).hex(): None})
        if roll < 0.91:
            return Changes(keys=self._some_keys(BULK))
        return self._renewed_key()

    def _whole(self, number: int) -> Changes:
        endpoint_id = f"endpoint-{number}"
        return Changes(
            endpoints={endpoint_id: self._facts(number)},
            models={endpoint_id: self._models(self._rng.randrange(12))},
        )

    def _facts(self, slot: int) -> EndpointFacts:
        large = "x" * self._rng.choice([0, 0, 100, 4000, 60_000 if self._rng.random() < 0.1 else 0])
        return EndpointFacts(
            id=f"endpoint-{slot}",
            slot=slot,
            name=f"{self.version} {large}",
            base_url="http://127.0.0.1:1",
            kind="vllm",
            status=self._rng.choice(["online", "offline"]),
            max_concurrency=self.version,
        )

    def _models(self, count: int) -> list[Model]:
        rng, made = self._rng, []
        for number in rng.sample(range(MODEL_COUNT), count):
            aliases = ("Alias", "alias", f"x{number % 7}", f"X{number % 5}")
            canonical = f"M-{number}" if rng.random() < 0.7 else None
            made.append(Model(f"org/M-{number}", canonical, tuple(rng.sample(aliases, 2)), max_tokens=self.version))
        return made

    def _new_models(self, endpoint_id: str) -> Changes:
        """Drop some models and add others, perhaps with a change of the endpoint in the same transaction."""
        kept = [model for model in self.models[endpoint_id] if self._rng.random() < 0.8]
        known = {model.id for model in kept}
        added = [model for model in self._models(4) if model.id not in known]
        changes = Changes(models={endpoint_id: [*added, *kept]})
        if kept == self.models[endpoint_id] or self._rng.random() < 0.5:
            changes.put(ENDPOINTS, {endpoint_id: self._facts(self.endpoints[endpoint_id].slot)})
        return changes

    def _some_keys(self, count: int) -> dict[str, PublishedKey | None]:
        return {digest(number).hex(): self._key(number) for number in self._rng.sample(range(KEY_COUNT), count)}

    def _key(self, number: int) -> PublishedKey:
        permissions = ("openai.inference",) if self._rng.random() < 0.5 else ()
        return PublishedKey(f"key-{number}", digest(number).hex(), permissions, 2e9 + self.version, f"{self.version}")

    def _renewed_key(self) -> Changes:
        """Give a key another hash; its id stays."""
        old = self._rng.choice(sorted(self.keys))
        new = hashlib.sha256(b"%d" % self.version).digest()
        moved = msgspec.structs.replace(self.keys[old], hash=new.hex(), owner_id=f"{self.version}")
        return Changes(keys={old.hex(): None, new.hex(): moved})

    # What is true at this version. Nothing here uses the code of the store that decides.

    def published(self) -> Iterable[PublishedEndpoint]:
        for endpoint_id, facts in self.endpoints.items():
            fields = {name: getattr(facts, name) for name in EndpointFacts.__struct_fields__}
            yield PublishedEndpoint(**fields, models=tuple(self.models[endpoint_id]))

    def key(self, sha256: bytes) -> ApiKey | None:
        facts = self.keys.get(sha256)
        if facts is None:
            return None
        return ApiKey(facts.id, sha256, facts.permissions, facts.expires_at, owner_id=facts.owner_id)

    def key_rows(self) -> dict[bytes, KeyFacts]:
        return {sha256: KeyFacts(k.id, k.permissions, k.expires_at, k.owner_id) for sha256, k in self.keys.items()}

    def routes(self, name: str) -> list[tuple[str, Model]]:
        """Return endpoint and model for a name, in the order of slots."""
        return self._named(name, folded=False) or self._named(name.casefold(), folded=True)

    def _named(self, name: str, *, folded: bool) -> list[tuple[str, Model]]:
        routes = []
        for endpoint_id in sorted(self.models, key=lambda one: self.endpoints[one].slot):
            model = _offered(self.models[endpoint_id], name, folded=folded)
            if model is not None:
                routes.append((endpoint_id, model))
        return routes

    def name_rows(self) -> dict[bytes, Model]:
        rows = {}
        for endpoint_id, models in self.models.items():
            exact = {name for model in models for name in _names_of(model)}
            folded = {name.casefold() for model in models for name in _names_of(model)[1:]}
            for kind, known in ((b"e", exact), (b"f", folded)):
                for name in known:
                    model = _offered(models, name, folded=kind == b"f")
                    assert model is not None
                    rows[kind + ref(name) + ref(endpoint_id)] = model
        return rows


def _names_of(model: Model) -> list[str]:
    return [model.id, *([model.canonical] if model.canonical else []), *model.aliases]


def _offered(models: list[Model], name: str, *, folded: bool) -> Model | None:
    """Return an endpoint's model of this name: the one with this id, or else the least of those with this alias."""
    if not folded:
        for model in models:
            if model.id == name:
                return model
    aliases = [(model.id, model) for model in models for alias in _names_of(model)[1:]
               if (alias.casefold() if folded else alias) == name]  # fmt: skip
    return min(aliases, key=lambda pair: pair[0])[1] if aliases else None
