"""Rules for what pages show of adaptive routing: conversations, routes, and what was learned."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from gateway.base import request_kinds
from gateway.ipc import record
from tests.displayed_figures import Place
from tests.expected_by_machines import LearnedSeconds, learned_seconds
from tests.expected_figures import ABSENT, MINUTE, Column, Reported, Row, Rule, Shown, fact, local_time, since, table

MOST_TURNS = 500  # of which the figures of a conversation are
SHOWN_LEARNED = 6
LEAST_COMPLETIONS = 5  # before a time is called usual


def together(*rules: Rule) -> Rule:
    """Return the rule of a page with parts of several rules."""
    return lambda page: {place: figures for rule in rules for place, figures in rule(page).items()}


# Model names


def model_names(page: Shown) -> Reported:
    """The list of names on the page of models, which filters hide."""
    if page.query.keys() - {"sort"}:
        return {}
    listed = page.api("/api/model-names")["model_names"]
    states = [page.api(f"/api/model-names/{name['id']}/state") for name in listed]
    columns: dict[str, Sequence[Column]] = {
        "Serving step": [lambda row: [row["serving_step"]] if row["serving_step"] else []],
        "Leads to": [lambda row: [100 * share for share in _shared(row)]],
    }
    return table("names", states, "name", columns)


def _shared(name: Row) -> list[float]:
    steps = [step["targets"] for step in name["steps"] if len(step["targets"]) > 1]
    return [target["share"] for targets in steps for target in targets]


def model_name(page: Shown) -> Reported:
    reported: Reported = {}
    for step in page.api(f"/api/model-names/{page.known['name_id']}/state")["steps"]:
        panel = f"step-{step['number']}"
        columns: dict[str, Sequence[Column]] = {
            "Share": [lambda row: 100 * row["share"]],
            "Available": ["endpoints_available", "endpoints"],
        }
        reported |= {Place(panel): [step["number"]], **table(panel, step["targets"], "model", columns)}
    return reported


# Conversations


def conversations(page: Shown) -> Reported:
    rows = page.api("/api/conversations", **page.query)["conversations"]
    assert rows or page.query, "the sample has conversations"
    columns: dict[str, Sequence[Column]] = {
        "Requests": ["turns"],
        "In / out": ["input_tokens", "output_tokens"],
        "From the cache": [_cached],
        "Endpoints": [_served],
        "Moved": ["moves"],
    }
    return {Place("cv-h"): [MOST_TURNS]} | table("cv-h", rows, "conversation", columns)


def _cached(row: Row) -> float | None:
    return None if row["cached_share"] is None else 100 * row["cached_share"]


def _served(row: Row) -> list[Any]:
    """Return the requests of the first two endpoints, if there are several, and the number of more than two."""
    served = [of["turns"] for of in row["endpoints"]]
    if len(served) < 2:
        return [] if served else [None]
    return [*served[:2], *([len(served)] if len(served) > 2 else [])]


def conversation(page: Shown) -> Reported:
    row = page.api(f"/api/conversations/{page.known['conversation']}")
    columns: dict[str, Sequence[Column]] = {
        "In / out": ["input_tokens", "output_tokens"],
        "From the cache": ["cached_tokens"],
        "Time to first token": ["first_token_ms"],
        "Duration": ["duration_ms"],
    }
    return {
        Place("cv"): [of["turns"] for of in row["endpoints"]],
        **fact("cv", "Requests", row["turns"]),
        **fact("cv", "Tokens (in / out)", row["input_tokens"], row["output_tokens"]),
        **fact("cv", "From the cache", _cached(row)),
        **fact("cv", "Moved", row["moves"]),
        **table("tu", row["requests"], lambda turn: local_time(turn["completed_at"], "%m-%d %H:%M:%S"), columns),
    }


# The route of a model


def route(page: Shown) -> Reported:
    name = page.known["name"]
    model = page.api(f"/api/dashboard/models/{quote(name)}")
    if not model["endpoints"]:
        return {}
    kind = next((kind.name for kind in request_kinds.KINDS if kind.name in model["supported_apis"]), None)
    preview = page.api("/api/route", model=name, kind=kind)
    demand = preview["demand"]
    columns: dict[str, Sequence[Column]] = {
        "Candidate": [lambda row: row["tier"] if row["tier"] > 1 else ABSENT],
        "Cost": [_cost],
        "Own time": [_part("own_ms")],
        "Delay of others": [_part("harm_ms")],
        "Loading": [_part("cold_ms")],
        "Wait": [_part("wait_ms")],
    }
    return {Place("where"): [demand["prompt_tokens"], demand["output_tokens"]]} | table(
        "where", preview["endpoints"], "name", columns
    )


def _cost(row: Row) -> list[Any]:
    parts = row.get("cost_parts")
    if parts is None:
        return [None]
    factor, weight = parts["factor"], parts["weight"]
    return [row["cost_ms"], factor if factor > 1 else ABSENT, weight if weight != 1 else ABSENT]


def _part(name: str) -> Callable[[Row], Any]:
    return lambda row: row["cost_parts"][name] if "cost_parts" in row else None


# What was learned of an endpoint


def learned(page: Shown) -> Reported:
    endpoint_id = page.known["endpoint_id"]
    rows, seconds = page.api(f"/api/endpoints/{endpoint_id}/learned"), learned_seconds(page)
    reports = sum(row["prefix_reports"] for row in rows)
    hits = sum((row["prefix_hit_rate"] or 0) * row["prefix_reports"] for row in rows)
    reported = fact("learned", "Responses that found their prefix", 100 * hits / reports if reports else ABSENT)
    reported[Place("learned")] = []
    for row in rows[:SHOWN_LEARNED]:
        age = since(row["newest"])
        reported[Place("learned")] += [row["samples"], age if age >= MINUTE else ABSENT]
        if row["tokens_per_second_alone"]:
            reported[Place("learned")] += _curve(row, seconds[endpoint_id, row["kind"], row["model_id"]])
        for label, figures in _learned_facts(row):
            reported.setdefault(Place("learned", "", label), []).extend(figures)
    if len(rows) > SHOWN_LEARNED:
        reported[Place("learned")] += [SHOWN_LEARNED, len(rows)]
    return reported


def _learned_facts(row: Row) -> Iterator[tuple[str, list[Any]]]:
    yield "Writes alone", [row["tokens_per_second_alone"] or ABSENT]
    yield "Writes beside three others", [row["tokens_per_second_with_four"] or ABSENT]
    yield "Reads prompts", [row["prompt_tokens_per_second"] or ABSENT]
    yield "Before each response", [ABSENT if row["setup_ms"] is None else row["setup_ms"]]
    yield "Loads the model in", [row["load_ms"] or ABSENT]
    yield "Actual to predicted", [row["ratio_p50"] or ABSENT, row["ratio_p90"] or ABSENT]
    yield "Found their prefix", [100 * row["prefix_hit_rate"] if row["prefix_reports"] else ABSENT]


def _curve(row: Row, of: LearnedSeconds) -> list[float]:
    """Return the text of the curve for screen readers, then the figures at its axes."""
    most = max([4, *(math.ceil(point["in_flight"]) for point in row["points"])])
    low, high = (1000 * (of["write"] + of["share"] * number) for number in (1, most))
    times = sorted(point["token_ms"] for point in row["points"])
    top = 1.15 * max([high, *times[: max(1, round(0.95 * len(times)))][-1:]])
    return [low, high, most, top / 2, top, *range(1, most + 1, math.ceil((most - 1) / 4))]


# The explanation of a request


def explanation(page: Shown) -> Reported:
    """Return the parts of a request's time beside what is usual, by the load that its last attempt recorded."""
    row = page.api(f"/api/requests/{page.known['request_id']}")
    if not row["attempts"] or row["attempts"][-1]["work"] is None:
        return {}
    attempt = row["attempts"][-1]
    work = attempt["work"]
    of, completions = _usual(page, row, attempt["endpoint_id"])
    unread = _unread(row, work)
    begin = token = None
    if of and attempt["outcome"] == record.OK and not work["is_cold"] and work["mean_in_flight"] is not None:
        begin = 1000 * (of["setup"] + of["read"] * (work["pending_tokens"] + unread))
        token = 1000 * (of["write"] + of["share"] * work["mean_in_flight"])
    costs = [
        candidate["cost_ms"] for candidate in attempt["costs"] if candidate["endpoint_id"] != attempt["endpoint_id"]
    ]
    expected, took = work["expected_ms"], attempt["duration_ms"]
    saved = 1000 * of["read"] * work["prefix_tokens"] if of else 0
    stalls = min(took, 1000 * of["read"] * work["read_tokens"]) if of else 0
    return {
        Place("ex"): [completions or ABSENT],
        **table("ex", _parts(row, begin, token, stalls), "part", {name: [name] for name in ("Took", "Usual", "Ratio")}),
        **fact("ex", "Expected before", expected, took, took / expected if expected else None),
        **fact("ex", "Next best", costs[0] if costs else ABSENT),
        **fact("ex", "Output tokens", *([] if row["output_tokens"] is None else _written(row, work))),
        **fact("ex", "Prompt tokens to read", unread),
        **fact("ex", "Saved by the prefix cache", saved or ABSENT),
        **fact("ex", "Mean requests in flight", work["mean_in_flight"]),
        **fact("ex", "Prompt tokens of others", work["read_tokens"] or ABSENT),
    }


