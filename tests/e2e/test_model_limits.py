"""Real clients read the limits of models from the lists, or from the settings that RouterDash shows for them.

OpenCode and Cline read limits from the lists of some providers alone, and for any other address from their settings;
Continue reads them from its settings alone.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from access import client_snippets
from gateway.registry.schema import Model, ModelName, Step, Target
from gateway.registry.writer import Changes
from tests import clients, llamacpp
from tests.e2e.test_coding_agents import Server
from tests.gateway.process import KEY, GatewayProcess
from tests.gateway.samples import make_endpoint
from tests.gateway.scripted import upstream

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(900)]

HERE = Path(clients.__file__).parent
CONTEXT, OUTPUT = 24576, 3072  # of the endpoint with less
CHAT = ("chat",)
LARGE = Model("claude-tiny", capabilities=CHAT, max_tokens=32768, max_output_tokens=4096, features=("tools", "vision"))
SMALL = Model("claude-tiny", capabilities=CHAT, max_tokens=CONTEXT, max_output_tokens=OUTPUT, features=("tools",))
OPEN = Model("claude-open", capabilities=CHAT)  # nothing is known of it


@dataclass
class Setup:
    gateway: GatewayProcess
    server: Server
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    def run(self, command: list[str], **settings: str) -> str:
        """Run a client in the folder with no other settings than these. Return what it prints."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "TERM": "dumb", "LANG": "C.UTF-8"}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment | settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def snippet(self, name: str) -> str:
        """Return the settings of a client as the page shows them, of a model with these limits."""
        values = {"root": self.url, "url": f"{self.url}/v1", "key": KEY, "model": "claude-tiny"}
        values |= client_snippets._contexts(CONTEXT, OUTPUT)
        _, _, quote, text = next(snippet for snippet in client_snippets._TEXTS if snippet[0] == name)
        return "".join(piece for _, piece in client_snippets._pieces(text, values, quote))


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    (tmp_path / "gateway").mkdir()
    folder = tmp_path / "folder"
    folder.mkdir()
    gateway, server = GatewayProcess(tmp_path / "gateway").start(), Server()
    try:
        with upstream(server) as given:
            for name, models in (("large", (LARGE, OPEN)), ("small", (SMALL,))):
                gateway.endpoints[name] = make_endpoint(name, *models, base_url=given.url)
            gateway.publish()
            alias = ModelName(id="1", name="claude-name", steps=(Step((Target("claude-tiny"),)),), created=1.0)
            gateway.apply(Changes(model_names={"1": alias}))
            yield Setup(gateway, server, folder)
    finally:
        gateway.end()
    assert "Traceback" not in gateway.log()


def test_the_anthropic_sdk(setup: Setup) -> None:
    python = llamacpp.environment("clients", HERE / "requirements.txt")
    listed = json.loads(setup.run([str(python), str(HERE / "list_anthropic.py"), setup.url, KEY]))
    known = [CONTEXT, OUTPUT]
    assert listed == {"claude-name": known, "claude-open": [None, None], "claude-tiny": known}


def test_llm_with_llm_anthropic(setup: Setup) -> None:
    """Its `max_tokens` is the limit of the list."""
    llm = str(llamacpp.environment("model-lists", HERE / "lists.txt").with_name("llm"))
    settings = {"ANTHROPIC_BASE_URL": setup.url, "ANTHROPIC_API_KEY": KEY, "LLM_USER_PATH": str(setup.folder)}
    assert "Saved 3 models" in setup.run([llm, "anthropic", "refresh"], **settings)
    saved = {model["id"]: model for model in json.loads((setup.folder / "anthropic_models.json").read_text())["data"]}
    assert (saved["claude-tiny"]["max_input_tokens"], saved["claude-open"]["max_tokens"]) == (CONTEXT, None)
    setup.run([llm, "-m", "anthropic/claude-tiny", "Hello"], **settings)
    assert most_output(setup.server) == OUTPUT


def most_output(server: Server) -> Any:
    """Return the most output tokens that the last request asked for."""
    body = server.bodies[-1]
    return body.get("max_tokens", body.get("max_completion_tokens"))


# Coding agents


