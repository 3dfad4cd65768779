"""From samples to medians, ratios and tables."""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.bench.cases import HEADINGS, RATIOS, Case, Sample

YARDSTICK = "nginx"
Rounds = Sequence[Mapping[str, Sample]]  # one a round: server -> sample


def median(rounds: Rounds, server: str, column: str) -> float | None:
    values = [samples[server][column] for samples in rounds if column in samples.get(server, {})]
    return statistics.median(values) if values else None


def ratio(rounds: Rounds, server: str, column: str, to: str = YARDSTICK) -> float | None:
    """The median over the rounds of the ratio within a round: a slow spell of the machine hits both."""
    found = [
        samples[server][column] / samples[to][column]
        for samples in rounds
        if column in samples.get(server, {}) and samples.get(to, {}).get(column)
    ]
    return statistics.median(found) if found else None


def add_differences(samples: Mapping[str, Sample]) -> None:
    """What a proxy adds to direct requests, within one round."""
    direct = samples.get("direct", {})
    for name, sample in samples.items():
        if name == "direct":
            continue
        if "duration" in sample and "duration" in direct:
            sample["longer"] = sample["duration"] - direct["duration"]
        for column in ("p50", "p99"):
            if column in sample and column in direct:
                sample[f"added_{column}"] = sample[column] - direct[column]


def table(case: Case, rounds: Rounds) -> list[str]:
    """One case in Markdown; servers in the order of their first round's sample."""
    names = list(dict.fromkeys(name for samples in rounds for name in samples))
    columns = [column for column in case.columns if any(median(rounds, name, column) is not None for name in names)]
    heads = ["", *(_heading(column, case) for column in columns)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name in names:
        cells = [_cell(rounds, name, column) for column in columns]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines


def _heading(column: str, case: Case) -> str:
    return HEADINGS[column].format(unit=case.unit)


def _cell(rounds: Rounds, name: str, column: str) -> str:
    value = median(rounds, name, column)
    if value is None:
        return "—"
    if name == "direct" and column in ("cpu", "all"):
        return "—"
    text = number(value)
    times = ratio(rounds, name, column) if column in RATIOS and name != YARDSTICK else None
    return f"{text} ({times:.2f} ×)" if times is not None else text


def number(value: float) -> str:
    """Three figures are all that a measurement like this has."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.1 else f"{value:.2f}"
