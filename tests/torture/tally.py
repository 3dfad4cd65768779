"""Responses that the client received, and the range of figures that they allow."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gateway.ipc import record
from tests.torture.traffic import (
    BROKEN,
    CLOUD_MODELS,
    FAILED,
    LEFT,
    LIMITED,
    NO_ENDPOINT,
    ODD,
    OK,
    REJECTED,
    UNSENT,
)  # fmt: skip

UNCERTAIN_SECONDS = 6.0  # a disconnect that a gateway had not noticed when it was killed, even after it was stopped

TOKENS = ("input", "output", "cached", "cache_write", "reasoning")

# Outcomes in the history by the end that the client saw.
OUTCOMES = {
    OK: (record.OK,),
    FAILED: (record.FAILED, record.TRUNCATED, record.REFUSED),
    NO_ENDPOINT: (record.NO_ENDPOINT,),
    LEFT: (record.CANCELLED,),
}
# A throttling cloud refuses, or is set aside, so that no endpoint is available: clients see both alike.
CLOUD_OUTCOMES = {
    OK: (record.OK,),
    LIMITED: (record.FAILED, record.REFUSED, record.NO_ENDPOINT, record.QUEUE),
    FAILED: (record.TRUNCATED,),
}


@dataclass(slots=True)
class Tally:
    """Counts of the client, read line by line from its output."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)  # (model, end)
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)  # (model, one of TOKENS) of complete responses
    left_at: list[float] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    rejected_before: int = 0  # requests that RouterDash rejected before the client began
    answered: dict[str, dict[str, Any]] = field(default_factory=dict)  # lines of complete responses, by request id

    def add(self, line: dict[str, Any]) -> None:
        model, end = line["model"], line["end"]
        self.ends[model, end] += 1
        if end == OK:
            self.answered[line["id"]] = line
            for kind in TOKENS:
                self.tokens[model, kind] += line[f"{kind}_tokens"]
        elif end == LEFT:
            self.left_at.append(line["at"])
        elif end == ODD:
            self.odd.append(f"{model}: {line['detail']}")

    def total(self, *ends: str) -> int:
        return sum(count for (_, end), count in self.ends.items() if end in ends)

    @property
    def sent(self) -> int:
        return self.ends.total() - self.total(UNSENT)

    def models(self) -> list[str]:
        return sorted({model for model, _ in self.ends})

    def check(self, counted: Counter[tuple[str, str]], unrecorded: int, kills: list[float]) -> list[str]:
        """Check acknowledged <= counted <= acknowledged + broken off, for each model and each kind of end.

        `counted` is by model and outcome. `unrecorded` requests in total may be missing, which no journal recorded.
        """
        wrong = [f"the client got something odd: {text}" for text in self.odd]
        missing = 0
        for model in self.models():
            broken, high = self.ends[model, BROKEN], 0
            for end, outcomes in (CLOUD_OUTCOMES if model in CLOUD_MODELS else OUTCOMES).items():
                acknowledged = self.ends[model, end]
                total = sum(counted[model, outcome] for outcome in outcomes)
                high += acknowledged
                if total > acknowledged + broken:
                    wrong.append(f"{model} {end}: {total} counted, {acknowledged} received, {broken} broken off")
                if end != LEFT:
                    missing += max(0, acknowledged - total)
                    if total < acknowledged - unrecorded:
                        wrong.append(f"{model} {end}: {total} counted, {acknowledged} received")
            total = sum(count for (name, _), count in counted.items() if name == model)
            if total > high + broken:
                wrong.append(f"{model}: {total} counted, at most {high + broken} possible")
        certain = sum(all(not -1 < kill - moment < UNCERTAIN_SECONDS for kill in kills) for moment in self.left_at)
        cancelled = sum(count for (_, outcome), count in counted.items() if outcome == record.CANCELLED)
        missing += max(0, certain - cancelled)
        if missing > unrecorded:
            wrong.append(f"{missing} received and not counted, {unrecorded} reported as unrecorded")
        return wrong

    def check_rejected(self, rejected: int, unrecorded: int) -> list[str]:
        before = self.rejected_before
        low, high = before + self.total(REJECTED) - unrecorded, before + self.total(REJECTED, BROKEN)
        return [] if low <= rejected <= high else [f"rejected: {rejected} counted, {low} to {high} possible"]

    def check_tokens(self, counted: Counter[tuple[str, str]], unrecorded: int, largest: int) -> list[str]:
        """Check tokens by model and kind; no response has more than `largest`."""
        wrong = []
        for (model, kind), received in self.tokens.items():
            # Broken, cancelled and failed requests may have produced tokens that were counted.
            others = sum(self.ends[model, end] for end in (BROKEN, LEFT, FAILED, LIMITED))
            low, high = received - unrecorded * largest, received + others * largest
            if not low <= counted[model, kind] <= high:
                wrong.append(f"{model} {kind} tokens: {counted[model, kind]} counted, {low} to {high} possible")
        return wrong
