"""The judge: what the servers have counted, against the records and the budgets."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.ipc import record
from tests.torture.evade.forms import BUDGET, FORBIDDEN, Form
from tests.torture.evade.server import Served

CUT_TOKENS = 50  # that a request which fits asks for: what a cut stream may have used without being counted


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the history."""

    outcome: str
    input_tokens: int | None
    output_tokens: int | None
    is_estimated: bool

    @property
    def tokens(self) -> int:
        return (self.input_tokens or 0) + (self.output_tokens or 0)


@dataclass
class Verdict:
    """What a run has shown."""

    wrong: list[str] = field(default_factory=list)
    served: int = 0  # requests that reached a server
    tokens: int = 0  # that they have used there
    uncounted: int = 0  # of these: of streams that were cut
    most_over: int = 0  # tokens of a key beyond its budget


def judge(
    forms: Sequence[Form],
    sent: Mapping[str, int],
    served: Mapping[str, Sequence[Served]],
    rows: Mapping[str, Sequence[Row]],
) -> Verdict:
    """Compare all counts. `sent`: the number of the form of each request, by its id, as are the others."""
    verdict, by_form = Verdict(), defaultdict[int, list[str]](list)
    for request_id, number in sent.items():
        by_form[number].append(request_id)
    for number, form in enumerate(forms):
        wrong = Counter[str]()
        used = over = counted = 0
        for request_id in by_form[number]:
            own, own_rows = served.get(request_id, ()), rows.get(request_id, ())
            tokens, recorded = sum(response.tokens for response in own), sum(row.tokens for row in own_rows)
            verdict.served += bool(own)
            used, counted = used + tokens, counted + recorded
            wrong["reached a forbidden model"] += any(response.model in FORBIDDEN for response in own)
            if own and form.has_budget:
                over += max(0, tokens - recorded)
                wrong.update(_differences(own, own_rows))
        if form.has_budget and used > BUDGET + over:
            wrong[f"used {used} tokens of {BUDGET}, of them {over} estimated too low"] += 1
        if not form.has_budget and used != counted:
            wrong[f"used {used} tokens, {counted} were counted"] += 1
        verdict.tokens += used
        verdict.uncounted += over
        beyond = used - BUDGET if form.has_budget else 0
        verdict.most_over = max(verdict.most_over, beyond)
        verdict.wrong += [f"{form.name}: {text}, {times} times" for text, times in wrong.items() if times]
    return verdict


def _differences(served: Sequence[Served], rows: Sequence[Row]) -> list[str]:
    """Return what is wrong with the record of a request that a server has worked on."""
    if not rows:
        return ["served without a record"]
    (row,) = rows
    output = sum(response.output for response in served)
    prompt = sum(response.prompt for response in served)
    if row.is_estimated:
        if row.outcome == record.OK:
            return ["the server was not asked for its usage"]
        if output - (row.output_tokens or 0) > CUT_TOKENS:
            return [f"a cut stream used {output} tokens, {row.output_tokens} were counted"]
        return [] if row.input_tokens else ["the prompt of a cut stream was not counted"]
    if (row.input_tokens, row.output_tokens) != (prompt, output):
        return [
            f"used {prompt} + {output} tokens, {row.input_tokens} + {row.output_tokens} were counted ({row.outcome})"
        ]
    return []
