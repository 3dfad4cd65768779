"""Names that an endpoint's models answer to."""

from gateway.snapshot import Model, names

LLAMA = Model("llama3.3:70b", "meta/Llama", ("llama-70",))


def test_a_model_answers_to_its_id_its_canonical_name_and_its_aliases() -> None:
    exact, _ = names([LLAMA])
    assert exact == dict.fromkeys(("llama3.3:70b", "meta/Llama", "llama-70"), LLAMA)


def test_all_but_the_id_is_matched_without_regard_to_case() -> None:
    _, folded = names([LLAMA])
    assert folded == dict.fromkeys(("meta/llama", "llama-70"), LLAMA)


def test_an_id_goes_before_anothers_alias() -> None:
    own = Model("llama-70")
    assert names([LLAMA, own])[0]["llama-70"] == names([own, LLAMA])[0]["llama-70"] == own
