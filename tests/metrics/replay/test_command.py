"""`manage.py replay` on stored requests."""

import io
import json
from pathlib import Path

import pytest
import time_machine
from django.conf import settings
from django.core.management import call_command

from endpoints.models import Endpoint
from gateway.base.config import load as config_of
from tests.metrics.records import AT, A
from tests.metrics.replay.traffic import happened, records
from tests.metrics.world import World

pytestmark = pytest.mark.django_db


class Replayed:
    """The output of one run of the command."""

    def __init__(self, *options: str) -> None:
        out, err = io.StringIO(), io.StringIO()
        with pytest.raises(SystemExit) as ended, time_machine.travel(AT, tick=False):
            call_command("replay", *options, stdout=out, stderr=err)
        self.code, self.out, self.err = ended.value.code, out.getvalue(), err.getvalue()


@pytest.fixture
def recorded(world: World, endpoints: tuple[Endpoint, ...]) -> World:
    world.gateway(*records(happened(), AT - 60))
    world.write()
    return world


def test_it_predicts_the_gain_of_the_other_policy(recorded: World) -> None:
    run = Replayed("--policy", "adaptive")
    assert run.code == 0
    assert "p95 of the time per output token: " in run.out
    assert "times shorter." in run.out
    assert "times today's users" in run.out


def test_it_prints_json(recorded: World) -> None:
    prediction = json.loads(Replayed("--json").out)
    assert prediction["per_token_gain"]["low"] > 1.0
    assert prediction["recorded_policy"] == "least_inflight"
    assert {endpoint["endpoint_id"] for endpoint in prediction["happened"]["endpoints"]} >= {A}


def test_too_few_requests_are_refused(recorded: World) -> None:
    run = Replayed("--since", "2m")
    assert run.code == 1
    assert "Cannot tell: there are " in run.out


def test_a_history_of_failures_is_refused(recorded: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    coarse = config_of({"ROUTERDASH_DATA_DIR": str(tmp_path), "ROUTERDASH_HISTORY": "errors"})
    monkeypatch.setattr(settings, "ROUTERDASH", coarse)
    assert "ROUTERDASH_HISTORY=all" in Replayed().out


def test_an_unknown_endpoint_is_an_error(recorded: World) -> None:
    run = Replayed("--endpoint-removed", "nowhere")
    assert run.code == 2
    assert "no endpoint 'nowhere'" in run.err
