"""What routing has learned about an endpoint: figures of published speeds and of the samples, and nothing invented."""

import re
from typing import Any

import pytest

from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from gateway.base.request_kinds import CHAT, EMBEDDINGS
from gateway.ipc import record
from gateway.ipc.record import AttemptRecord, RequestRecord, Work
from gateway.registry.schema import Speeds
from metrics.learning.learned_models import LearnedModel, learned_models, share_of_models
from metrics.learning.samples import UNKNOWN, SpeedSample
from metrics.learning.templatetags.curves import learned_curve
from tests.access.people import Api
from tests.metrics.records import A, request
from tests.metrics.world import World, fake_installation

pytestmark = pytest.mark.every_database

SPEEDS = Speeds(setup=0.1, read=0.001, write=0.02, share=0.005, completions=40)


def sample(number: int = 1, **fields: Any) -> SpeedSample:
    given = {
        "completed_us": number * 1_000_000, "number": number, "duration_us": 3_000_000, "read": 400,
        "read_meanwhile": 100, "output": 100, "shared_us": 6_000_000, "first_us": UNKNOWN, "prefix": 0,
        "prefix_age": 0, "cached": UNKNOWN, "expected_us": 2_000_000,
    }  # fmt: skip
    return SpeedSample(**{**given, **fields})


LONG = tuple(sample(number) for number in range(5))


def learned(*samples: SpeedSample, speeds: Speeds | None = SPEEDS, kind: str = CHAT) -> LearnedModel:
    return LearnedModel("tiny", kind, speeds, samples)


# Figures


def test_speeds_are_those_of_the_parameters() -> None:
    model = learned(*LONG)
    assert (model.speed_alone, model.speed_with_four) == (1 / 0.025, 1 / 0.04)
    assert (model.prompt_speed, model.setup_ms, model.load_ms) == (1000.0, 100.0, None)


def test_without_published_speeds_there_are_none() -> None:
    model = learned(*LONG, speeds=None)
    assert (model.speed_alone, model.speed_with_four, model.prompt_speed, model.setup_ms) == (None,) * 4
    assert model.points == []


def test_a_kind_that_generates_nothing_has_no_speed_of_writing() -> None:
    model = learned(*LONG, kind=EMBEDDINGS)
    assert (model.speed_alone, model.speed_with_four, model.points) == (None, None, [])
    assert model.prompt_speed == 1000.0


def test_the_time_to_load_the_model_is_known_once_it_was_seen() -> None:
    assert learned(speeds=Speeds(0.1, 0.001, 0.02, 0.005, 40, load=12.0)).load_ms == 12_000


def test_few_samples_tell_no_figures() -> None:
    model = learned(*LONG[:4])
    assert (model.is_measured, model.speed_alone, model.setup_ms, model.prompt_speed, model.points) == (
        False, None, None, None, [],
    )  # fmt: skip


def test_short_prompts_tell_no_speed_of_reading() -> None:
    assert learned(*(sample(number, read=99) for number in range(9))).prompt_speed is None


def test_responses_that_ran_alone_tell_no_speed_beside_others() -> None:
    alone = [sample(number, shared_us=3_100_000) for number in range(9)]
    assert learned(*alone).speed_with_four is None
    assert learned(*alone, *LONG).speed_with_four is not None


@pytest.mark.parametrize(("count", "word"), [(0, "few"), (15, "few"), (16, "some"), (63, "some"), (64, "many")])
def test_confidence_grows_with_the_samples(count: int, word: str) -> None:
    assert learned(*map(sample, range(count))).confidence == word


def test_a_point_is_the_time_per_token_after_the_prompt() -> None:
    point = learned(*LONG).points[0]
    assert (point.in_flight, round(point.token_ms, 6)) == (2.0, 24.0)  # 3 s - 0.1 s - 500 * 1 ms, of 100 tokens


def test_a_response_that_was_faster_than_its_prompt_is_a_point_at_zero() -> None:
    point = learned(*LONG, sample(9, duration_us=1000, shared_us=0)).points[-1]
    assert (point.in_flight, point.token_ms) == (1.0, 0.0)


def test_short_responses_are_no_points() -> None:
    assert len(learned(*LONG, sample(output=7), sample(output=8)).points) == 6


def test_predictions_are_compared_with_what_happened() -> None:
    model = learned(*(sample(number, duration_us=number * 1_000_000, expected_us=1_000_000) for number in range(1, 11)))
    assert (model.ratio_p50, model.ratio_p90) == (5.0, 9.0)


def test_few_predictions_tell_nothing() -> None:
    model = learned(*map(sample, range(4)), sample(5, expected_us=0))
    assert (model.ratio_p50, model.ratio_p90) == (None, None)


