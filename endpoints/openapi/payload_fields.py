"""Declaration of the fields of an API response: a payload's type also says what the OpenAPI schema says of a field.

    class TurnPayload(TypedDict):
        "One request of a conversation."  # description of the type in the schema

        id: UuidText
        completed_at: TimeText | None
        moves: Annotated[int, Help("How often it went to another endpoint.")]
        queue_class: Annotated[str, Choices(CLASSES)]
        step: NotRequired[Annotated[int, Help("Only of a model name.")]]

The schema has the fields in this order, under the name of the type without `Payload`. endpoints.openapi.payload_schemas
makes it. This module imports nothing of Django, as some processes with payloads have none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any


@dataclass(frozen=True, slots=True)
class Help:
    """Sentences about a field: what its value means, and when it is null or absent."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """All values of a field, or pairs of a value and its label."""

    values: Sequence[str] | Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Schema:
    """OpenAPI schema of a field whose values no Python type describes, such as decimal numbers in text."""

    content: Mapping[str, Any]


class Format(Enum):
    """Formats of text, by their names in OpenAPI."""

    UUID = "uuid"
    TIME = "date-time"
    DATE = "date"


UuidText = Annotated[str, Format.UUID]
TimeText = Annotated[str, Format.TIME]  # such as 2026-01-31T12:00:00Z
DateText = Annotated[str, Format.DATE]  # such as 2026-01-31
