"""Endpoints are made into facts for gateways, and entries again, also without the database."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from endpoints.registry import Entry, ModelEntry, Models
from gateway.registry.schema import EndpointFacts, Model
from routerdash.publication.facts import endpoint_facts, endpoint_models, entry_of
from tests.metrics.records import A

pytestmark = pytest.mark.every_database

FACTS = EndpointFacts(
    id=A, slot=3, name="a", base_url="http://a.invalid:8000", kind="vllm", status="online",
    operator_state="draining", sealed_key="sealed", timeout_secs=7.0, connect_timeout_secs=1.0,
    idle_timeout_secs=2.0, total_timeout_secs=3.0, max_concurrency=4, drain_until=1776254400.0,
    learned_slots=6, assumed_slots=5,
)  # fmt: skip
MODEL = Model("llama3.3:70b", "meta/Llama", ("llama",), ("chat",), 8192)
PLAIN = Entry(id=A, name="a", base_url="http://a.invalid:8000", kind="vllm")


def read_back(entry: Entry) -> Entry:
    return entry_of(endpoint_facts(entry, 0), endpoint_models(entry))


def test_a_published_endpoint_is_an_entry_again() -> None:
    entry = entry_of(FACTS, [MODEL])
    assert replace(entry, models=Models()) == Entry(
        id=A, name="a", base_url="http://a.invalid:8000", kind="vllm", status="online", operator_state="draining",
        sealed_api_key="sealed", inference_timeout_secs=7, connect_timeout_secs=1, idle_timeout_secs=2,
        total_timeout_secs=3, max_concurrency=4, learned_slots=6, assumed_slots=5,
        drain_until=datetime(2026, 4, 15, 12, tzinfo=UTC),
    )  # fmt: skip
    (model,) = entry.models
    assert (model.id, model.canonical_name, model.capabilities, model.max_tokens) == (
        "llama3.3:70b",
        "meta/Llama",
        ("chat",),
        8192,
    )


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"connect_timeout_secs": 1, "idle_timeout_secs": 2, "total_timeout_secs": 3, "max_concurrency": 4},
        {"learned_slots": 6},
        {"max_concurrency": 4, "learned_slots": 6},
        {"max_concurrency": 6, "learned_slots": 6},
        {"assumed_slots": 4},
    ],
)
def test_limits_that_no_administrator_has_set_do_not_look_set(limits: dict[str, Any]) -> None:
    entry = replace(PLAIN, **limits)
    assert read_back(entry) == entry
    assert endpoint_facts(entry, 0).slots == entry.slots


@pytest.mark.parametrize(
    ("kind", "external", "expected"),
    [("vllm", None, False), ("vllm", True, True), ("openai", None, True), ("openai", False, False)],
)
def test_an_endpoint_is_external_if_marked_or_a_cloud(kind: str, external: bool | None, expected: bool) -> None:
    entry = replace(PLAIN, kind=kind, external=external)
    assert endpoint_facts(entry, 0).external is expected
    assert read_back(entry) == entry


def test_a_mark_that_changes_nothing_reads_as_not_set() -> None:
    assert read_back(replace(PLAIN, external=False)).external is None


def test_the_api_version_of_azure_is_published() -> None:
    assert endpoint_facts(replace(PLAIN, kind="azure", api_version="2024-10-21"), 0).api_version == "2024-10-21"


def test_the_default_of_the_connect_timeout_reads_as_not_set() -> None:
    assert endpoint_facts(PLAIN, 0).connect_timeout_secs == 5.0
    assert read_back(replace(PLAIN, connect_timeout_secs=5)).connect_timeout_secs is None


def test_an_endpoint_of_an_older_release_is_read() -> None:
    """It has one number of slots, and not where that comes from."""
    older = msgspec.to_builtins(FACTS)
    del older["learned_slots"]
    facts = msgspec.convert(older, EndpointFacts)
    assert (facts.slots, facts.learned_slots) == (4, None)
    assert entry_of(facts, []).max_concurrency == 4


def test_models_of_an_entry_are_sorted_by_id_as_in_the_database() -> None:
    assert [model.id for model in entry_of(FACTS, [Model("b"), Model("a")]).models] == ["a", "b"]


def test_the_facts_of_an_endpoint_do_not_depend_on_its_models() -> None:
    entry = replace(
        PLAIN, models=Models([ModelEntry("tiny", "org/tiny", ("chat",), 4096)]), capabilities=("embeddings",)
    )
    assert endpoint_facts(entry, 7) == endpoint_facts(replace(entry, models=Models([])), 7)
    assert endpoint_models(entry)[0].capabilities == ("chat", "embeddings")


def test_equal_entries_with_a_plain_secret_have_equal_facts() -> None:
    """Each sealing of a secret looks different; a difference would be published again and again."""
    entry = replace(PLAIN, plain_api_key="sk-theirs")
    assert endpoint_facts(entry, 0) == endpoint_facts(entry, 0)
    assert endpoint_facts(entry, 0).sealed_key != endpoint_facts(replace(entry, plain_api_key="sk-other"), 0).sealed_key
