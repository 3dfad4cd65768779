"""Reader of `genai_prices/data.py`: one list of nested calls with constant arguments, read as a syntax tree."""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from gateway.prices.book import DEFAULT_SERVICE_TIERS
from gateway.prices.evaluation import MINUTES
from gateway.registry.patterns import matches
from gateway.registry.prices import EVERY_DAY
from metrics.costs.amounts import nanos

# Fields of a ModelPrice in the order of our amounts, and the factor to our units as a fraction.
AMOUNTS = (
    ("input_mtok", 1, 1),
    ("cache_read_mtok", 1, 1),
    ("cache_write_mtok", 1, 1),
    ("cache_write_1h_mtok", 1, 1),
    ("output_mtok", 1, 1),
    ("output_reasoning_mtok", 1, 1),
    ("requests_kcount", 1, 1),
    ("", 1, 1),  # no price for whole images
    ("audio_hours", MINUTES, 60),
)
TIER_KEYS = frozenset(("processing", "service_tier", "speed"))  # of a variant, which are our service tiers
_DATED = re.compile(r"\^(?P<name>.*?)(?P<at>\[-@\]|-)(\\d\{8\}|\\d\{4\}-\\d\{2\}-\\d\{2\})\$")
_NUMBERED = re.compile(r"\^(?P<name>[^\\()\[\]]*(?:\\\.[^\\()\[\]]*)*)\\d")
_NOT_SPEECH = re.compile(r"\^\(\?!\.\*-\[tT\]\[tT\]\[sS\].*\)")  # speech models have entries of their own
Key = tuple[str, int, str, tuple[int, int, int] | None]  # pattern, prompt size, tier, hours


@dataclass(frozen=True)
class Call:
    """A call in the source: the name of a class, and its arguments."""

    name: str
    arguments: Mapping[str, Any]

    def get(self, name: str) -> Any:
        return self.arguments.get(name)

    @property
    def id(self) -> str:
        return str(self.arguments["id"])


@dataclass(frozen=True)
class Draft:
    """A row without its number."""

    key: Key
    valid_from: int
    valid_until: int | None
    amounts: tuple[int | None, ...]


@dataclass
class Problems:
    """What of the source the rows do not contain."""

    clauses: Counter[str] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    variants: Counter[str] = field(default_factory=Counter)
    rounded: Counter[str] = field(default_factory=Counter)

    def lines(self) -> Iterator[str]:
        for title, counts in vars(self).items():
            yield from (f"{title}: {name}, {count} times" for name, count in sorted(counts.items()))


def providers(source: str) -> list[Call]:
    """Return the providers of the module's text."""
    (expression,) = (
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "providers"
    )
    return list(_value(expression))


def _value(node: Any) -> Any:  # of a constant expression
    match node:
        case ast.Constant(value=value):
            return value
        case ast.List(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_value(key): _value(value) for key, value in zip(keys, values, strict=True)}
        case ast.Call(func=ast.Name(id="Decimal"), args=[argument]):
            return Decimal(_value(argument))
        case ast.Call(func=ast.Attribute(attr="date"), args=arguments):
            return int(datetime(*map(_value, arguments), tzinfo=UTC).timestamp())  # type: ignore[misc]
        case ast.Call(func=ast.Attribute(attr="time"), args=[hour, minute]):
            return 60 * _value(hour) + _value(minute)
        case ast.Call(func=ast.Name(id=name), keywords=keywords, args=[]):
            return Call(name, {word.arg or "": _value(word.value) for word in keywords})
    raise ValueError(f"line {node.lineno} has an expression that is not known: {ast.unparse(node)[:100]}")


def rows_of(sources: list[Call], problems: Problems) -> list[Draft]:
    """Return the rows of the first provider, and those of others for models that it has no price for."""
    taken: set[str] = set()
    rows: list[Draft] = []
    for index, provider in enumerate(sources):
        own = set(taken)
        for model in provider.get("models"):
            for pattern in patterns(model.get("match"), problems):
                pattern = pattern.lower()
                if pattern in taken or (index and any(matches(earlier, pattern.replace("*", "")) for earlier in own)):
                    continue  # the first model that matches counts
                taken.add(pattern)
                rows += _rows(pattern, model, problems)
    return rows


