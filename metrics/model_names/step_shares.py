"""Which part of the requests each target of a step of a model name gets at this moment."""

from collections.abc import Callable

from gateway.model_names.plan import Leaf, PlannedStep, leaves_of

Works = Callable[[Leaf], bool]


def step_shares(step: PlannedStep, works: Works) -> dict[int, float]:
    """Return parts of 1 by the id() of the leaves that get requests; `works`: a leaf can serve them now.

    Requests draw the order of the targets by their weights, and go to the first one that works: those that work share
    the requests in the ratio of their weights. Without any weight, the first of them gets all.
    """
    working = [weighted for weighted in step.targets if any(map(works, leaves_of(weighted[1])))]
    total = sum(weight for weight, _ in working)
    shares: dict[int, float] = {}
    for place, (weight, target) in enumerate(working):
        part = weight / total if total else float(place == 0)
        if not part:
            continue
        if isinstance(target, Leaf):
            shares[id(target)] = part
        else:
            inner = next(
                inner_step
                for inner_step in target.steps
                if any(works(leaf) for _, to in inner_step.targets for leaf in leaves_of(to))
            )
            shares |= {leaf: part * share for leaf, share in step_shares(inner, works).items()}
    return shares
