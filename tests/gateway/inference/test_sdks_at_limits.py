"""Official SDKs at an API key with limits: they wait as long as the headers say, and give up where no retry helps."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import clients, llamacpp
from tests.gateway.limits.helpers import LimitedKey

pytestmark = [pytest.mark.one_database, pytest.mark.timeout(600)]

HERE = Path(clients.__file__).parent


@pytest.fixture(scope="session")
def python() -> Path:
    return llamacpp.environment("clients", HERE / "requirements.txt")


@pytest.mark.parametrize(("script", "path"), [("limited_openai.py", "/v1"), ("limited_anthropic.py", "")])
def test_an_sdk_backs_off_and_succeeds(gateway, sim, python, script, path):
    simulated = sim.add(ttft=0.5)
    model, key = gateway.add(simulated), LimitedKey(gateway, concurrency=1, tokens=8000, waiting=())
    command = [str(python), str(HERE / script), f"http://127.0.0.1:{gateway.port}{path}", key.secret, model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert all(report["texts"])
    assert len(report["texts"]) == 3
    assert simulated.seen.peak == 1
    assert report["too_large"]["status"] == 429
    assert "RateLimitError" in report["too_large"]["classes"]
    assert "Limit 8000, Requested " in report["too_large"]["message"]
    records = gateway.records()
    assert [record.outcome for record in records].count("ok") == 3
    assert [record.limit for record in records].count("key:concurrency") >= 2  # at least two chats came too early
    assert [record.limit for record in records].count("key:tokens") == 1  # it was not repeated
