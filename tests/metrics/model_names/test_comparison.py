"""Comparison of the targets of a step."""

import math
import random
from typing import Any

import msgspec
import pytest

from endpoints.model_names.name_cache import read_names
from endpoints.models import EndpointModel
from endpoints.registry import registry
from gateway.ipc import record
from gateway.ipc.record import RequestRecord
from metrics.model_names import comparison
from metrics.model_names.comparison import MIN_REQUESTS, percentile, shares_differ, wilson
from tests.access.people import Api
from tests.endpoints.model_names.made import make_name
from tests.metrics.records import A, B, attempt, request
from tests.metrics.world import World, add_endpoint

pytestmark = pytest.mark.every_database

# Statistics


@pytest.mark.parametrize(
    ("errors", "total", "expected"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilsons_interval(errors: int, total: int, expected: tuple[float, float]) -> None:
    assert tuple(round(bound, 4) for bound in wilson(errors, total)) == expected


def test_shares_differ_as_newcombes_interval_says() -> None:
    assert shares_differ(56, 70, 48, 80) is True  # table II: 0.0524 to 0.3339
    assert shares_differ(9, 10, 3, 10) is True  # 0.1705 to 0.8090
    assert shares_differ(6, 7, 2, 7) is True  # 0.0582 to 0.8062
    assert shares_differ(5, 56, 0, 29) is False  # -0.0381 to 0.1926
    assert shares_differ(0, 10, 0, 20) is False


def test_the_interval_of_a_percentile_contains_it_in_95_of_100_samples() -> None:
    rng = random.Random(5)
    for share in (0.5, 0.95):
        true = -math.log(1 - share)
        hits = 0
        for _ in range(400):
            estimate = percentile(sorted(rng.expovariate(1.0) for _ in range(200)), share)
            assert estimate["low"] is not None
            assert estimate["high"] is not None
            hits += estimate["low"] <= true <= estimate["high"]
        assert 0.93 <= hits / 400 <= 0.99


def test_few_values_have_no_bounds() -> None:
    assert percentile([], 0.5) == {"value": None, "low": None, "high": None, "requests": 0}
    estimate = percentile([1.0, 2.0, 3.0], 0.95)
    assert (estimate["value"], estimate["high"]) == (3.0, None)


# From the history


@pytest.fixture
def served(shown_world: World, db: None, frozen_clock: None) -> World:
    for endpoint_id, name, model in ((A, "a", "tiny"), (B, "b", "big")):
        EndpointModel(endpoint=add_endpoint(endpoint_id, name), model_id=model).save(force_insert=True)
    registry.reload()
    return shown_world


def call(served_model: str, endpoint: str, outcome: str = record.OK, *, seconds: float = 1.0, step: int = 1) -> Any:
    made = attempt(outcome, endpoint, duration_us=round(seconds * 1e6))
    return msgspec.structs.replace(made, served=served_model, step=step)


def asked(*attempts: Any, **fields: Any) -> RequestRecord:
    outcome = attempts[-1].outcome
    given: dict[str, Any] = {"model": "fast", "first_token_us": 200_000, "output_tokens": 50} | fields
    return request(outcome, attempts=attempts, **given)


def compare(name: str, step: int = 1, span: str = "24h") -> comparison.ComparisonPayload:
    (entry,) = [named for named in read_names().values() if named.name == name]
    return comparison.compare(entry, step, span)


def test_targets_are_compared_by_what_served_an_attempt(served: World) -> None:
    make_name("fast", "tiny=9 big")
    served.gateway(
        *(asked(call("tiny", A, seconds=1.0)) for _ in range(100)),
        *(asked(call("big", B, seconds=4.0)) for _ in range(60)),
        *(asked(call("big", B, record.FAILED), call("tiny", A)) for _ in range(40)),
        *(asked(call("tiny", A, step=2)) for _ in range(9)),  # another step
        asked(call("other", A)),  # another model
        asked(call("tiny", A), model="tiny"),  # another name
        asked(call("tiny", A, record.CANCELLED)),
    )
    served.write()
    compared = compare("fast")
    first, second = compared["targets"]
    assert (first["requests"], first["failed"], second["requests"], second["failed"]) == (140, 0, 100, 40)
    assert (first["duration_p50"]["value"], second["duration_p50"]["value"]) == (1.0, 4.0)
    assert (first["first_token_p50"]["value"], first["tokens_per_second"]["value"]) == (0.2, 50.0)
    differ = {difference["figure"]: difference["significant"] for difference in compared["differences"]}
    assert differ["error_share"] is True
    assert differ["duration_p50"] is True
    assert differ["first_token_p50"] is False
    assert (compared["too_few"], compared["complete"]) == (False, True)


def test_with_few_requests_nothing_is_called_different(served: World) -> None:
    make_name("fast", "tiny big")
    served.gateway(
        *(asked(call("tiny", A)) for _ in range(MIN_REQUESTS)),
        *(asked(call("big", B, record.FAILED)) for _ in range(MIN_REQUESTS - 1)),
    )
    served.write()
    compared = compare("fast")
    assert compared["too_few"] is True
    assert {difference["significant"] for difference in compared["differences"]} == {None}


def test_one_model_at_two_endpoints(served: World) -> None:
    name = make_name("fast", "tiny tiny")
    first = name.targets.earliest("id")
    name.targets.filter(pk=first.pk).update(endpoint_id=B)
    served.gateway(*(asked(call("tiny", endpoint)) for endpoint in (A, A, B)))
    served.write()
    assert [target["requests"] for target in compare("fast")["targets"]] == [1, 2]


def test_requests_of_a_pattern(served: World) -> None:
    make_name("claude-*", "tiny big")
    make_name("claude-9", "big")
    served.gateway(asked(call("tiny", A), model="claude-3"), asked(call("big", B), model="claude-9"))
    served.write()
    assert [target["requests"] for target in compare("claude-*")["targets"]] == [1, 0]


def test_only_the_newest_requests_of_a_long_span(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MAX_REQUESTS", 2)
    make_name("fast", "tiny big")
    served.gateway(*(asked(call("tiny", A), ago=ago) for ago in (1.0, 2.0, 3.0)), asked(call("tiny", A), ago=90_000.0))
    served.write()
    compared = compare("fast")
    assert (compared["targets"][0]["requests"], compared["complete"]) == (2, False)
    monkeypatch.setattr(comparison, "MAX_REQUESTS", 3)
    assert compare("fast")["complete"] is True


def test_the_comparison_by_api_and_page(served: World, as_viewer: Api) -> None:
    name = make_name("fast", "tiny big", "tiny")
    served.gateway(*(asked(call("tiny", A)) for _ in range(5)))
    served.write()
    path = f"/api/model-names/{name.pk}/comparison"
    assert as_viewer.call("GET", f"{path}?range=1h").json() == compare("fast", span="1h")
    assert as_viewer.call("GET", f"{path}?step=3").status_code == 400
    assert as_viewer.call("GET", f"{path}?range=2h").status_code == 400
    page = as_viewer.get(f"/model-names/{name.pk}?step=1&range=7d").content.decode()
    assert "too few requests" in page
    assert "1.00 s" in page
    assert as_viewer.get(f"/model-names/{name.pk}?step=9&range=x").status_code == 200
