"""What is told has to be shown, and what is shown has to be told."""

import pytest

from tests.shown import Place
from tests.told import ABSENT, AnyOrder, Between, Told, differences

HERE = Place("panel", "row", "column")


def found(text: str, *told: Told) -> list[str]:
    return list(differences({HERE: text}, told[0], told[-1], ["llama3"]))


@pytest.mark.parametrize(
    ("text", "told"),
    [("llama3: 3 of 4", [3, 4]), ("—", [None]), ("3", [3, ABSENT]), ("4, 3", AnyOrder([3, 4])), ("in 60 min", [])],
)
def test_a_place_shows_what_is_told(text, told):
    assert found(text, {HERE: told}) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("3", []),
        ("", [3]),
        ("3", [4]),
        ("3 4", [3]),
        ("4, 3", [3, 4]),
        ("0", [None]),
        ("—", [0]),
        ("", [None]),
        ("x3", []),
    ],
)
def test_anything_else_is_a_difference(text, told):
    assert len(found(text, {HERE: told})) == 1


def test_a_figure_without_a_rule_is_a_difference():
    assert len(found("3", {})) == 1


def test_a_figure_that_moves_lies_between():
    assert found("5 s", {HERE: [4800]}, {HERE: [5300]}) == []
    assert len(found("5 s", {HERE: [6100]}, {HERE: [6300]})) == 1


def test_a_figure_that_is_measured_anew_lies_between():
    assert found("3 ms", {HERE: [Between(1, 15)]}) == []
    assert len(found("30 ms", {HERE: [Between(1, 15)]})) == len(found("", {HERE: [Between(1, 15)]})) == 1
