"""Rules detect figures that a page lacks and figures that no rule expects."""

import pytest

from tests.displayed_figures import Place
from tests.expected_figures import ABSENT, AnyOrder, Between, Reported, differences

HERE = Place("panel", "row", "column")


def differences_of(text: str, *reported: Reported) -> list[str]:
    return list(differences({HERE: text}, reported[0], reported[-1], ["llama3"]))


@pytest.mark.parametrize(
    ("text", "reported"),
    [("llama3: 3 of 4", [3, 4]), ("—", [None]), ("3", [3, ABSENT]), ("4, 3", AnyOrder([3, 4])), ("in 60 min", [])],
)
def test_a_place_shows_the_reported_figure(text, reported):
    assert differences_of(text, {HERE: reported}) == []


@pytest.mark.parametrize(
    ("text", "reported"),
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
def test_anything_else_is_a_difference(text, reported):
    assert len(differences_of(text, {HERE: reported})) == 1


def test_a_figure_without_a_rule_is_a_difference():
    assert len(differences_of("3", {})) == 1


def test_a_changing_figure_is_between_two_reads():
    assert differences_of("5 s", {HERE: [4800]}, {HERE: [5300]}) == []
    assert len(differences_of("5 s", {HERE: [6100]}, {HERE: [6300]})) == 1


def test_a_figure_measured_at_each_request_is_between():
    assert differences_of("3 ms", {HERE: [Between(1, 15)]}) == []
    assert (
        len(differences_of("30 ms", {HERE: [Between(1, 15)]})) == len(differences_of("", {HERE: [Between(1, 15)]})) == 1
    )
