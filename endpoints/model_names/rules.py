"""Rules for model names: the problems for which a save is refused, each with its place."""

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import msgspec
from django.utils.translation import gettext as _

from endpoints import tags
from endpoints.model_names.name_cache import NameEntry
from endpoints.model_names.tables import MAX_FULL_SECS, MAX_LENGTH, MAX_STEPS, MAX_TARGETS, MAX_WEIGHT
from endpoints.problems import Problem
from gateway.model_names.plan import MAX_DEPTH, may_mean_name
from gateway.registry.schema import Step, Target

MAX_NAMES = 1000
MAX_PARAMETERS = 64
MAX_PARAMETER_BYTES = 16_384  # of all values of a name, as JSON
# The router decides them, or they are the content of the request.
RESERVED = frozenset(
    (
        *("model", "models", "stream", "stream_options", "messages", "input", "prompt", "instructions", "system"),
        *("query", "documents", "file", "image", "mask", "previous_response_id"),
    )
)


def problems(
    draft: NameEntry, others: Iterable[NameEntry], has_endpoint: Callable[[str], bool], before: NameEntry | None = None
) -> list[Problem]:
    """Return the problems of a name. `others`: all other names; `before`: the stored state of this one."""
    others = list(others)
    refused = [*_of_name(draft.name, others), *_of_steps(draft.steps, draft.name)]
    refused += _of_endpoints(draft.steps, has_endpoint, before)
    refused += _of_parameters(draft)
    if before is None and len(others) >= MAX_NAMES:
        refused.append(Problem("name", _("There may be at most %(most)d model names.") % {"most": MAX_NAMES}))
    return refused or list(_of_chains(draft, others))


def _of_name(name: str, others: Collection[NameEntry]) -> Iterator[Problem]:
    if not name or name != name.strip():
        yield Problem("name", _("Enter a name without spaces at its beginning and end."))
    elif len(name) > MAX_LENGTH or not name.isprintable():
        text = _("A name may have at most %(most)d characters, all of them printable.")
        yield Problem("name", text % {"most": MAX_LENGTH})
    elif name.count("*") > 1:
        yield Problem("name", _("A name may contain only one *."))
    elif any(other.name == name for other in others):
        yield Problem("name", _("This model name already exists."))


def _of_steps(steps: tuple[Step, ...], name: str) -> Iterator[Problem]:
    if not steps:
        yield Problem("steps", _("A name needs at least one step with a target."))
    if len(steps) > MAX_STEPS:
        yield Problem("steps", _("A name may have at most %(most)d steps.") % {"most": MAX_STEPS})
    if sum(len(step.targets) for step in steps) > MAX_TARGETS:
        yield Problem("steps", _("A name may have at most %(most)d targets.") % {"most": MAX_TARGETS})
    for place, step in _places(steps):
        if not step.targets:
            yield Problem(f"{place}.targets", _("A step needs at least one target."))
        secs = step.if_full_secs
        if secs is not None and not (math.isfinite(secs) and 0 <= secs <= MAX_FULL_SECS):
            text = _("Enter a number of seconds from 0 to %(most)d, or nothing.")
            yield Problem(f"{place}.if_full_secs", text % {"most": MAX_FULL_SECS})
        for index, target in enumerate(step.targets):
            yield from _of_target(target, f"{place}.targets[{index}]", name)


def _of_target(target: Target, place: str, name: str) -> Iterator[Problem]:
    model = target.model
    if not model.strip():
        yield Problem(f"{place}.model", _("A target needs a model."))
    elif model != model.strip() or len(model) > MAX_LENGTH or not model.isprintable():
        text = _("A model has at most %(most)d printable characters, without spaces around them.")
        yield Problem(f"{place}.model", text % {"most": MAX_LENGTH})
    elif "*" in model and model != name:
        yield Problem(
            f"{place}.model", _("A target may contain * only as the pattern itself: then it is the requested model.")
        )
    if target.endpoint_id is not None and target.tag is not None:
        yield Problem(f"{place}.tag", _("Choose an endpoint or a tag, not both."))
    if target.tag is not None and (len(target.tag) > tags.MAX_LENGTH or not target.tag.isprintable()):
        text = _("A tag has at most %(most)d printable characters.")
        yield Problem(f"{place}.tag", text % {"most": tags.MAX_LENGTH})
    if not 1 <= target.weight <= MAX_WEIGHT:
        text = _("A weight is a whole number from 1 to %(most)d.")
        yield Problem(f"{place}.weight", text % {"most": MAX_WEIGHT})