OPENCODE = {f"OPENCODE_DISABLE_{what}": "1" for what in ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD")}


def opencode_models(setup: Setup, provider: str, **settings: str) -> dict[str, Any]:
    """Return the models of a provider as OpenCode prints them: each name, and then a JSON object."""
    program = clients.agent("opencode", "bin/opencode")
    printed = setup.run([str(program), "models", provider, "--verbose"], **OPENCODE, **settings)
    models: dict[str, Any] = {}
    position = 0
    while (start := printed.find("\n{", position)) >= 0:
        model, position = json.JSONDecoder().raw_decode(printed, start + 1)
        models[model["id"]] = model
    return models


def test_opencode_reads_a_list(setup: Setup) -> None:
    """The provider is one of those whose lists it reads, at the address of RouterDash."""
    seed: dict[str, Any] = {"id": "seed", "name": "seed", "limit": {"context": 1, "output": 1}}
    seed |= {"attachment": False, "reasoning": False, "temperature": True, "tool_call": True, "open_weights": True}
    seed |= {"release_date": "2025-01-01", "last_updated": "2025-01-01", "modalities": {"input": [], "output": []}}
    modal = {"id": "modal", "name": "Modal", "env": ["MODAL_PROXY_TOKEN"], "npm": "@ai-sdk/openai-compatible"}
    catalogue = setup.folder / "catalogue.json"
    catalogue.write_text(json.dumps({"modal": {**modal, "api": f"{setup.url}/v1", "models": {"seed": seed}}}))
    models = opencode_models(setup, "modal", OPENCODE_MODELS_PATH=str(catalogue), MODAL_PROXY_TOKEN=KEY)
    assert models["claude-tiny"]["limit"] == {"context": CONTEXT, "output": OUTPUT}
    assert models["claude-tiny"]["capabilities"]["toolcall"] is True
    assert models["claude-tiny"]["capabilities"]["input"]["image"] is True
    assert models["claude-name"]["limit"] == models["claude-tiny"]["limit"]


def test_opencode_reads_its_settings(setup: Setup) -> None:
    (setup.folder / "opencode.json").write_text(setup.snippet("opencode"))
    models = opencode_models(setup, "routerdash")
    assert models["claude-tiny"]["limit"] == {"context": CONTEXT, "output": OUTPUT}


def cline(setup: Setup, provider: str, **settings: Any) -> Any:
    """Run Cline with a provider at the address of RouterDash. Return what it knows of the model."""
    program = clients.agent("@cline/cli", "bin/cline")
    given = {"provider": provider, "apiKey": KEY, "model": "claude-tiny", "baseUrl": f"{setup.url}/v1", **settings}
    saved = {"settings": given, "updatedAt": "2026-01-01T00:00:00.000Z", "tokenSource": "manual"}
    data = setup.folder / "data"
    (data / "settings").mkdir(parents=True)
    document = {"version": 1, "lastUsedProvider": provider, "modes": {}, "providers": {provider: saved}}
    (data / "settings" / "providers.json").write_text(json.dumps(document))
    printed = setup.run([str(program), "--data-dir", str(data), "--json", "Say hello."])
    return json.loads(printed.strip().splitlines()[-1])["model"]["info"]


def test_cline_reads_a_list(setup: Setup) -> None:
    """The provider is one of those whose lists it reads at any address."""
    info = cline(setup, "poolside")
    assert (info["contextWindow"], info["maxTokens"]) == (CONTEXT, OUTPUT)
    assert {"tools", "images"} <= set(info["capabilities"])
    assert most_output(setup.server) == OUTPUT


def test_cline_reads_its_settings(setup: Setup) -> None:
    lines = (line.partition(": ") for line in setup.snippet("cline").splitlines())
    shown = {label: value for label, _, value in lines}
    info = cline(setup, "openai-compatible", contextWindow=int(shown["Context Window Size"]))
    assert (info["contextWindow"], shown["Max Output Tokens"]) == (CONTEXT, str(OUTPUT))


def test_continue_reads_its_settings(setup: Setup) -> None:
    (setup.folder / "config.yaml").write_text(setup.snippet("continue"))
    command = [*clients.agent_script("@continuedev/cli/dist/cn.js"), "--verbose", "--config"]
    setup.run([*command, str(setup.folder / "config.yaml"), "-p", "Say hello."], CONTINUE_TELEMETRY_ENABLED="0")
    assert most_output(setup.server) == OUTPUT
    log = (setup.folder / ".continue" / "logs" / "cn.log").read_text()
    assert f'"contextLimit":{CONTEXT},"maxTokens":{OUTPUT}' in log
