"""Facts that the registry store contains, and the keys of their rows. gateway.registry.kinds has its tables.

All facts are plain values; an upstream's secret stays sealed (gateway/base/sealing.py).
"""

import hashlib
from collections.abc import Iterable

import msgspec

from gateway.registry.key_rules import AllowedUse, KeyRules
from gateway.registry.limits import LEVEL_LETTERS

FORMAT = 1

# Status and administrative state, as in the endpoints table and endpoint_options.
ONLINE, PENDING, ERROR, OFFLINE = "online", "pending", "error", "offline"
ENABLED, DRAINING, DISABLED = "enabled", "draining", "disabled"

LAST_TIER = 9  # the first is 1
DEFAULT_TIMEOUT_SECS = 120.0  # stored for every endpoint for which nobody chose a timeout: see `plain_timeout`

EXACT, FOLDED = b"e", b"f"  # a name as it is written, and casefolded
PATTERN = b"p"  # a model name with one `*`
REF_BYTES, DIGEST_BYTES = 16, 32


def plain_timeout(own: float, default: float) -> float:
    """Return the seconds that a response may take that is not streamed.

    `own` is the timeout that an endpoint has stored, `default` that of the settings. An endpoint for which nobody chose
    one has DEFAULT_TIMEOUT_SECS. That is right for the first event of a stream, and too short for a whole response.
    """
    return default if own == DEFAULT_TIMEOUT_SECS else own


class Model(msgspec.Struct, frozen=True, array_like=True):
    id: str  # the endpoint's own id of the model
    canonical: str | None = None
    aliases: tuple[str, ...] = ()  # every other name, matched without regard to case
    capabilities: tuple[str, ...] = ()  # chat, embeddings, …; empty: unknown
    max_tokens: int | None = None  # of the context
    # Fields of later releases. They need a default, because rows of older releases lack them.
    max_output_tokens: int | None = None
    lacks: tuple[str, ...] = ()  # gateway.base.request_kinds.TOOLS and VISION, if it certainly cannot have them
    features: tuple[str, ...] = ()  # TOOLS, VISION and THINKING, if its server reports that it has them
    created: int = 0  # seconds since 1970, when it was first seen at the endpoint; 0: unknown


