"""Tables of the registry store, and names by which the models of an endpoint are found."""

import pytest

from gateway.registry.kinds import ENDPOINTS, KEYS
from gateway.registry.schema import Damaged, KeyFacts, Model, names, ref
from tests.gateway.samples import make_endpoint

LLAMA = Model("llama3.3:70b", "meta/Llama", ("llama-70",))


def test_a_model_is_found_by_its_id_canonical_name_and_aliases() -> None:
    exact, _ = names([LLAMA])
    assert exact == dict.fromkeys(("llama3.3:70b", "meta/Llama", "llama-70"), LLAMA)


def test_all_names_except_the_id_are_case_insensitive() -> None:
    _, folded = names([LLAMA])
    assert folded == dict.fromkeys(("meta/llama", "llama-70"), LLAMA)


def test_an_id_has_priority_over_another_models_alias() -> None:
    own = Model("llama-70")
    assert names([LLAMA, own])[0]["llama-70"] == names([own, LLAMA])[0]["llama-70"] == own


def test_of_two_models_with_an_alias_the_lesser_id_has_it_in_any_order() -> None:
    one, other = Model("a", aliases=("both",)), Model("b", aliases=("both",))
    assert names([one, other])[0]["both"] == names([other, one])[0]["both"] == one
    assert names([one, other])[1]["both"] == names([other, one])[1]["both"] == one


def test_a_row_survives_a_round_trip() -> None:
    facts = make_endpoint("a", "m", sealed_key="gAAA", timeout_secs=1.5).facts()
    assert ENDPOINTS.unpack(ENDPOINTS.pack(facts)) == facts


def test_each_changed_byte_of_a_row_is_noticed() -> None:
    packed = KEYS.pack(KeyFacts("1", ("openai.inference",), 12.5, "owner"))
    for position in range(len(packed)):
        with pytest.raises(Damaged):
            KEYS.unpack(packed[:position] + bytes([packed[position] ^ 1]) + packed[position + 1 :])


def test_a_row_of_another_table_is_damage() -> None:
    with pytest.raises(Damaged, match="decoded"):
        KEYS.unpack(ENDPOINTS.pack(make_endpoint("a").facts()))


def test_any_text_has_a_ref_of_the_same_length() -> None:
    assert {len(ref(text)) for text in ("", "a", "x" * 10_000, "\ud800")} == {16}
