"""Official SDKs parse the responses of simulated clouds, and report the usage that the clouds generated."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.providers import Cloud, add
from benchmarks.simulator import Simulator
from tests import clients, llamacpp

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(600)]

HERE = Path(clients.__file__).parent
# Steps that a provider lacks: see cloud_openai.py.
WITHOUT = {
    "openai": (),
    "azure": (),
    "gemini": ("responses",),
    "openrouter": ("responses",),
    "groq": ("responses",),
    "mistral": ("responses", "stream_options"),
    "deepseek": ("responses",),
    "xai": (),
    "together": ("responses",),
}
OUTSIDE = ("gemini", "xai")  # reasoning is outside of completion_tokens


@pytest.fixture(scope="session")
def python() -> Path:
    return llamacpp.environment("clients", HERE / "requirements.txt")


@pytest.fixture(scope="session")
def cloud_python() -> Path:
    return llamacpp.environment("cloud-clients", HERE / "clouds.txt")


def run(command: list[str]) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(cloud: Cloud, usages: list[dict[str, Any]]) -> None:
    """Compare each usage with the tokens that the cloud generated."""
    assert [_pair(usage) for usage in usages] == [
        (generation.tokens.input, generation.tokens.total) for generation in cloud.tally
    ]
    for usage, made in zip(usages, cloud.tally, strict=True):
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        assert details.get("cached_tokens", made.tokens.cached) == made.tokens.cached


def _pair(usage: dict[str, Any]) -> tuple[int, int]:
    made = usage["prompt_tokens"] if "prompt_tokens" in usage else usage["input_tokens"]
    return made, usage["total_tokens"]


@pytest.mark.parametrize(("provider", "model"), [*((name, 0) for name in WITHOUT), ("openai", 1)])
def test_openai_python(sim: Simulator, python: Path, provider: str, model: int) -> None:
    cloud = add(sim, provider)
    command = [str(python), str(HERE / "cloud_openai.py"), cloud.base_url, cloud.key, cloud.behaviour.models[model]]
    usages = run([*command, *WITHOUT[provider]])["usages"]
    check(cloud, usages)
    assert any(generation.tokens.reasoning for generation in cloud.tally) or (provider, model) == ("openai", 0)
    for usage, made in zip(usages, cloud.tally, strict=True):
        outside = made.tokens.reasoning if provider in OUTSIDE and "completion_tokens" in usage else 0
        assert usage.get("completion_tokens", usage.get("output_tokens")) == made.tokens.output - outside


def test_anthropic_python(sim: Simulator, python: Path) -> None:
    cloud = add(sim, "anthropic")
    printed = run([str(python), str(HERE / "cloud_anthropic.py"), cloud.url, cloud.key, "claude-sonnet-5"])
    check_messages(cloud, printed["usages"])
    assert printed["counted"] == cloud.tally[0].tokens.input
    assert printed["models"] == cloud.behaviour.models


def check_messages(cloud: Cloud, usages: list[dict[str, Any]]) -> None:
    for usage, made in zip(usages, cloud.tally, strict=True):
        cached, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
        assert (cached, written) == (made.tokens.cached, made.tokens.written)
        assert usage["input_tokens"] + cached + written == made.tokens.input
        assert usage["output_tokens"] == made.tokens.output
    assert any(generation.tokens.written for generation in cloud.tally) or len(usages) == 3


@pytest.mark.parametrize("provider", ["groq", "mistral", "together"])
def test_sdks_of_other_providers(sim: Simulator, cloud_python: Path, provider: str) -> None:
    cloud = add(sim, provider)
    command = [str(cloud_python), str(HERE / "cloud_sdks.py"), provider, cloud.url, cloud.key]
    usages = run([*command, cloud.behaviour.models[0]])["usages"]
    assert sorted(_pair(usage) for usage in usages) == sorted(
        (generation.tokens.input, generation.tokens.total) for generation in cloud.tally
    )


def test_litellm(sim: Simulator, cloud_python: Path) -> None:
    """One process for all providers, because the import of LiteLLM takes most of the time."""
    names = ["openai", "anthropic", "deepseek", "groq", "mistral", "openrouter", "xai"]
    clouds = {name: add(sim, name) for name in names}
    arguments = [
        argument
        for name, cloud in clouds.items()
        for argument in (
            cloud.url if name == "anthropic" else cloud.base_url,
            cloud.key,
            f"{name}/{cloud.behaviour.models[0]}",
        )
    ]
    usages = run([str(cloud_python), str(HERE / "cloud_sdks.py"), "litellm", *arguments])["usages"]
    prompts = {
        name: sorted(usage["prompt_tokens"] for usage in usages[3 * n : 3 * n + 3]) for n, name in enumerate(names)
    }
    assert prompts == {
        name: sorted(generation.tokens.input for generation in cloud.tally) for name, cloud in clouds.items()
    }


def test_openai_node(sim: Simulator) -> None:
    cloud = add(sim, "openai")
    usages = run(clients.node("cloud_openai.mjs", cloud.base_url, cloud.key, "gpt-4.1"))["usages"]
    check(cloud, usages)


def test_anthropic_node(sim: Simulator) -> None:
    cloud = add(sim, "anthropic")
    printed = run(clients.node("cloud_anthropic.mjs", cloud.url, cloud.key, "claude-sonnet-5"))
    check_messages(cloud, printed["usages"])