def _of_endpoints(
    steps: tuple[Step, ...], has_endpoint: Callable[[str], bool], before: NameEntry | None
) -> Iterator[Problem]:
    """Yield a problem for each unknown endpoint. One that was deleted since may stay: the rest can be edited."""
    stored = {target.endpoint_id for step in (before.steps if before else ()) for target in step.targets}
    for place, step in _places(steps):
        for index, target in enumerate(step.targets):
            endpoint_id = target.endpoint_id
            if endpoint_id is not None and endpoint_id not in stored and not has_endpoint(endpoint_id):
                yield Problem(f"{place}.targets[{index}].endpoint_id", _("There is no endpoint with this id."))


def _of_parameters(draft: NameEntry) -> Iterator[Problem]:
    given = (("defaults", draft.defaults), ("overrides", draft.overrides), ("dropped", draft.dropped))
    seen: set[str] = set()
    for place, names in given:
        for name in names:
            if name in RESERVED:
                text = _("The parameter %(name)s cannot be set or removed here.")
                yield Problem(place, text % {"name": name})
            elif not name or len(name) > MAX_LENGTH or not name.isprintable():
                yield Problem(place, _("The name of a parameter is empty, too long, or cannot be printed."))
            elif name in seen:
                yield Problem(place, _("The parameter %(name)s may be listed only once.") % {"name": name})
            seen.add(name)
    if len(seen) > MAX_PARAMETERS:
        yield Problem("defaults", _("A name may have at most %(most)d parameters.") % {"most": MAX_PARAMETERS})
    for place, values in (("defaults", draft.defaults), ("overrides", draft.overrides)):
        if not _can_be_sent(values):
            text = _("The values must be JSON that fits into %(most)d bytes; integers have at most 64 bits.")
            yield Problem(place, text % {"most": MAX_PARAMETER_BYTES})


def _can_be_sent(values: Mapping[str, object]) -> bool:
    try:
        msgspec.msgpack.encode(values)
        return len(json.dumps(values, allow_nan=False)) <= MAX_PARAMETER_BYTES
    except (ValueError, TypeError, OverflowError, RecursionError):
        return False


# Names that lead to other names


def _next_name(name: NameEntry, target: Target, names: Mapping[str, NameEntry]) -> NameEntry | None:
    """Return the other name that a target leads to."""
    return names.get(target.model) if may_mean_name(target, name.name) else None


def _of_chains(draft: NameEntry, others: Iterable[NameEntry]) -> Iterator[Problem]:
    names = {other.name: other for other in others if "*" not in other.name}
    if "*" not in draft.name:
        names[draft.name] = draft
    above = _depth_above(draft, names)
    for place, step in _places(draft.steps):
        for index, target in enumerate(step.targets):
            following = _next_name(draft, target, names)
            if following is None:
                continue
            model = f"{place}.targets[{index}].model"
            path = _path_back(following, draft, names)
            if path is not None:
                chain = " → ".join((draft.name, *path))
                yield Problem(model, _("This name leads back to itself: %(chain)s.") % {"chain": chain})
            elif above + _depth(following, names) > MAX_DEPTH:
                text = _("At most %(most)d names may lead to each other in a row.")
                yield Problem(model, text % {"most": MAX_DEPTH})


def _following(name: NameEntry, names: Mapping[str, NameEntry]) -> set[str]:
    following = (_next_name(name, target, names) for step in name.steps for target in step.targets)
    return {other.name for other in following if other is not None}


def _path_back(start: NameEntry, end: NameEntry, names: Mapping[str, NameEntry]) -> list[str] | None:
    """Return the names from one to another, both included; None if there is no way."""
    came_from: dict[str, str | None] = {start.name: None}
    waiting = [start.name]
    while waiting and end.name not in came_from:
        name = waiting.pop()
        for following in _following(names[name], names):
            if following not in came_from:
                came_from[following] = name
                waiting.append(following)
    if end.name not in came_from:
        return None
    path: list[str] = []
    name_before: str | None = end.name
    while name_before is not None:
        path.append(name_before)
        name_before = came_from[name_before]
    return path[::-1]


def _depth(name: NameEntry, names: Mapping[str, NameEntry]) -> int:
    """Return how many names are in the longest row that begins with one; more than MAX_DEPTH are not counted."""
    level, depth = {name.name}, 1
    while depth <= MAX_DEPTH and (level := {after for one in level for after in _following(names[one], names)}):
        depth += 1
    return depth


def _depth_above(name: NameEntry, names: Mapping[str, NameEntry]) -> int:
    """Return how many names are in the longest row that ends with one, itself counted."""
    leading: dict[str, set[str]] = {}
    for other in names.values():
        for following in _following(other, names):
            leading.setdefault(following, set()).add(other.name)
    level, depth = {name.name}, 1
    while depth <= MAX_DEPTH and (level := {before for one in level for before in leading.get(one, ())}):
        depth += 1
    return depth


def _places(steps: tuple[Step, ...]) -> Iterator[tuple[str, Step]]:
    return ((f"steps[{index}]", step) for index, step in enumerate(steps))