def _usual(page: Shown, row: Row, endpoint_id: str) -> tuple[LearnedSeconds, int]:
    """Return what is usual at the endpoint, and of how many responses; nothing if they are too few."""
    if endpoint_id not in page.busy.ids.values():
        return {}, 0
    rows = page.api(f"/api/endpoints/{endpoint_id}/learned")
    samples = sum(of["samples"] for of in rows if (of["kind"], of["model_id"]) == (row["kind"], row["model"]))
    known = learned_seconds(page).get((endpoint_id, row["kind"], row["model"]), {})
    return (known, samples) if samples >= LEAST_COMPLETIONS and known else ({}, 0)


def _unread(row: Row, work: Row) -> int:
    if row["input_tokens"] is not None and row["cached_tokens"] is not None:
        return int(row["input_tokens"] - row["cached_tokens"])
    return int((work["prompt_tokens"] if row["input_tokens"] is None else row["input_tokens"]) - work["prefix_tokens"])


def _written(row: Row, work: Row) -> list[int]:
    return [row["output_tokens"], work["output_tokens"]]


def _parts(row: Row, begin: float | None, token: float | None, stalls: float) -> Iterator[Row]:
    """Yield parts with their usual times in ms. `begin`: until the prompt is read; `token`: for each output token."""
    *earlier, attempt = row["attempts"]
    yield _explained("Queue", row["queue_ms"] or 0)
    if earlier:
        yield _explained("Earlier attempts", sum(earlier_attempt["duration_ms"] for earlier_attempt in earlier))
    if attempt["connect_ms"] is not None:
        yield _explained("Connect: opening a connection", attempt["connect_ms"])
    ready, end = attempt["at_ms"] + (attempt["connect_ms"] or 0), attempt["at_ms"] + attempt["duration_ms"]
    first, output = row["first_token_ms"], row["output_tokens"]
    if first is not None and ready <= first <= end:
        usual = None if begin is None or token is None else begin + token
        yield _explained("Prefill: reading the prompt, until the first token", first - ready, usual)
        usual = (output - 1) * token if output and token is not None else None
        yield _explained("Decode: generating the rest", end - first - stalls, usual)
    else:
        usual = None if begin is None or token is None or output is None else begin + output * token
        yield _explained("Response", end - ready - stalls, usual)
    if stalls:
        yield _explained("Stalls: waiting while the endpoint read other prompts", stalls, stalls)


def _explained(name: str, took: float, usual: float | None = None) -> Row:
    return {"part": name, "Took": took, "Usual": usual, "Ratio": took / usual if usual else None}
