import pytest

from endpoints.model_aliases import FAMILIES, aliases, canonical_name, family
from endpoints.models import Kind

LLAMA = "meta-llama/Llama-3.3-70B-Instruct"
NOMIC = "nomic-ai/nomic-embed-text-v1.5"


def test_every_alias_maps_to_its_family() -> None:
    for model_family in FAMILIES:
        assert {family(name) for name in (model_family.canonical, *model_family.ollama, *model_family.lm_studio)} == {
            model_family
        }


def test_no_name_means_two_families() -> None:
    names = [name for model_family in FAMILIES for name in model_family.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["llama3.3:70b", "LLAMA3.3:70B", LLAMA.lower(), LLAMA.upper()])
def test_names_are_matched_case_insensitively(name: str) -> None:
    model_family = family(name)
    assert model_family is not None
    assert model_family.canonical == LLAMA


@pytest.mark.parametrize("name", [None, "", "tiny", "llama3.3", "llama3.3:70b "])
def test_other_names_have_no_family(name: str | None) -> None:
    assert family(name) is None


@pytest.mark.parametrize(
    ("model_id", "kind", "canonical"),
    [
        ("llama3.3:70b", Kind.OLLAMA, LLAMA),
        ("llama3.3:70b", Kind.VLLM, None),
        ("llama3.3:70b", Kind.LM_STUDIO, None),
        ("meta/llama-3.3-70b", Kind.LM_STUDIO, LLAMA),
        ("meta/llama-3.3-70b", Kind.OLLAMA, None),
        (LLAMA, Kind.VLLM, LLAMA),
        (LLAMA.lower(), Kind.LLAMACPP, LLAMA),
        (LLAMA, Kind.OLLAMA, LLAMA),
        ("nomic-embed-text", Kind.OLLAMA, NOMIC),
        ("text-embedding-nomic-embed-text-v1.5", Kind.LM_STUDIO, NOMIC),
        ("tiny", Kind.OLLAMA, None),
    ],
)
def test_a_canonical_name_is_that_of_the_engines_own_alias(model_id: str, kind: str, canonical: str | None) -> None:
    assert canonical_name(model_id, kind) == canonical


def test_aliases_are_all_other_names() -> None:
    assert aliases("llama3.3:70b", LLAMA) == ("llama3.3:latest", LLAMA, "meta/llama-3.3-70b")


def test_aliases_of_a_renamed_model_come_by_its_canonical_name() -> None:
    assert LLAMA in aliases("our-llama", LLAMA)
    assert "llama3.3:70b" in aliases("our-llama", LLAMA)


@pytest.mark.parametrize(("canonical", "others"), [(None, ()), ("org/own", ("org/own",)), ("own", ())])
def test_an_unknown_model_has_no_other_names_but_its_canonical_one(
    canonical: str | None, others: tuple[str, ...]
) -> None:
    assert aliases("own", canonical) == others
