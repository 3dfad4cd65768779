"""What the client received, and what may be counted of it."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gateway import record
from tests.torture.traffic import BROKEN, FAILED, LEFT, NO_ENDPOINT, ODD, OK, REJECTED, UNSENT

UNCERTAIN_SECONDS = 6.0  # a leaving that a gateway had not heard of when it was killed, even after a pause of it

# What the history calls what the client saw.
OUTCOMES = {
    OK: (record.OK,),
    FAILED: (record.FAILED, record.TRUNCATED, record.REFUSED),
    NO_ENDPOINT: (record.NO_ENDPOINT,),
    LEFT: (record.CANCELLED,),
}


@dataclass(slots=True)
class Tally:
    """Filled line by line from the client's output."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)  # (model, end)
    tokens: Counter[tuple[str, str]] = field(default_factory=Counter)  # (model, "input" or "output") of whole answers
    left_at: list[float] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def add(self, line: dict[str, Any]) -> None:
        model, end = line["model"], line["end"]
        self.ends[model, end] += 1
        if end == OK:
            self.tokens[model, "input"] += line["input_tokens"]
            self.tokens[model, "output"] += line["output_tokens"]
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
        """acknowledged <= counted <= acknowledged + broken off, for each model and each way to end.

        `counted` by model and outcome. `unrecorded`: so many in all may be missing, as no journal took them.
        """
        wrong = [f"the client got something odd: {text}" for text in self.odd]
        missing = 0
        for model in self.models():
            broken, most = self.ends[model, BROKEN], 0
            for end, outcomes in OUTCOMES.items():
                acknowledged = self.ends[model, end]
                found = sum(counted[model, outcome] for outcome in outcomes)
                most += acknowledged
                if found > acknowledged + broken:
                    wrong.append(f"{model} {end}: {found} counted, {acknowledged} received, {broken} broken off")
                if end != LEFT:
                    missing += max(0, acknowledged - found)
                    if found < acknowledged - unrecorded:
                        wrong.append(f"{model} {end}: {found} counted, {acknowledged} received")
            found = sum(count for (name, _), count in counted.items() if name == model)
            if found > most + broken:
                wrong.append(f"{model}: {found} counted, at most {most + broken} can have been")
        certain = sum(all(not -1 < kill - at < UNCERTAIN_SECONDS for kill in kills) for at in self.left_at)
        cancelled = sum(count for (_, outcome), count in counted.items() if outcome == record.CANCELLED)
        missing += max(0, certain - cancelled)
        if missing > unrecorded:
            wrong.append(f"{missing} received and not counted, {unrecorded} told as unrecorded")
        return wrong

    def check_rejected(self, rejected: int, unrecorded: int) -> list[str]:
        least, most = self.total(REJECTED) - unrecorded, self.total(REJECTED, BROKEN)
        return [] if least <= rejected <= most else [f"rejected: {rejected} counted, {least} to {most} can have been"]

    def check_tokens(self, counted: Counter[tuple[str, str]], unrecorded: int, largest: int) -> list[str]:
        """Tokens by model and direction; no answer has more than `largest`."""
        wrong = []
        for (model, direction), received in self.tokens.items():
            # What was broken off, left or ended in an error may have made tokens that were counted.
            others = sum(self.ends[model, end] for end in (BROKEN, LEFT, FAILED))
            least, most = received - unrecorded * largest, received + others * largest
            if not least <= counted[model, direction] <= most:
                wrong.append(
                    f"{model} {direction} tokens: {counted[model, direction]} counted, {least} to {most} can be"
                )
        return wrong