class EndpointFacts(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    slot: int  # index in the live page
    name: str
    base_url: str
    kind: str
    status: str
    operator_state: str = ENABLED
    sealed_key: str | None = None
    timeout_secs: float = DEFAULT_TIMEOUT_SECS  # see `response_timeout` in gateway.inference.sending
    connect_timeout_secs: float = 5.0
    idle_timeout_secs: float | None = None  # between two events of a stream; None: `timeout_secs`
    total_timeout_secs: float | None = None  # of a stream; None: no limit
    max_concurrency: int | None = None  # concurrent requests, over all workers, set by administrators: see `slots`
    drain_until: float | None = None  # seconds since 1970, at which a draining endpoint's streams are ended
    # Fields of later releases. They need a default, because rows of older releases lack them.
    learned_slots: int | None = None  # concurrent requests that the server reports
    tier: int = 1  # 1 to LAST_TIER: it gets requests only when endpoints of better tiers are excluded or full
    cost_weight: float = 1.0  # by which adaptive routing multiplies the cost of a request there
    tags: tuple[str, ...] = ()  # by which steps of model names choose endpoints
    external: bool = False  # requests leave the house: only keys and model names that allow it may use it
    api_version: str | None = None  # that requests name in their query (Azure OpenAI)
    assumed_slots: int | None = None  # concurrent requests that are assumed for the server
    sealed_connection: str | None = None  # gateway.upstream.connection_settings: proxy, certificates, extra headers

    @property
    def slots(self) -> int | None:
        """Concurrent requests, over all workers; None: no limit."""
        return self.max_concurrency or self.learned_slots or self.assumed_slots

    def with_models(self, models: Iterable[Model]) -> "PublishedEndpoint":
        values = {name: getattr(self, name) for name in EndpointFacts.__struct_fields__}
        return PublishedEndpoint(models=tuple(models), **values)


class PublishedEndpoint(EndpointFacts, frozen=True, kw_only=True):
    """An endpoint with its models, as control publishes it."""

    models: tuple[Model, ...] = ()

    def facts(self) -> EndpointFacts:
        """Return the facts alone, as the table `endpoints` has them."""
        return EndpointFacts(**{name: getattr(self, name) for name in EndpointFacts.__struct_fields__})


class KeyFacts(msgspec.Struct, frozen=True, array_like=True):
    """Row of an API key."""

    id: str
    permissions: tuple[str, ...]
    expires_at: float | None = None  # seconds since 1970
    owner_id: str = ""
    external: bool = False  # it may use external endpoints
    enabled: bool = True
    rules: KeyRules | None = None  # None: no restrictions
    bulk: bool = False  # its requests are bulk requests
    replaced: str = ""  # hash of the key that this one replaced, and which has a row of its own while it is valid
    is_replaced: bool = False  # this is the row of a replaced key


class ApiKey(msgspec.Struct, frozen=True):
    """An API key as requests use it."""

    id: str
    digest: bytes  # SHA-256 of the whole key
    permissions: tuple[str, ...]
    expires_at: float | None = None  # seconds since 1970
    external: bool = False  # it may use external endpoints
    enabled: bool = True
    allowed: AllowedUse | None = None  # None: no restrictions
    bulk: bool = False  # its requests are bulk requests
    owner_id: str = ""  # of the user


class PublishedKey(msgspec.Struct, frozen=True, array_like=True):
    """An API key as control publishes it. The order of the first four fields is that of old snapshots."""

    id: str
    hash: str  # SHA-256, lower-case hexadecimal, of the whole key
    permissions: tuple[str, ...]
    expires_at: float | None = None  # seconds since 1970
    owner_id: str = ""
    external: bool = False
    enabled: bool = True
    rules: KeyRules | None = None
    bulk: bool = False
    replaced: str = ""  # hash of the key that this one replaced
    replaced_until: float | None = None  # seconds since 1970, at which that one expires

    def facts(self) -> KeyFacts:
        return KeyFacts(
            self.id,
            self.permissions,
            self.expires_at,
            self.owner_id,
            self.external,
            self.enabled,
            self.rules,
            self.bulk,
            self.replaced,
        )

    def replaced_facts(self) -> KeyFacts:
        """Return the row of the replaced key, which differs in when it expires."""
        ends = [moment for moment in (self.expires_at, self.replaced_until) if moment is not None]
        return msgspec.structs.replace(self.facts(), expires_at=min(ends, default=0.0), replaced="", is_replaced=True)


class Speeds(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was learned about requests of one kind to a model at an endpoint: the four parameters of a duration.

    A request with P prompt tokens to read and O output tokens, beside n others, takes
    `setup + read * P + O * (write + share * (n + 1))` seconds (gateway.routing.expected_time, metrics.learning.fit).
    """

    setup: float  # seconds for each request
    read: float  # seconds for each prompt token that is not in the prefix cache
    write: float  # seconds for each output token, alone; 0: nothing is known
    share: float  # additional seconds for each output token and request in flight
    completions: int = 0  # answered requests since it came online, up to the size of the window
    kept: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # share of an expected prefix that was cached, by age
    load: float = 0.0  # seconds to load the model; 0: unknown


NOT_MEASURED = Speeds(0.0, 0.0, 0.0, 0.0)


class Lengths(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was learned about the requests for a model, of all clients or of one API key."""

    output: float | None  # mean output tokens
    bytes_per_token: float | None = None  # of request bodies, for each prompt token


UNKNOWN_LENGTHS = Lengths(None)


class EngineState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an endpoint's engine last reported about itself. None: it does not report that."""

    read_at: float  # seconds since 1970, when this was first read
    loaded: tuple[str, ...] | None = None  # the endpoint's own ids of models in memory, least recently used first
    loading: tuple[str, ...] = ()
    most_loaded: int = 1  # models that were in memory at once, as far as control has seen
    others: int = 0  # requests there that are not RouterDash's, running and waiting


NOT_READ = EngineState(0.0)


class Target(msgspec.Struct, frozen=True, array_like=True):
    """Where a step of a model name sends requests: a model at one endpoint, at those with a tag, or at all that offer
    it.
    """

    model: str  # id, alias or canonical name of a model, or another model name
    weight: int = 1  # share of the requests among the targets of the step
    endpoint_id: str | None = None
    tag: str | None = None


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One step of a model name, and what makes a request leave it for the next one.

    A request leaves a step before the first byte of a response only.
    """

    targets: tuple[Target, ...]
    if_unavailable: bool = True  # no endpoint can be asked: offline, draining, circuit breaker open
    if_full_secs: float | None = None  # all endpoints have been full for so long; None: the request waits
    if_failed: bool = True  # the attempt failed in a way that another endpoint may not
    if_too_long: bool = True  # the prompt is longer than the context of the model


class ModelName(msgspec.Struct, frozen=True, kw_only=True):
    """A model name of this installation: an alias, a pattern, or steps of targets that are tried in order."""

    id: str
    name: str  # with at most one `*`: a pattern
    steps: tuple[Step, ...]
    echo_served: bool = False  # `model` of a response is the model that served it, not the requested name
    external: bool = False  # its requests may use external endpoints, if their API key may
    same_vectors: bool = False  # its models give equal vectors, so that embeddings may leave a step
    # Values of parameters, each as MessagePack: a row of Raw contains it as it is.
    defaults: dict[str, msgspec.Raw] = {}  # parameters, for requests that lack them
    overrides: dict[str, msgspec.Raw] = {}  # parameters, for all requests
    dropped: tuple[str, ...] = ()  # parameters that are removed
    created: float = 0.0  # seconds since 1970


class StoreState(msgspec.Struct, frozen=True, kw_only=True):
    """State of the whole store."""

    format: int
    database_id: str
    version: int  # grows with each change
    source: str | None = None  # token of the database's change log up to which the store is current
    previous_source: str | None = None  # a killed process may have stored `source` here and not in the database


class Damaged(Exception):
    """The store cannot be trusted: control must build another one."""


RATES = b"r"  # key of the row of the table `prices` with the rates of currencies


def ref(text: str) -> bytes:
    """Return the key of an id or a name: a hash, so that none is too long."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:REF_BYTES]


def digest_of(hashed: str) -> bytes | None:
    """Return the bytes of a hexadecimal SHA-256; None if it is malformed, so that no key can match it."""
    try:
        digest = bytes.fromhex(hashed)
    except ValueError:
        return None
    return digest if len(digest) == DIGEST_BYTES else None


def speed_key(endpoint_id: str, model_id: str, kind: str) -> bytes:
    """Return the key of a row of speeds."""
    return ref(endpoint_id) + ref(model_id) + kind.encode()


def length_key(model: str, key_id: str | None = None) -> bytes:
    """Return the key of a row of lengths. Without an API key, it is the row of all clients."""
    return ref(model) if key_id is None else ref(model) + ref(key_id)


def model_name_key(name: str) -> bytes:
    """Return the key of a model name's row: patterns have a beginning of their own."""
    return (PATTERN if "*" in name else EXACT) + ref(name)


def limit_key(level: str, subject_id: str) -> bytes:
    """Return the key of the limits of an API key, a user, or everyone (gateway.registry.limits)."""
    return LEVEL_LETTERS[level] + subject_id.encode("utf-8", "surrogatepass")


def limited_subject(key: bytes) -> tuple[str, str]:
    """Return level and id of the subject whose limits have this key."""
    level = next(level for level, letter in LEVEL_LETTERS.items() if letter == key[:1])
    return level, key[1:].decode("utf-8", "surrogatepass")


def price_key(folded: str) -> bytes:
    """Return the key of the prices with a pattern over names of models, which is casefolded."""
    return (PATTERN if "*" in folded else EXACT) + ref(folded)


def names(models: Iterable[Model]) -> tuple[dict[str, Model], dict[str, Model]]:
    """Return an endpoint's models by exact and by casefolded name.

    A model's own id wins over another's alias; of two aliases, that of the lesser id wins. So the rows do not depend
    on the order of the models.
    """
    exact: dict[str, Model] = {}
    folded: dict[str, Model] = {}
    models = sorted(models, key=lambda model: model.id)
    for model in models:
        for alias in (*((model.canonical,) if model.canonical else ()), *model.aliases):
            exact.setdefault(alias, model)
            folded.setdefault(alias.casefold(), model)
    for model in models:
        exact[model.id] = model
    return exact, folded
