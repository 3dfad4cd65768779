"""GET /v1/models and /v1/models/{id} as Anthropic's API has them, for clients that send `anthropic-version`.

Claude Code waits three seconds for this list, follows no redirect, and shows the models whose ids contain `claude` or
`anthropic`: a model name, such as `claude-local`, brings any model into its menu.
"""

from bisect import bisect_left, bisect_right
from datetime import UTC, datetime
from typing import TypedDict
from urllib.parse import parse_qs

import msgspec

from gateway.base.errors import INVALID_REQUEST, Refusal
from gateway.base.request_kinds import MESSAGES
from gateway.loop.time_slices import Slices
from gateway.routing.lists.built_lists import BuiltList
from gateway.routing.lists.model_access import EVERYTHING, ModelAccess
from gateway.routing.model_list import ModelFields, entries_of
from gateway.routing.roster import Roster

USUAL_LIMIT, MAX_LIMIT = 20, 1000  # entries of a page, as Anthropic documents them
MAX_FIELDS = 20  # of a query


class AnthropicModel(TypedDict):
    """A model in the list."""

    type: str
    id: str
    display_name: str
    created_at: str  # RFC 3339; 1970 if the time is unknown, as with Anthropic
    lifecycle: str
    max_input_tokens: int | None  # size of the context; null if no endpoint reports it
    max_tokens: int | None  # most output tokens; null if no endpoint reports them


class Listed(msgspec.Struct, frozen=True):
    """All models that take Messages, in the order of their ids."""

    ids: list[str]
    entries: list[bytes]  # encoded


class AnthropicList(BuiltList[Listed]):
    def build(self, roster: Roster, access: ModelAccess) -> Slices[Listed]:
        return listing(roster, access)

    def size(self, built: Listed) -> int:
        return sum(map(len, built.entries))


def listing(roster: Roster, access: ModelAccess = EVERYTHING) -> Slices[Listed]:
    """Encode the models and model names that take Messages and that a client may use."""
    pairs = yield from entries_of(roster, lambda model, serving: _encoded(model), access)
    return Listed([name for name, _ in pairs], [entry for _, entry in pairs])


def _encoded(model: ModelFields) -> tuple[str, bytes] | None:
    """Return the id and the entry of a model; None if it takes no Messages."""
    if MESSAGES not in model["supported_apis"]:
        return None
    return model["id"], msgspec.json.encode(anthropic_entry(model))


def anthropic_entry(model: ModelFields) -> AnthropicModel:
    return {
        "type": "model",
        "id": model["id"],
        "display_name": model["id"],
        "created_at": datetime.fromtimestamp(model.get("created", 0), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": model.get("context_length"),
        "max_tokens": model.get("max_output_tokens"),
    }


def get_page(listed: Listed, query: bytes) -> bytes:
    """Return the page of the list that the query wants: `limit`, and `after_id` or `before_id`. Raises Refusal (400).

    The list is sorted, so that a page also follows an id whose model has vanished since.
    """
    limit, after, before = _read_query(query)
    begin, end = 0, len(listed.ids)
    if after is not None:
        begin = bisect_right(listed.ids, after)
    if before is not None:
        end = bisect_left(listed.ids, before)
        has_more = end > limit
        begin = max(0, end - limit)
    else:
        has_more = end - begin > limit
        end = min(end, begin + limit)
    ids = listed.ids[begin:end]
    return b'{"data":[%b],"has_more":%b,"first_id":%b,"last_id":%b}' % (
        b",".join(listed.entries[begin:end]),
        b"true" if has_more else b"false",
        msgspec.json.encode(ids[0] if ids else None),
        msgspec.json.encode(ids[-1] if ids else None),
    )


def _read_query(query: bytes) -> tuple[int, str | None, str | None]:
    """Return limit, after_id and before_id. Raises Refusal."""
    try:
        fields = parse_qs(query.decode("utf-8", "replace"), max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Refusal(400, INVALID_REQUEST, f"The query has more than {MAX_FIELDS} fields.") from None
    after, before = (fields.get(name, [None])[0] for name in ("after_id", "before_id"))
    if after is not None and before is not None:
        raise Refusal(400, INVALID_REQUEST, "Give `after_id` or `before_id`, not both.", param="before_id")
    text = fields.get("limit", [str(USUAL_LIMIT)])[0]
    limit = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_LIMIT)) else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise Refusal(400, INVALID_REQUEST, f"`limit` must be a number from 1 to {MAX_LIMIT}.", param="limit")
    return limit, after, before
