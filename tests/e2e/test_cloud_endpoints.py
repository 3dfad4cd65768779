"""An installation beside a cloud: keys of the environment, external endpoints and API keys, allowed models."""

from pathlib import Path

import pytest

from benchmarks.providers import add
from benchmarks.simulator import Simulator
from tests.router import RouterDash, until

pytestmark = pytest.mark.timeout(180)
SETTINGS = {"LLMLB_PORT": "8080", "ROUTERDASH_ENV_ENDPOINTS": "true", "ROUTERDASH_BOOTSTRAP_EXTERNAL": "true"}


def test_a_key_of_the_environment_makes_an_endpoint_that_ticked_keys_reach(
    simulator: Simulator, tmp_path: Path
) -> None:
    cloud = add(simulator, "openai", models=["gpt-5", "gpt-4o"])
    router = RouterDash(tmp_path, OPENAI_API_KEY=cloud.key, OPENAI_BASE_URL=cloud.base_url, **SETTINGS)
    try:
        router.start()
        (endpoint,) = router.get("/api/endpoints").json()["endpoints"]
        assert (endpoint["name"], endpoint["endpoint_type"]) == ("OpenAI (from OPENAI_API_KEY)", "openai")
        assert (endpoint["is_external"], endpoint["has_api_key"]) == (True, True)
        until(lambda: router.chat("gpt-4o").status == 200, 30)

        router.request("PATCH", f"/api/endpoints/{endpoint['id']}", {"allowed_models": ["gpt-5*"]})
        until(lambda: router.chat("gpt-4o").status == 404)

        router.stop()
        router.environment["ROUTERDASH_BOOTSTRAP_EXTERNAL"] = "false"
        router.start()
        refused = router.chat("gpt-5")
        assert (refused.status, refused.json()["error"]["code"]) == (403, "external_not_allowed")
        assert router.get("/api/metrics/cloud").status == 301
        log = router.log_text()
        assert "LLMLB_PORT has no effect; use ROUTERDASH_PORT" in log
        assert cloud.key not in log
    finally:
        router.end()
