"""Restrictions of API keys: names, models, endpoints, networks."""

import pytest

from gateway.registry.key_rules import KeyRules, allowed_use, compiled
from gateway.registry.schema import Model
from gateway.routing.routes import may_use
from tests.gateway.samples import make_endpoint

SERVED = Model("qwen3:8b", canonical="Qwen/Qwen3-8B", aliases=("qwen",))
FACTS = make_endpoint("home", tags=("Rack A",)).facts()


def test_without_rules_nothing_is_restricted():
    assert allowed_use(None) is None


def test_equal_rules_are_one_object():
    assert compiled(KeyRules(models=("a", "b"))) is compiled(KeyRules(models=("a", "b")))


@pytest.mark.parametrize(
    ("rules", "name", "allowed"),
    [
        (KeyRules(models=("qwen*",)), "QWEN3:8b", True),
        (KeyRules(models=("qwen*",)), "my-qwen", False),
        (KeyRules(models=("*-qwen", "gpt-4")), "my-qwen", True),
        (KeyRules(models=("gpt-4",)), "gpt-4o", False),
        (KeyRules(forbidden_models=("gpt-4*",)), "gpt-4o", False),
        (KeyRules(forbidden_models=("gpt-4*",)), "gpt-3", True),
        (KeyRules(models=("*",), forbidden_models=("gpt-4",)), "GPT-4", False),
        (KeyRules(kinds=("embeddings",)), "anything", True),
        *(
            (KeyRules(**{rule: (pattern,)}), name, rule == "models")
            for rule in ("models", "forbidden_models")
            for pattern, name in (
                ("small", "small:latest"),
                ("Small:Latest", "sMALL"),
                ("caf\u00e9", "CAFE\u0301"),
                ("cafe\u0301:latest", "caf\u00e9"),
                ("ma\u00dfe*", "MASSE-8b"),
            )
        ),
        # What is forbidden, but not what is allowed, matches letters that only look alike, and tags of patterns.
        *(
            (KeyRules(**{rule: (pattern,)}), name, False)
            for rule in ("models", "forbidden_models")
            for pattern, name in (
                ("small", "\uff53mall"),
                ("*-small", "my-small:latest"),
                ("my-*:latest", "my-small"),
                ("*2", "model\u00b2"),
            )
        ),
        (KeyRules(forbidden_models=("small",)), "small:8b", True),
        (KeyRules(models=("small",)), "small:8b", False),
        (KeyRules(forbidden_models=("host:80/small",)), "host:80/small:latest", False),
    ],
)
def test_names(rules, name, allowed):
    assert compiled(rules).allows_name(name) is allowed


def test_a_forbidden_name_on_the_way_wins():
    use = compiled(KeyRules(models=("fast",), forbidden_models=("inner",)))
    assert use.allows_path(("fast", "other"))
    assert not use.allows_path(("fast", "inner"))
    assert not use.allows_path(("other", "fast"))


@pytest.mark.parametrize(
    ("rules", "through_name", "allowed"),
    [
        (KeyRules(models=("qwen",)), False, True),  # by any of its names
        (KeyRules(models=("qwen/*",)), False, True),
        (KeyRules(models=("fast",)), False, False),
        (KeyRules(models=("fast",)), True, True),
        (KeyRules(forbidden_models=("qwen3:8b",)), True, False),
        (KeyRules(models=("fast",), forbidden_models=("Qwen/*",)), True, False),
        (KeyRules(endpoints=("home",)), False, True),
        (KeyRules(endpoints=("other",)), True, False),
        (KeyRules(tags=("rack a", "rack b")), False, True),
        (KeyRules(tags=("rack b",)), True, False),
    ],
)
def test_routes(rules, through_name, allowed):
    assert may_use(compiled(rules), SERVED, FACTS, through_name=through_name) is allowed


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("10.1.2.3", True), ("11.1.2.3", False), ("fd00::1", True), ("fe80::1", False), (None, False), ("unix", False)],
)
def test_networks(address, allowed):
    assert compiled(KeyRules(networks=("10.0.0.0/8", "fd00::/8"))).allows_address(address) is allowed


def test_without_networks_each_address_is_allowed():
    assert compiled(KeyRules(models=("a",))).allows_address(None)
