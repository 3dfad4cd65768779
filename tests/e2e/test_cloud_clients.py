"""Real client libraries against simulated clouds through RouterDash: its figures equal the tokens that the clouds
generated, and the usage that clients received.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.providers import DIALECTS, Cloud, add
from benchmarks.providers.cloud import COOKIE
from benchmarks.simulator import Simulator
from tests import clients, llamacpp
from tests.conftest import drop_database, installed
from tests.router import KEY, PASSWORD, RouterDash, until

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(600)]

HERE = Path(clients.__file__).parent
# Steps of cloud_openai.py that a provider lacks.
WITHOUT = {name: () if name in ("openai", "azure", "xai") else ("responses",) for name in DIALECTS}
DETAILS = (("/requests", ""), ("/requests", "/bodies"), ("/api/requests", ""), ("/api/requests", "/bodies"))
EMBEDDERS = {"openai": "text-embedding-3-small"}


@pytest.fixture(scope="module")
def python() -> Path:
    return llamacpp.environment("clients", HERE / "requirements.txt")


@pytest.fixture(scope="module")
def cloud_python() -> Path:
    return llamacpp.environment("cloud-clients", HERE / "clouds.txt")


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory, prepared: RouterDash) -> Iterator[RouterDash]:
    """Bodies are stored, so that a secret in one of them would show."""
    environment = {"ROUTERDASH_BOOTSTRAP_EXTERNAL": "true", "ROUTERDASH_STORE_BODIES": "all"}
    running = installed(tmp_path_factory.mktemp("clouds"), prepared, **environment)
    try:
        yield running.start()
    finally:
        running.end()
        drop_database(running.database_url)


@pytest.fixture(scope="module")
def clouds(router: RouterDash, simulator: Simulator) -> dict[str, Cloud]:
    """Every cloud, registered with its key. Models whose names two clouds share are left to the first one."""
    made = {name: add(simulator, name) for name in DIALECTS}
    for name, cloud in made.items():
        fields = {"name": name, "cloud_type": name, "base_url": cloud.base_url, "api_key": cloud.key}
        response = router.post("/api/endpoints", {**fields, "allowed_models": cloud.behaviour.models})
        assert response.status == 201, response
    wanted = {model for cloud in made.values() for model in cloud.behaviour.models}
    until(lambda: wanted <= {model["id"] for model in router.get("/v1/models").json()["data"]}, 30)
    return made


class Figures:
    """What RouterDash and a cloud count from now on."""

    def __init__(self, router: RouterDash, cloud: Cloud) -> None:
        self.router, self.cloud = router, cloud
        self.known = len(cloud.tally)
        self.before = {row["id"] for row in self._rows()}

    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.router.get("/api/requests?limit=200").json()["requests"]
        return rows

    def check(self, usages: list[dict[str, Any]]) -> None:
        """Compare the new requests with the cloud's tokens, and the prompts with those that clients received."""
        made = [generation.tokens for generation in self.cloud.tally[self.known :]]
        assert made
        until(lambda: len(self._rows()) >= len(self.before) + len(made))
        rows = [row for row in self._rows() if row["id"] not in self.before and row["kind"] != "count_tokens"]
        assert {row["outcome"] for row in rows} == {"ok"}
        counted = sorted((row["input_tokens"], row["output_tokens"], row["cached_tokens"] or 0) for row in rows)
        reports_cached = any(row["cached_tokens"] is not None for row in rows)
        assert counted == sorted(
            (tokens.input, tokens.output, tokens.cached if reports_cached else 0) for tokens in made
        )
        assert sorted(_prompt(usage) for usage in usages) == sorted(tokens.input for tokens in made)


def _prompt(usage: dict[str, Any]) -> int:
    """Return the whole prompt: Anthropic has its cached parts apart."""
    if "prompt_tokens" in usage or "total_tokens" in usage:
        return int(usage.get("prompt_tokens") or usage["input_tokens"])
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(usage.get(name) or 0 for name in names) or int(usage["input"])


def run(command: list[str]) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("provider", WITHOUT)
def test_openai_python(router: RouterDash, clouds: dict[str, Cloud], python: Path, provider: str) -> None:
    cloud = clouds[provider]
    figures = Figures(router, cloud)
    script = [str(python), str(HERE / "cloud_openai.py"), f"{router.url}/v1", KEY, cloud.behaviour.models[0]]
    figures.check(run([*script, *WITHOUT[provider]])["usages"])


