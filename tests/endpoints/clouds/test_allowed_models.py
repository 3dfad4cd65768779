"""Patterns of allowed models."""

import pytest

from endpoints.clouds import allowed_models


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("gpt-5", "gpt-5", True),
        ("gpt-5", "GPT-5", True),
        ("gpt-5", "gpt-5-mini", False),
        ("gpt-5*", "gpt-5-mini", True),
        ("*mini", "gpt-5-mini", True),
        ("*mini", "gpt-5-minimum", False),
        ("gpt-*-mini", "gpt-5-mini", True),
        ("gpt-*-mini", "gpt-mini", False),  # the two parts must not overlap
        ("*", "anything", True),
        ("a*b*c", "a1b2c", True),
        ("a*b*c", "acb", False),
        ("a.c", "abc", False),  # no regular expression
        ("anthropic/*", "anthropic/claude", True),
    ],
)
def test_a_pattern(pattern: str, name: str, expected: bool) -> None:
    assert allowed_models.matches([pattern], name) is expected


@pytest.mark.parametrize("patterns", [None, []])
def test_without_patterns_all_models_are_allowed(patterns: list[str] | None) -> None:
    assert allowed_models.matches(patterns, "anything")


def test_one_of_several_patterns_is_enough() -> None:
    assert allowed_models.matches(["a*", "b"], "b")


def test_text_is_separated_by_commas_and_lines() -> None:
    assert allowed_models.parse("gpt-5*, o3\n\n o3 、claude-*\n") == ["gpt-5*", "o3", "claude-*"]


def test_names_are_patterns_without_a_star() -> None:
    assert allowed_models.names(["gpt-*", "deployment"]) == ["deployment"]
    assert allowed_models.names(None) == []


def test_a_long_pattern_with_many_stars_takes_no_time() -> None:
    assert not allowed_models.matches(["a*" * 128 + "b"], "a" * 256)