def patterns(clause: Call, problems: Problems) -> list[str]:
    """Return the patterns of a clause; none for one that no pattern can express."""
    match clause.name:
        case "ClauseEquals":
            return [clause.get("equals")]
        case "ClauseStartsWith":
            return [clause.get("starts_with") + "*"]
        case "ClauseEndsWith":
            return ["*" + clause.get("ends_with")]
        case "ClauseContains":
            return ["*" + clause.get("contains") + "*"]
        case "ClauseOr":
            return list(dict.fromkeys(pattern for part in clause.get("or_") for pattern in patterns(part, problems)))
        case "ClauseAnd":
            parts = [part for part in clause.get("and_") if not _NOT_SPEECH.fullmatch(part.get("regex") or "")]
            if len(parts) == 1:
                return patterns(parts[0], problems)
    of_regex = _of_regex(clause.get("regex") or "")
    if not of_regex:
        problems.clauses[str(clause.get("regex") or clause.name)] += 1
    return of_regex


def _of_regex(regex: str) -> list[str]:
    if (dated := _DATED.fullmatch(regex)) is not None:
        name = dated["name"].replace("\\", "")
        return [f"{name}{mark}20*" for mark in dated["at"].strip("[]")]
    if (numbered := _NUMBERED.fullmatch(regex)) is not None:
        name = numbered["name"].replace("\\", "")
        return [f"{name}{digit}*" for digit in "0123456789"]
    return []


def _rows(pattern: str, model: Call, problems: Problems) -> Iterator[Draft]:
    listed = model.get("prices")
    conditional = listed if isinstance(listed, list) else [Call("ConditionalPrice", {"prices": listed})]
    variants = [variant for variant in model.get("price_variants") or () if variant.get("prices").arguments]
    for start, end, window, prices in _spans(conditional):
        yield from _sized(pattern, "", start, end, window, prices, problems)
        for variant in variants:
            tier = _tier(variant, problems)
            begin = max(start, _start_of(variant))
            if tier is not None and (end is None or begin < end):
                laid_over = {**prices.arguments, **variant.get("prices").arguments}
                yield from _sized(pattern, tier, begin, end, window, Call("ModelPrice", laid_over), problems)


def _start_of(item: Call) -> int:
    return int((item.get("constraint") or Call("", {})).get("start_date") or 0)


def _spans(items: list[Call]) -> Iterator[tuple[int, int | None, tuple[int, int, int] | None, Call]]:
    """Return start, end, hours and prices of each item. The last item that is active counts."""
    for index, item in enumerate(items):
        constraint = item.get("constraint")
        later = [_start_of(other) for other in items[index + 1 :] if _start_of(other)]
        end = min(later, default=None)
        if constraint is not None and constraint.name == "TimeOfDateConstraint":
            # No item has a date and hours, so that prices by the hour begin with the dated ones before them.
            start = max((_start_of(other) for other in items[:index]), default=0)
            yield start, end, (constraint.get("start_time"), constraint.get("end_time"), EVERY_DAY), item.get("prices")
        elif end is None or _start_of(item) < end:
            yield _start_of(item), end, None, item.get("prices")


def _tier(variant: Call, problems: Problems) -> str | None:
    when = variant.get("when")
    if len(when) == 1 and when.keys() <= TIER_KEYS:
        (tier,) = when.values()
        if tier not in DEFAULT_SERVICE_TIERS:
            return str(tier)
    problems.variants[str(when)] += 1
    return None


def _sized(
    pattern: str,
    tier: str,
    start: int,
    end: int | None,
    window: tuple[int, int, int] | None,
    prices: Call,
    problems: Problems,
) -> Iterator[Draft]:
    """Return a row for each size of prompts that has prices of its own."""
    known = [unit[0] for unit in AMOUNTS]
    problems.fields.update(name for name in prices.arguments if name not in known)
    tiered = [price for price in prices.arguments.values() if isinstance(price, Call)]
    sizes = sorted({0, *(band.get("start") for price in tiered for band in price.get("tiers"))})
    for size in sizes:
        amounts = tuple(_amount(prices, unit, size, pattern, problems) for unit in AMOUNTS)
        if any(amount is not None for amount in amounts):
            yield Draft((pattern, size, tier, window), start, end, amounts)


def _amount(prices: Call, unit: tuple[str, int, int], size: int, pattern: str, problems: Problems) -> int | None:
    name, times, over = unit
    value = prices.get(name)
    if isinstance(value, Call):
        steps = [tier for tier in value.get("tiers") if tier.get("start") <= size]
        value = max(steps, key=lambda step: int(step.get("start"))).get("price") if steps else value.get("base")
    if value is None:
        return None
    amount, exact = nanos(Decimal(value) * times / over)
    if not exact:
        problems.rounded[f"{pattern} {name} {value}"] += 1
    return amount
