"""Items of a streamed response that have not ended, and the names of their events."""

from collections.abc import Mapping
from typing import Any

from gateway.dialects.responses.objects import new_id
from gateway.dialects.responses.translation import CalledTool
from gateway.dialects.responses.whole import OUTPUT_TEXT, REASONING_TEXT, REFUSAL, SUMMARY_TEXT

# By the kind of a part: its index, and the beginnings of the names of its events
INDEX_NAMES = {SUMMARY_TEXT: "summary_index"}
TEXT_EVENTS = {
    OUTPUT_TEXT: "response.output_text",
    REFUSAL: "response.refusal",
    SUMMARY_TEXT: "response.reasoning_summary_text",
    REASONING_TEXT: "response.reasoning_text",
}
PART_EVENTS = {SUMMARY_TEXT: "response.reasoning_summary_part"}


class TextItem:
    """A message, or reasoning, that is open."""

    __slots__ = ("done", "id", "index", "kind", "pieces")

    def __init__(self, index: int, *, is_reasoning: bool) -> None:
        self.index = index
        self.id = new_id("rs" if is_reasoning else "msg")
        self.done: list[Mapping[str, Any]] = []  # parts that have ended
        self.kind = ""  # of the part that is open
        self.pieces: list[str] = []  # of it


class CallItem:
    """A call; it begins when its name is known."""

    __slots__ = ("begun", "ended", "given_id", "id", "index", "name", "pieces", "tool")

    def __init__(self) -> None:
        self.begun = self.ended = False
        self.id = self.given_id = self.name = ""
        self.index = 0
        self.tool = CalledTool("")
        self.pieces: list[str] = []
