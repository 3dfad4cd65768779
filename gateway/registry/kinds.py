"""The kinds of published facts, one line each: `KINDS`.

The registry store, its writer and its readers derive all places of a kind from these lines. Add a kind here, its
facts to gateway.registry.schema, and the source of its rows to routerdash.publication.sources.

Each table maps a key of bytes to a row: the CRC32 of the row in 4 bytes, then MessagePack. SQLite does not check what
it reads, so the CRC does. Beside the tables of kinds there are META (key STATE), NAMES (EXACT or FOLDED, `ref(name)`,
`ref(endpoint id)`: the Model that has this name at this endpoint) and CHANGES (version in 8 bytes: its changes).

A change says which rows changed, never their values, so reading it twice is harmless. It is the letter of a kind with
the key of a row, for MODELS with the key of the endpoint, for KEYS with SHA-256 and id of an API key; or EVERYTHING.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from gateway.registry.limits import NO_LIMITS, LimitFacts, Subject
from gateway.registry.prices import NO_PRICES, PriceFacts
from gateway.registry.schema import (
    NOT_MEASURED,
    NOT_READ,
    REF_BYTES,
    UNKNOWN_LENGTHS,
    Damaged,
    EndpointFacts,
    EngineState,
    KeyFacts,
    Lengths,
    Model,
    ModelName,
    PublishedKey,
    Speeds,
    StoreState,
    digest_of,
    length_key,
    limit_key,
    model_name_key,
    ref,
    speed_key,
)

Id = TypeVar("Id")  # of an object, as control names it
Fact = TypeVar("Fact")  # an object as control publishes it
Row = TypeVar("Row")  # as the table has it
_encode = msgspec.msgpack.Encoder().encode


class Table(Generic[Row]):
    """A table: its name, its statements, and the encoding of its rows."""

    def __init__(self, name: str, row: type[Row]) -> None:
        self.name = name
        self._decode = msgspec.msgpack.Decoder(row).decode
        self.create = _sql("CREATE TABLE IF NOT EXISTS $ (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID", name)
        self.select = _sql("SELECT v FROM $ WHERE k = ?", name)
        self.select_with_state = _sql("SELECT (SELECT v FROM meta WHERE k = ?), (SELECT v FROM $ WHERE k = ?)", name)
        self.select_range = _sql("SELECT k, v FROM $ WHERE k > ? AND k <= ? ORDER BY k", name)
        self.select_keys = _sql("SELECT k FROM $ WHERE k > ? ORDER BY k LIMIT ?", name)
        self.put = _sql("INSERT INTO $ VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v", name)
        self.delete = _sql("DELETE FROM $ WHERE k = ?", name)
        self.delete_up_to = _sql("DELETE FROM $ WHERE k <= ?", name)
        self.count = _sql("SELECT count(*) FROM (SELECT 1 FROM $ LIMIT ?)", name)

    @staticmethod
    def pack(row: Row) -> bytes:
        body = _encode(row)
        return zlib.crc32(body).to_bytes(4, "big") + body

    def unpack(self, raw: bytes) -> Row:
        """Return the row. Raises Damaged."""
        if type(raw) is not bytes:  # damage can change the type, too
            raise Damaged("a row is no bytes")
        if zlib.crc32(raw[4:]) != int.from_bytes(raw[:4], "big"):
            raise Damaged("a row has a wrong checksum")
        try:
            return self._decode(raw[4:])
        except msgspec.DecodeError as error:
            raise Damaged(f"a row cannot be decoded: {error}") from None


def _sql(statement: str, table: str) -> str:
    return statement.replace("$", table)


@dataclass(eq=False)
class FactKind(Table[Row], Generic[Id, Fact, Row]):
    """A kind of published fact, with the table of its rows."""

    name: str  # of its table, and in `writer.Changes`
    letter: bytes  # with which a change names a row
    row: type[Row]
    key: Callable[[Id], bytes | None]  # of an object's row, by its id; None: it can have no row
    # Id of the endpoint to which an object belongs: its rows begin with the endpoint's key, and are deleted with it.
    endpoint_of: Callable[[Id], str] | None = None
    is_original: bool = False  # the first release with this format had it; a store of that release gets the others
    is_replaced_whole: bool = False  # a change has all rows, and deletes the others
    is_in_memory: bool = False  # readers give all rows to their listener
    is_optional: bool = False  # usually without rows, which readers know without a lookup: `RegistryReader.versions`
    is_learned: bool = False  # it is about the expected time of requests
    cached: int = 0  # rows in each of the two halves of a reader's cache; 0: each lookup reads the store
    missing: Row | None = None  # returned by a lookup, and cached, if there is no row
    stand_in_bytes: int = 0  # a row with a key of this length stands in for missing ones whose keys begin with it

    def __post_init__(self) -> None:
        super().__init__(self.name, self.row)


AnyKind = FactKind[Any, Any, Any]

CACHED = 20_000

ENDPOINTS: FactKind[str, EndpointFacts, EndpointFacts] = FactKind(
    "endpoints", b"e", EndpointFacts, ref, is_original=True, is_in_memory=True
)
MODELS: FactKind[str, Sequence[Model], Model] = FactKind(  # by endpoint, all of it; keys end with `ref(model id)`
    "models", b"m", Model, ref, endpoint_of=str, is_original=True
)
KEYS: FactKind[str, PublishedKey, KeyFacts] = FactKind(  # by `hash`; unknown ones are not cached
    "keys", b"k", KeyFacts, digest_of, is_original=True, cached=CACHED
)
SPEEDS: FactKind[tuple[str, str, str], Speeds, Speeds] = FactKind(  # by endpoint, model and kind of request
    "speeds",
    b"s",
    Speeds,
    lambda speeds_of: speed_key(*speeds_of),
    endpoint_of=lambda speeds_of: speeds_of[0],
    is_learned=True,
    cached=CACHED,
    missing=NOT_MEASURED,
)
LENGTHS: FactKind[tuple[str, str | None], Lengths, Lengths] = FactKind(  # by requested model and API key; None: of all
    "lengths",
    b"l",
    Lengths,
    lambda lengths_of: length_key(*lengths_of),
    is_learned=True,
    cached=CACHED,
    missing=UNKNOWN_LENGTHS,
    stand_in_bytes=REF_BYTES,
)
ENGINES: FactKind[str, EngineState, EngineState] = FactKind(  # by endpoint
    "engines", b"g", EngineState, ref, endpoint_of=str, is_learned=True, cached=CACHED, missing=NOT_READ
)
MODEL_NAMES: FactKind[str, ModelName, ModelName] = FactKind(  # by id; the key is that of the name
    "model_names", b"n", ModelName, model_name_key, is_in_memory=True
)
LIMITS: FactKind[Subject, LimitFacts, LimitFacts] = FactKind(
    "limits",
    b"i",
    LimitFacts,
    lambda subject: limit_key(*subject),
    is_optional=True,
    cached=CACHED,
    missing=NO_LIMITS,
)
PRICES: FactKind[bytes, PriceFacts, PriceFacts] = FactKind(  # by the key (schema.price_key, RATES)
    "prices", b"p", PriceFacts, bytes, is_replaced_whole=True, is_optional=True, missing=NO_PRICES
)

# In the order in which a change is written.
KINDS: tuple[AnyKind, ...] = (ENDPOINTS, MODELS, KEYS, SPEEDS, LENGTHS, ENGINES, MODEL_NAMES, LIMITS, PRICES)
KIND_NAMED = {kind.name: kind for kind in KINDS}
KIND_WITH_LETTER = {kind.letter: kind for kind in KINDS}

# Tables that no facts are published in.
META = Table("meta", StoreState)
NAMES = Table("names", Model)
CHANGES = Table("changes", list[bytes])
TABLES: tuple[Table[Any], ...] = (META, NAMES, CHANGES, *KINDS)
EVERYTHING = b"*"  # a change of too many rows to name them
STATE = b"state"  # key of the only row of META


def version_key(version: int) -> bytes:
    """Return the key of a row of CHANGES."""
    return version.to_bytes(8, "big")
