from dataclasses import replace

import pytest

from endpoints.filters import Selection
from endpoints.registry import Entry, ModelEntry

BASE = Entry(id="1", name="GPU-box", base_url="http://10.0.4.21:8000", kind="vllm", status="online")
OTHER = Entry(id="2", name="mac", base_url="http://mac.lan:11434", kind="ollama", status="offline")


@pytest.mark.parametrize(
    ("chosen", "changes"),
    [
        (Selection(search="gpu 8000"), {}),
        (Selection(search="basement"), {"notes": "in the Basement"}),
        (Selection(search="rack"), {"tags": ("Rack 3",)}),
        (Selection(search="qwen"), {"models": (ModelEntry("org/Qwen3"),)}),
        (Selection(status="online"), {}),
        (Selection(status="draining"), {"operator_state": "draining"}),
        (Selection(kind="vllm"), {}),
        (Selection(model="ORG/qwen3"), {"models": (ModelEntry("org/Qwen3"),)}),
        (Selection(model="Qwen/Qwen3"), {"models": (ModelEntry("qwen3:8b", "Qwen/Qwen3"),)}),
        (Selection(tag="tokyo"), {"tags": ("Tokyo",)}),
    ],
)
def test_each_condition_filters(chosen: Selection, changes: dict[str, object]) -> None:
    assert [entry.id for entry in chosen.of([replace(BASE, **changes), OTHER])] == ["1"]  # type: ignore[arg-type]


def test_without_conditions_all_endpoints_match() -> None:
    assert len(Selection().of([BASE, OTHER])) == 2


def test_the_operator_state_takes_precedence_over_the_status() -> None:
    assert Selection(status="online").of([replace(BASE, operator_state="disabled")]) == []


def test_all_conditions_must_hold() -> None:
    assert Selection(search="gpu", kind="ollama").of([BASE, OTHER]) == []


def test_an_empty_status_matches_no_endpoint() -> None:
    assert Selection(status="").of([BASE]) == []
