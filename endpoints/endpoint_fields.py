"""The fields of an endpoint, each declared once.

From this list come the entry in the registry, the published facts (in both directions), the endpoint in the JSON API,
the fields that administrators may edit (API, admin, edit log, version) and the changes that refresh endpoint events.
docs/architecture/endpoint-fields.md has the steps that add a field.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from gateway.registry import schema

MAX_INTERVAL_SECS = 3600  # llmlb accepts any number; 0 would poll without a pause
CONNECT_TIMEOUT_SECS = 5
MIN_COST_WEIGHT, MAX_COST_WEIGHT = 0.1, 10

_STATUSES = (schema.PENDING, schema.ONLINE, schema.ERROR, schema.OFFLINE)


class Shape(Enum):
    """Type of a field in the JSON API. endpoints.serializers has a serializer field for each."""

    UUID = "uuid"
    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    MOMENT = "moment"
    WORDS = "words"
    ANY = "any"
    STATUS = "status"
    OPERATOR_STATE = "operator_state"
    KIND = "kind"
    CLOUD = "cloud"
    FLAG = "flag"


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Published:
    """Form of a field in the registry store. `load` is the inverse of `store`."""

    name: str | None = None  # in schema.EndpointFacts, if it is another one
    store: Callable[[Any], Any] = _same
    load: Callable[[Any], Any] = _same


@dataclass(frozen=True, slots=True)
class EndpointField:
    """One field. `name` is its attribute of registry.Entry; `shape` is None if the JSON API does not show it."""

    name: str
    shape: Shape | None
    _: KW_ONLY
    other_column: str | None = None  # see `column`
    attribute: str | None = None  # of the row, which computes the value from several columns
    is_option: bool = False  # a column of EndpointOptions, not of Endpoint
    read: Callable[[Any], Any] = _same  # converts the column's value to the entry's
    edited: bool = False  # administrators may edit it with the form and with PATCH
    maximum: int | None = None  # of a numeric option: from `minimum` to this number, or null
    minimum: float = 1  # of a numeric option
    published: Published | None = None
    nullable: bool = False  # in the JSON API
    help: str = ""  # description in the schema of the API

    @property
    def column(self) -> str:
        """Column of the table, and name in the JSON API."""
        return self.other_column or self.name

    @property
    def published_name(self) -> str:
        """Attribute of schema.EndpointFacts."""
        return (self.published and self.published.name) or self.name


def words(column: object) -> tuple[str, ...]:
    """Return the words of a JSON column; none if it is not a list."""
    return tuple(str(word) for word in column) if isinstance(column, list) else ()


def words_or_none(column: object) -> tuple[str, ...] | None:
    """Return the words of a JSON column that may be null; None if there are none."""
    return words(column) or None


def _status(column: str) -> str:
    return column if column in _STATUSES else schema.PENDING


def _interval(column: int) -> int:
    return min(MAX_INTERVAL_SECS, max(1, column))


def _seconds(value: int | None) -> float | None:
    return None if value is None else float(value)


def _whole_seconds(value: float | None) -> int | None:
    return None if value is None else int(value)


def _connect_timeout(value: int | None) -> float:
    return float(value or CONNECT_TIMEOUT_SECS)


def _set_connect_timeout(value: float) -> int | None:
    """Return the timeout of an entry. The default reads as not set, because the facts do not distinguish them."""
    return None if value == CONNECT_TIMEOUT_SECS else int(value)


def _within(minimum: float, maximum: float, default: float) -> Published:
    """Return the form of a number that gateways compute with: another program may have stored any.

    The default reads as not set, because the facts do not distinguish them.
    """
    return Published(
        store=lambda value: default if value is None else min(maximum, max(minimum, value)),
        load=lambda value: None if value == default else value,
    )


def _timestamp(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _moment(timestamp: float | None) -> datetime | None:
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)


SAME = Published()
SECONDS = Published(store=_seconds, load=_whole_seconds)


def _number(
    name: str, maximum: int, published: Published, text: str, *, shape: Shape = Shape.INTEGER, minimum: float = 1
) -> EndpointField:
    return EndpointField(
        name,
        shape,
        is_option=True,
        edited=True,
        maximum=maximum,
        minimum=minimum,
        published=published,
        nullable=True,
        help=text,
    )


# The order is the one of the JSON API. A version of an endpoint (ETag) depends on the order of the edited fields.
FIELDS: tuple[EndpointField, ...] = (
    EndpointField("id", Shape.UUID, read=str, published=SAME),
    EndpointField("name", Shape.TEXT, edited=True, published=SAME),
    EndpointField("base_url", Shape.TEXT, edited=True, published=SAME),
    EndpointField("status", Shape.STATUS, read=_status, published=SAME),
    EndpointField("operator_state", Shape.OPERATOR_STATE, is_option=True, published=SAME),
    EndpointField("kind", Shape.KIND, other_column="endpoint_type", attribute="kind", published=SAME),
    EndpointField("health_check_interval_secs", Shape.INTEGER, read=_interval, edited=True),
    EndpointField(
        "inference_timeout_secs",
        Shape.INTEGER,
        edited=True,
        published=Published("timeout_secs", store=_seconds, load=_whole_seconds),
        help="Seconds until a stream begins, and for the whole of any other response; 120, the default, gives any "
        "other response ROUTERDASH_PLAIN_TIMEOUT_SECS (600 s).",
    ),
    EndpointField("latency_ms", Shape.INTEGER, nullable=True),
    EndpointField("last_seen", Shape.MOMENT, nullable=True),
    EndpointField("last_error", Shape.TEXT, nullable=True),
    EndpointField("error_count", Shape.INTEGER),
    EndpointField("registered_at", Shape.MOMENT, nullable=True),
    EndpointField("notes", Shape.TEXT, edited=True, nullable=True),
    EndpointField("device_info", Shape.ANY, nullable=True),
    EndpointField(
        "capabilities",
        Shape.WORDS,
        read=words,
        edited=True,
        help="Capabilities that are added to all models; chat_completion alone adds nothing.",
    ),
    _number(
        "connect_timeout_secs",
        60,
        Published(store=_connect_timeout, load=_set_connect_timeout),
        "Seconds; null means the default, 5.",
    ),
    _number("idle_timeout_secs", 86400, SECONDS, "Seconds; null means inference_timeout_secs."),
    _number("total_timeout_secs", 86400, SECONDS, "Upper bound for a whole stream, in seconds; null means no limit."),
    _number(
        "max_concurrency",
        10000,
        SAME,
        "Requests at a time; null means learned_slots, else assumed_slots, or no limit if both are null.",
    ),
    EndpointField(
        "learned_slots",
        Shape.INTEGER,
        is_option=True,
        published=SAME,
        nullable=True,
        help="Requests at a time, as the server reports them.",
    ),
    EndpointField(
        "assumed_slots",
        Shape.INTEGER,
        is_option=True,
        read=lambda column: column or None,  # see endpoints.checks.assumed_slots
        published=SAME,
        nullable=True,
        help="Requests at a time that are assumed for the server, as long as no max_concurrency is entered.",
    ),
    EndpointField(
        "tags",
        Shape.WORDS,
        is_option=True,
        read=words,
        edited=True,
        published=SAME,
        help="Labels that group endpoints. Steps of model names can choose endpoints by them.",
    ),
    EndpointField(
        "drain_until",
        Shape.MOMENT,
        is_option=True,
        published=Published(store=_timestamp, load=_moment),
        nullable=True,
        help="Drain deadline: requests that still run then are ended; null means no deadline.",
    ),
    _number(
        "tier",
        schema.LAST_TIER,
        _within(1, schema.LAST_TIER, 1),
        "1 is the first; null means 1. The endpoint gets requests only when all of better tiers are excluded or full.",
    ),
    _number(
        "cost_weight",
        MAX_COST_WEIGHT,
        _within(MIN_COST_WEIGHT, float(MAX_COST_WEIGHT), 1.0),
        "Factor of the cost of a request in adaptive routing; null means 1. With 2, the endpoint is used as if it took "
        "twice as long: unlike the weight of a proxy, more means fewer requests.",
        shape=Shape.NUMBER,
        minimum=MIN_COST_WEIGHT,
    ),
    EndpointField(
        "external",
        Shape.FLAG,
        is_option=True,
        edited=True,
        published=SAME,  # as `is_external`: see routerdash.publication.facts
        nullable=True,
        help="Requests leave your network, so that only API keys that may use external endpoints reach it; null means "
        "that clouds are external and others are not.",
    ),
    EndpointField(
        "cloud_type",
        Shape.CLOUD,
        is_option=True,
        edited=True,
        nullable=True,
        help="The cloud whose API this endpoint has; null for any other server. It is set by itself at the address of "
        "a known cloud.",
    ),
    EndpointField(
        "api_version",
        Shape.TEXT,
        is_option=True,
        edited=True,
        published=SAME,
        nullable=True,
        help="A date such as 2024-10-21, which each request to an address of Azure OpenAI without /v1 names; null for "
        "any other.",
    ),
    EndpointField(
        "allowed_models",
        Shape.WORDS,
        is_option=True,
        read=words_or_none,
        edited=True,
        nullable=True,
        help="Patterns such as `gpt-5*`: only models that match one are stored. null means all.",
    ),
    EndpointField("sealed_api_key", None, is_option=True, published=Published("sealed_key")),
    EndpointField("sealed_connection", None, is_option=True, published=SAME),
    EndpointField("plain_api_key", None, other_column="api_key_encrypted"),  # llmlb's column
)
PUBLISHED_FIELDS = tuple(
    (field.name, field.published_name, form) for field in FIELDS if (form := field.published) is not None
)
