"""Medians, ratios, tables and the results file, computed from samples."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.bench.cases import HEADINGS, RATIOS, TWO_OURS, Case, Sample

YARDSTICK = "nginx"
OURS = "RouterDash"
Rounds = Sequence[Mapping[str, Sample]]  # one a round: server -> sample


def median(rounds: Rounds, server: str, column: str) -> float | None:
    values = [samples[server][column] for samples in rounds if column in samples.get(server, {})]
    return statistics.median(values) if values else None


def ratio(rounds: Rounds, server: str, column: str, to: str = YARDSTICK) -> float | None:
    """The median of the ratios within each round: a slow phase of the machine affects both sides."""
    ratios = [
        samples[server][column] / samples[to][column]
        for samples in rounds
        if column in samples.get(server, {}) and samples.get(to, {}).get(column)
    ]
    return statistics.median(ratios) if ratios else None


def add_differences(samples: Mapping[str, Sample]) -> None:
    """Add to a sample the latency that a proxy adds to direct requests within one round."""
    direct = samples.get("direct", {})
    for name, sample in samples.items():
        if name == "direct":
            continue
        if "duration" in sample and "duration" in direct:
            sample["longer"] = sample["duration"] - direct["duration"]
        for column in ("p50", "p99"):
            if column in sample and column in direct:
                sample[f"added_{column}"] = sample[column] - direct[column]


# Tables


def table(case: Case, rounds: Rounds) -> list[str]:
    """One case in Markdown, with servers in the order of the first round."""
    names = list(dict.fromkeys(name for samples in rounds for name in samples))
    columns = [column for column in case.columns if any(median(rounds, name, column) is not None for name in names)]
    heads = ["", *(HEADINGS[column].format(unit=case.unit) for column in columns)]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'--:|' * len(columns)}"]
    for name in names:
        cells = [_cell(rounds, name, column, case.base) for column in columns]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines


def _cell(rounds: Rounds, name: str, column: str, base: str) -> str:
    value = median(rounds, name, column)
    if value is None or (name == "direct" and column in ("cpu", "all")):
        return "—"
    to = base if column == "rate" and name.startswith((OURS, "gateway")) else YARDSTICK if column in RATIOS else ""
    times = ratio(rounds, name, column, to) if name not in (to, "direct") else None
    if times is None:
        return number(value)
    return f"{number(value)} ({times:.2f} × {to})" if to != YARDSTICK else f"{number(value)} ({times:.2f} ×)"


def number(value: float) -> str:
    """Format with three significant digits."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


# Goals


@dataclass(frozen=True)
class Goal:
    """The goal of a case: a value of RouterDash, or its ratio to another server's value."""

    text: str
    case: str
    column: str
    limit: float
    to: str = YARDSTICK  # empty: the value itself
    server: str = OURS
    at_least: bool = False

    def measured(self, rounds: Rounds) -> float | None:
        if not self.to:
            return median(rounds, self.server, self.column)
        return ratio(rounds, self.server, self.column, self.to)

    def held(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


GOALS = (
    Goal("gateway's CPU for a plain request, × nginx's", "plain32", "cpu", 2.1),
    Goal("the same of all processes, until the database has every record, × nginx's", "plain32", "all", 3.0),
    Goal("p99 of plain requests at saturation, × nginx's", "plain32", "p99", 5.0),
    Goal("gateway's CPU for an event of 384 streams, × nginx's", "streams384", "cpu", 1.6),
    Goal("median stream of 384 longer than without a proxy, ms", "streams384", "longer", 5.0, to=""),
    Goal("gateway's CPU for a request of 200 KB, × nginx's", "body200k", "cpu", 2.6),
    Goal("median latency added at 200 requests a second, × nginx's", "rate200", "added_p50", 2.5),
    Goal("memory of a gateway for a stream that waits, KiB", "idle5000", "stream_kib", 40.0, to=""),
    Goal("requests a second of two workers, × one's", "workers", "rate", 1.25, to=OURS, server=TWO_OURS, at_least=True),
)


def goals(rounds_of_cases: Mapping[str, Rounds]) -> list[str]:
    """The goals whose cases were run, in Markdown."""
    lines = ["| goal | | found | |", "|---|--:|--:|---|"]
    for goal in GOALS:
        value = goal.measured(rounds_of_cases.get(goal.case, ()))
        if value is not None:
            sign = "≥" if goal.at_least else "≤"
            held = "held" if goal.held(value) else "**missed**"
            lines.append(f"| {goal.text} | {sign} {goal.limit:g} | {value:.2f} | {held} |")
    return lines


# The file


@dataclass(frozen=True)
class Shown:
    """A server in the results."""

    name: str
    version: str
    configuration: str
    strengths: str


@dataclass(frozen=True)
class Report:
    command: str
    date: str
    machine: str
    versions: Sequence[str]
    rounds: int
    seconds: float
    busy: float
    servers: Sequence[Shown]
    cases: Sequence[tuple[Case, Rounds]]
    faults: Sequence[str]  # of RouterDash
    notes: Sequence[str]  # wrong responses of other servers

    def markdown(self) -> str:
        parts = [_HEAD.format(report=self, versions="; ".join(self.versions))]
        parts += ["## Goals", "\n".join(goals({case.name: rounds for case, rounds in self.cases}))]
        for case, rounds in self.cases:
            parts += [f"## {case.title} (`{case.name}`)", "\n".join(table(case, rounds))]
            parts += [case.note] if case.note else []
        parts += ["## RouterDash's own figures", "\n".join(self._audit())]
        parts += ["## Who was measured, and how they were set up", *self._setups()]
        return "\n\n".join(parts) + "\n"

    def _audit(self) -> Iterable[str]:
        yield _AUDIT
        yield ""
        if self.faults:
            yield from (f"* **Wrong:** {text}" for text in self.faults)
        else:
            yield "All of it held in every run."
        yield from (f"* {text}" for text in self.notes)

    def _setups(self) -> Iterable[str]:
        for server in self.servers:
            yield f"### {server.name} {server.version}".rstrip()
            if server.strengths:
                yield server.strengths
            if server.configuration:
                yield f"```\n{server.configuration.strip()}\n```"


_HEAD = """\
# Results

Written by `make bench`. The numbers are of this run and machine only.

```
{report.command}
```

* {report.date}; {report.machine}
* {versions}
* {report.rounds} rounds, {report.seconds:g} s each; the machine's load average before was {report.busy:.1f}. In
  every round each server is measured, in a random order; a number is the median of the rounds, a ratio (×) the
  median of the ratios to nginx within the rounds.
* CPU time is user and system time of processes, from `/proc`; *all processes* counts all that a server has until it
  has no work left: RouterDash until the database has every record.
* What is measured runs on core 0, the load and the upstreams on core 1; so do RouterDash's processes other than the
  gateway, as on any machine with more than one core.
* * Requests are chats of 1.5 KB unless noted otherwise, responses 607 bytes, events 210 bytes. The upstreams are two
  processes of `benchmarks/bench/upstream.c` with little overhead. Requests carry an API key; RouterDash and
  LiteLLM check it, the others need not.
* p50 and p99 are at saturation, where requests wait for one another, except at 200 requests a second."""

_AUDIT = """\
After every run RouterDash's figures were compared with those of clients and upstreams: no failure; at least as many
successes as complete responses of clients; one request at an upstream for each success; successes and cancellations
together at most those responses and the requests in flight when the clients disconnected (with streams and at a fixed
rate: exactly the responses). After every case `manage.py reconcile` compared database, journals and shown figures."""
