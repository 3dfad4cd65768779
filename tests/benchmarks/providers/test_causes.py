"""RouterDash understands every error and every limit that the simulated clouds send."""

import time

import pytest

from benchmarks.providers import DIALECTS, add
from benchmarks.simulator import Simulator
from gateway.providers.errors import classify, read
from gateway.providers.quota import wait_seconds
from gateway.providers.table import PROVIDERS
from tests.benchmarks.providers.client import CloudClient
from tests.http import Response

ERRORS = [(name, problem) for name, dialect in DIALECTS.items() for problem in dialect.problems]
# Problems whose names are no causes of RouterDash, and the causes that they have.
CAUSES = {"key_missing": "key_refused", "conflict": "parameter", "upgrade": "parameter"}
# Two errors that nothing but their sentence distinguishes from a lack of permission.
LIKE_PERMISSIONS = {("gemini", "key_missing"), ("azure", "money")}


def headers_of(response: Response) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in response.headers.items()]


@pytest.mark.parametrize(("provider", "problem"), ERRORS, ids=lambda value: value)
def test_every_error_has_its_cause(sim: Simulator, provider: str, problem: str) -> None:
    response = CloudClient(add(sim, provider)).send(f"sim-{problem}")
    cause = classify(
        PROVIDERS[provider],
        response.status,
        read(response.body),
        headers=headers_of(response),
        models=[f"sim-{problem}"],
        now=time.time(),
    )
    expected = "not_permitted" if (provider, problem) in LIKE_PERMISSIONS else problem.partition(".")[0]
    assert cause.value == CAUSES.get(expected, expected), response


@pytest.mark.parametrize("provider", [name for name in DIALECTS if name not in ("deepseek", "xai")])
def test_the_time_of_a_limit_is_known(sim: Simulator, provider: str) -> None:
    client = CloudClient(add(sim, provider, requests_limit=1))
    now = time.time()
    client.cloud.clock = lambda: now
    client.send()
    response = client.send()
    seconds = wait_seconds(headers_of(response), now, read(response.body).delay)
    assert seconds == pytest.approx(60, abs=1)