def test_anthropic_python(router: RouterDash, clouds: dict[str, Cloud], python: Path) -> None:
    figures = Figures(router, clouds["anthropic"])
    printed = run([str(python), str(HERE / "cloud_anthropic.py"), router.url, KEY, "claude-sonnet-5"])
    figures.check(printed["usages"])
    assert printed["counted"] == clouds["anthropic"].tally[figures.known].tokens.input


def test_openai_node(router: RouterDash, clouds: dict[str, Cloud]) -> None:
    figures = Figures(router, clouds["openai"])
    figures.check(run(clients.node("cloud_openai.mjs", f"{router.url}/v1", KEY, "gpt-4.1"))["usages"])


def test_anthropic_node(router: RouterDash, clouds: dict[str, Cloud]) -> None:
    figures = Figures(router, clouds["anthropic"])
    figures.check(run(clients.node("cloud_anthropic.mjs", router.url, KEY, "claude-sonnet-5"))["usages"])


@pytest.mark.parametrize(("provider", "model"), [("openai", "gpt-4.1"), ("anthropic", "claude-sonnet-5")])
def test_litellm(router: RouterDash, clouds: dict[str, Cloud], cloud_python: Path, provider: str, model: str) -> None:
    figures = Figures(router, clouds[provider])
    script = [str(cloud_python), str(HERE / "cloud_sdks.py"), "litellm"]
    base = f"{router.url}/v1" if provider == "openai" else router.url
    figures.check(run([*script, base, KEY, f"{provider}/{model}"])["usages"])


@pytest.mark.parametrize("script", ["use_langchain.py", "use_ai_sdk.mjs"])
def test_langchain_and_ai_sdk(router: RouterDash, clouds: dict[str, Cloud], python: Path, script: str) -> None:
    cloud = clouds["openai"]
    known = len(cloud.tally)
    arguments = [f"{router.url}/v1", KEY, "gpt-4.1", EMBEDDERS["openai"]]
    program = clients.node(script) if script.endswith(".mjs") else [str(python), str(HERE / script)]
    reported = run([*program, *arguments])["reported"]
    made = [generation.tokens for generation in cloud.tally[known:]]
    for usage, tokens in zip(reported, made, strict=False):  # langchain reports none of embeddings
        assert (usage["input"], usage["output"] or tokens.output) == (tokens.input, tokens.output)


def test_keys_and_cookies_appear_nowhere(router: RouterDash, clouds: dict[str, Cloud]) -> None:
    """After errors that repeat the key: not for clients, on pages, in the API, in exports, in /metrics, in the log."""
    for cloud in clouds.values():
        cloud.set(fault="key_refused")
        assert router.chat(cloud.behaviour.models[0]).status >= 400
        cloud.set(fault="")
    _, browser = router.log_in("admin", PASSWORD)
    endpoints = router.get("/api/endpoints").json()["endpoints"]
    until(lambda: router.stats()["records_waiting"] == 0)
    refused = [row["id"] for row in router.get(f"/api/requests?limit={len(clouds)}").json()["requests"]]
    paths = ["/", "/endpoints", "/requests", "/admin/endpoints/endpoint/", "/metrics"]
    paths += [f"{base}/{key}{part}" for base, part in DETAILS for key in refused]
    paths += [f"/endpoints/{row['id']}" for row in endpoints]
    texts = {path: browser.open(f"{router.url}{path}", timeout=30).read().decode() for path in paths}
    api = ["/api/endpoints", "/api/dashboard/overview", "/api/requests?limit=200"]
    api += ["/api/requests/export?format=csv", "/api/requests/export?format=jsonl", "/api/usage/export?by=endpoint"]
    for path in api:
        response = router.get(path)
        assert response.status == 200, (path, response)
        texts[path] = response.body.decode()
    shown = {path for path, text in texts.items() if "Incorrect API key provided" in text}
    assert shown, "no error text is stored"
    texts["log"] = router.log_text()
    secrets = [*(cloud.key for cloud in clouds.values()), COOKIE]
    assert [(path, secret) for path, text in texts.items() for secret in secrets if secret in text] == []
