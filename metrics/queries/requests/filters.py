"""Filters and cursors of the request history. Imports nothing of Django."""

import base64
import binascii
import uuid
from dataclasses import dataclass
from datetime import datetime

from gateway.ipc import record
from metrics.sql import Vendor

OUTCOMES = (
    record.OK, record.REFUSED, record.FAILED, record.TRUNCATED, record.CANCELLED, record.NO_ENDPOINT, record.QUEUE,
)  # fmt: skip
ERROR = "error"  # any outcome but `ok`
STATUSES = {"success": record.OK, "error": record.FAILED}  # outcome of llmlb's rows, which have a status alone


class BadCursor(ValueError):
    """A cursor that was not issued by RouterDash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFilter:
    """Conditions that all have to be met; None is no condition."""

    since: datetime | None = None  # of completion, inclusive
    until: datetime | None = None  # exclusive
    endpoint_id: str | None = None
    outcome: str | None = None  # one of OUTCOMES, or ERROR
    model: str | None = None
    api_key_id: str | None = None
    client_ip: str | None = None
    streamed: bool | None = None
    min_duration_ms: float | None = None
    min_tokens: int | None = None  # in and out
    status_code: int | None = None
    retried: bool | None = None  # more than one attempt
    request_id: str | None = None  # the client's own
    text: str | None = None  # part of a model's name, an endpoint's name or a client's address
    model_part: str | None = None  # part of a model's name
    conversation: str | None = None
    queue_class: str | None = None  # one of gateway.base.queue_class.CLASSES
    last_turns: bool = False  # only the last request of each conversation


_NEWER = "+"  # prefix of the moment in the cursor of a page of newer rows


@dataclass(frozen=True, slots=True)
class Cursor:
    """Start of a page: after this row, or, without an id, at rows before this moment.

    A cursor of `newer` rows leads in the other direction: from the first row after this one, or after this moment.
    `moment` is the stored text.
    """

    moment: str
    id: str | None
    newer: bool = False

    def encode(self) -> str:
        text = f"{_NEWER if self.newer else ''}{self.moment}|{self.id or ''}"
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, vendor: Vendor) -> "Cursor":
        """Parse the text of a cursor from a URL. Raises BadCursor."""
        try:
            padded = text.encode("ascii") + b"=" * (-len(text) % 4)
            text = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
            moment, divider, row_id = text.removeprefix(_NEWER).partition("|")
            if not divider or datetime.fromisoformat(moment).tzinfo is None or "\0" in row_id:
                raise ValueError(text)
            if row_id and vendor == "postgresql":
                row_id = str(uuid.UUID(row_id))
        except (ValueError, binascii.Error):
            raise BadCursor(text) from None
        return cls(moment, row_id or None, text.startswith(_NEWER))
