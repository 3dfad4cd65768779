"""Steps of model names that requests have used lately."""

import random

import msgspec
import pytest

from gateway.ipc.record import AttemptRecord
from metrics.model_names.used_steps import SECONDS, NameSteps, StepUse
from tests.metrics.records import AT, attempt, request

MINUTES = 60.0


def use(*events: tuple[float, int]) -> StepUse:
    """Each event is a minute before now, and a step."""
    made = StepUse()
    for minutes, step in events:
        made.add(AT - minutes * MINUTES, step)
    return made


@pytest.mark.parametrize(
    ("events", "left"),
    [
        ([(0, 1)], False),
        ([(4, 2), (0, 2)], False),
        ([(6, 2), (0, 2)], True),
        ([(6, 3), (0, 2)], True),
        ([(6, 2), (3, 1), (0, 2)], False),
        ([(20, 1), (6, 2), (1, 2)], True),
        ([(20, 2), (10, 2)], False),  # no requests come any more
        ([(20, 2), (10, 1)], False),
    ],
)
def test_a_first_step_that_serves_nothing(events: list[tuple[float, int]], left: bool) -> None:
    assert use(*events).is_left(AT) is left


def test_names_are_kept_by_what_was_requested() -> None:
    steps = NameSteps()
    made = [
        request(model=model, ago=ago, attempts=(with_step(step),))
        for model, step, ago in (("fast", 2, SECONDS + 1), ("fast", 2, 1.0), ("slow", 1, 1.0), ("tiny", 0, 1.0))
    ]
    random.Random(1).shuffle(made)
    steps.add(made)
    assert [(name, step_use.step) for name, step_use in steps.left(AT).items()] == [("fast", 2)]


def with_step(step: int) -> AttemptRecord:
    return msgspec.structs.replace(attempt(), step=step)
