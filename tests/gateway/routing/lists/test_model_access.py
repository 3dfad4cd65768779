import json

import pytest

from gateway.base.errors import Refusal
from gateway.loop.time_slices import run_unsliced
from gateway.registry.key_rules import KeyRules, compiled
from gateway.registry.schema import Model
from gateway.routing import model_list
from gateway.routing.lists.model_access import ModelAccess
from tests.gateway.routing.test_model_list import EMBED, QWEN, make_name, publish_names, roster_of
from tests.gateway.samples import make_endpoint

__all__ = ["roster_of"]  # a fixture

LARGE = Model("large", capabilities=("chat",), max_tokens=32768, max_output_tokens=8192, features=("tools", "vision"))
LESS = Model("large", capabilities=("chat",), max_tokens=16384, max_output_tokens=4096, lacks=("vision",))


def names_for(roster, access):
    return [entry["id"] for entry in json.loads(run_unsliced(model_list.listing(roster, access)))["data"]]


def test_fields_of_endpoints_are_for_keys_that_may_read_them(roster_of):
    roster = roster_of(make_endpoint("a", QWEN))
    (entry,) = json.loads(run_unsliced(model_list.listing(roster, ModelAccess())))["data"]
    assert not entry.keys() & set(model_list.ENDPOINT_FIELDS)
    assert not model_list.get_model(roster, "qwen3", ModelAccess()).keys() & set(model_list.ENDPOINT_FIELDS)


def test_models_of_external_endpoints_are_for_keys_that_may_use_them(roster_of, control, roster):
    roster_of(make_endpoint("a", "cloud", external=True), make_endpoint("b", "own"))
    publish_names(control, roster, make_name("fast", "cloud", external=True))
    assert names_for(roster, ModelAccess()) == ["own"]
    assert names_for(roster, ModelAccess(external=True)) == ["cloud", "fast", "own"]
    with pytest.raises(Refusal, match="does not exist"):
        model_list.get_model(roster, "cloud", ModelAccess())


def test_an_external_endpoint_counts_for_the_limits_of_those_who_may_use_it(roster_of):
    roster = roster_of(make_endpoint("a", LARGE), make_endpoint("b", LESS, external=True))
    assert model_list.get_model(roster, "large", ModelAccess())["context_length"] == 32768
    assert model_list.get_model(roster, "large", ModelAccess(external=True))["context_length"] == 16384


def test_a_model_is_listed_under_a_name_that_the_key_may_use(roster_of):
    access = ModelAccess(compiled(KeyRules(models=("qwen3:*",))))
    roster = roster_of(make_endpoint("a", QWEN))
    (entry,) = json.loads(run_unsliced(model_list.listing(roster, access)))["data"]
    assert (entry["id"], entry["aliases"]) == ("qwen3:8b", [])


def test_models_for_other_kinds_of_requests_are_not_listed(roster_of):
    roster = roster_of(make_endpoint("a", QWEN, EMBED))
    access = ModelAccess(compiled(KeyRules(kinds=("embeddings",))))
    (entry,) = json.loads(run_unsliced(model_list.listing(roster, access)))["data"]
    assert (entry["id"], entry["supported_apis"]) == ("embed", ["embeddings"])
    with pytest.raises(Refusal, match="does not exist"):
        model_list.get_model(roster, "qwen3", access)
