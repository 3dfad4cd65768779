import pytest

from endpoints.proposed_names import propose
from tests.endpoints.conftest import make_endpoint

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("url", "kind", "name"),
    [
        ("http://gpu-box.lan:8000", "vllm", "gpu-box"),
        ("http://10.0.4.21:8000", "vllm", "10.0.4.21"),
        ("http://[2001:db8::7]:8000", None, "2001:db8::7"),
        ("http://127.0.0.1:1234", "lm_studio", "lm-studio"),
        ("http://localhost:8000", None, "localhost-8000"),
        ("https://localhost", None, "localhost-https"),
    ],
)
def test_a_name_is_proposed(url: str, kind: str | None, name: str) -> None:
    assert propose(url, kind) == name


def test_a_proposed_name_in_use_gets_a_number() -> None:
    make_endpoint("ollama")
    make_endpoint("ollama-2")
    assert propose("http://127.0.0.1:11434", "ollama") == "ollama-3"