def test_prefix_hits_are_counted_of_responses_that_report_them() -> None:
    model = learned(sample(cached=10), sample(cached=0), sample(cached=UNKNOWN))
    assert (model.prefix_hits, model.prefix_reports, model.payload["prefix_hit_rate"]) == (1, 2, 0.5)
    assert learned(sample()).payload["prefix_hit_rate"] is None
    assert share_of_models([model, model]) == (2, 4)
    assert share_of_models([learned(sample())]) == (0, 0)


# The curve


def test_the_curve_has_a_dot_for_each_response() -> None:
    svg = str(learned_curve(learned(*map(sample, range(7)))))
    assert svg.count("h0") == 7
    assert 'aria-label="Time for each output token, from 25 ms alone to 40 ms with 4 requests in flight."' in svg
    assert re.findall(r'text-anchor="middle">(\d+)<', svg) == ["1", "2", "3", "4"]
    assert "style" not in svg


def test_the_curve_stays_inside_its_frame() -> None:
    slow = sample(duration_us=900_000_000, shared_us=900_000_000 * 30)
    svg = str(learned_curve(learned(*map(sample, range(30)), slow)))
    dots = [tuple(map(float, coordinates)) for coordinates in re.findall(r"M([\d.-]+) ([\d.-]+)h0", svg)]
    assert all(46 <= x <= 350 and 8 <= y <= 126 for x, y in dots)
    assert len(re.findall(r'text-anchor="middle">', svg)) <= 5


def test_without_a_line_there_is_no_curve() -> None:
    assert learned_curve(learned(*LONG, speeds=None)) == ""
    assert learned_curve(learned(*LONG, kind=EMBEDDINGS)) == ""
    assert learned_curve(learned(sample())) == ""


# Of an endpoint


def answered(**fields: Any) -> RequestRecord:
    work = Work(400, 100, 0, 0, 2_000_000, 0, 100, 6_000_000, was_idle=False)
    tried = AttemptRecord(A, record.OK, 200, 3_000_000, work=work)
    given = {"attempts": (tried,), "input_tokens": 400, "output_tokens": 100, "cached_tokens": 0}
    return request(**{**given, **fields})


@pytest.fixture
def taught(shown_world: World, endpoints: tuple[Endpoint, Endpoint], frozen_clock: object) -> World:
    EndpointModel(endpoint=endpoints[0], model_id="tiny:7b", canonical_name="tiny").save(force_insert=True)
    registry.reload()
    shown_world.gateway(
        *(answered(ago=number, cached_tokens=100 * (number % 2)) for number in range(4)),
        answered(ago=5, model="tiny:7b"),
        answered(ago=6, model="gone"),
        answered(ago=7, kind=EMBEDDINGS, output_tokens=None),
    )
    shown_world.write()
    fake_installation().speeds = lambda endpoint_id, model_id, kind: SPEEDS if kind == CHAT else None
    return shown_world


@pytest.mark.django_db
@pytest.mark.usefixtures("taught")
def test_samples_of_all_names_of_a_model_are_together() -> None:
    entry = registry.get(A)
    assert entry is not None
    models = learned_models(entry)
    assert [(model.model_id, model.kind, len(model.samples)) for model in models] == [
        ("tiny:7b", CHAT, 5),
        ("tiny:7b", EMBEDDINGS, 1),
    ]


@pytest.mark.django_db
def test_the_api_returns_what_was_learned(script: Api, taught: World) -> None:
    chat, embeddings = script.call("GET", f"/api/endpoints/{A}/learned").json()
    assert (chat["model_id"], chat["samples"], chat["confidence"]) == ("tiny:7b", 5, "few")
    assert (chat["tokens_per_second_alone"], chat["prefix_hit_rate"], len(chat["points"])) == (40.0, 0.4, 5)
    assert chat["newest"] == "2026-03-10T12:00:30.000Z"
    assert embeddings["tokens_per_second_alone"] is None


@pytest.mark.django_db
def test_the_page_shows_what_was_learned(as_viewer: Api, taught: World) -> None:
    html = as_viewer.get(f"/endpoints/{A}").content.decode()
    text = re.sub(r"(<[^>]+>|\s)+", " ", html)
    assert "Responses that found their prefix 33.4 %" in text
    assert "5 responses, the latest just now – few responses: still being measured" in text
    assert "Writes alone 40.0 tok/s Writes beside three others 25.0 tok/s Reads prompts 1,000 tok/s" in text
    assert "Nothing has been published to the gateways yet." in text
    assert html.count('class="curve"') == 1


@pytest.mark.django_db
def test_an_endpoint_about_which_nothing_is_known_has_no_such_part(
    as_viewer: Api, shown_world: World, endpoints: object, frozen_clock: object
) -> None:
    assert "What routing has learned" not in as_viewer.get(f"/endpoints/{A}").content.decode()
