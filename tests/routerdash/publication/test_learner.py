"""The learner: what it publishes, when, and that a restart publishes the same bits."""

import threading

import msgspec
import pytest
from django.db import OperationalError

from access.directory import KeyEntry
from access.models import ApiKey
from endpoints.models import Endpoint, EndpointModel
from endpoints.registry import registry
from gateway.ipc.record import RequestRecord
from gateway.registry.kinds import SPEEDS
from gateway.registry.schema import Lengths, Speeds, speed_key
from metrics.learning import fit, window_rows
from metrics.learning.from_records import speed_sample
from metrics.models import DailyStat, LengthWindow, MovingAverage, RequestHistory, SlowStart, SpeedWindow
from routerdash.publication import learner as learner_module
from routerdash.publication.learned import PUBLISH_SECONDS, lengths_moved, speeds_moved
from routerdash.publication.learner import Learner
from routerdash.publication.publisher import Publisher
from tests.metrics.learning.work import answered
from tests.metrics.records import AT, KEY, A, B
from tests.routerdash.publication import store
from tests.routerdash.publication.learning import CHAT, MODEL, Control, traffic

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]

# What is published


def test_the_speeds_of_answers_are_published_under_the_endpoints_own_name(control: Control) -> None:
    entries = traffic(30)
    control.write(*entries)
    control.learn()
    samples = sorted(sample for entry in entries if (sample := speed_sample(entry)))
    speeds = control.speeds()
    assert speeds is not None
    assert speeds.completions == 30
    assert speeds.write == pytest.approx(fit.fit(samples, "ollama").write, rel=0.01)
    assert control.speeds(model="tiny") is None


def test_lengths_are_published_by_model_and_by_key(control: Control) -> None:
    control.write(*[answered(output_tokens=10), answered(output_tokens=30, api_key_id=KEY)])
    control.learn()
    assert control.lengths() == Lengths(20.0, 4.0)
    assert control.lengths(key=KEY) == Lengths(30.0, 4.0)


def test_the_lengths_of_a_deleted_key_are_removed(control: Control) -> None:
    control.write(answered(output_tokens=10, api_key_id=KEY))
    control.learn()
    (key,) = ApiKey.objects.all()
    key.delete()
    control.learner.keys_changed({"another": KeyEntry(B, "another", A, (), None)})
    control.learn()
    assert control.lengths(key=KEY) is not None
    control.learner.keys_changed({key.key_hash: None})
    control.learn()
    assert control.lengths(key=KEY) is None
    assert control.lengths() == Lengths(10.0, 4.0)
    control.write(answered(output_tokens=20, api_key_id=KEY))  # it was in flight
    control.learn()
    assert control.lengths(key=KEY) is None


def test_the_lengths_of_a_key_that_was_deleted_while_stopped_are_removed(control: Control) -> None:
    control.write(answered(output_tokens=10, api_key_id=KEY))
    control.learn()
    ApiKey.objects.all().delete()
    control.restart()
    control.learn()
    assert control.lengths(key=KEY) is None
    assert control.lengths() is not None


def test_answers_under_all_names_of_a_model_count(control: Control) -> None:
    control.write(*[answered(model=name, ago=ago) for name, ago in (("tiny", 3), (MODEL, 2), ("TINY", 1))])
    control.learn()
    speeds = control.speeds()
    assert speeds is not None
    assert speeds.completions == 3


def test_a_model_that_the_endpoint_no_longer_has_is_not_published(control: Control) -> None:
    control.write(answered(model="unknown"))
    control.learn()
    assert control.speeds(model="unknown") is None


def test_a_name_that_becomes_known_is_published(control: Control) -> None:
    control.write(answered(model="other"))
    control.learn()
    EndpointModel(endpoint_id=A, model_id="other").save(force_insert=True)
    registry.read_again([A])
    control.learn()
    assert control.speeds(model="other") is not None


def test_a_model_that_goes_takes_its_speeds_along(control: Control) -> None:
    control.write(answered())
    control.learn()
    EndpointModel.objects.filter(endpoint_id=A).delete()
    registry.read_again([A])
    control.learn()
    assert control.speeds() is None


def test_what_was_restored_and_what_was_learned_step_by_step_have_the_same_bits(control: Control) -> None:
    for step in range(5):
        control.write(*traffic(20, ago=100.0 - step), *traffic(step, B, slower=3.0))
        control.learn()
    before = control.everything()
    assert len(before) == 2 + 2
    control.publisher.writer._store.delete(SPEEDS, speed_key(A, MODEL, CHAT))  # type: ignore[union-attr]
    control.restart()
    control.learn()
    assert control.everything() == before


def test_a_kill_before_the_publication_loses_nothing(control: Control) -> None:
    control.write(*traffic(40))
    control.learn()
    before = control.everything()
    control.write(*traffic(40, B))  # committed; the learner does not live to see it
    control.restart()
    control.learn()
    after = control.everything()
    assert after != before
    control.restart()
    control.learn()
    assert control.everything() == after


def test_retention_and_history_do_not_change_what_is_learned(control: Control) -> None:
    control.write(*traffic(20))
    control.learn()
    before = control.everything()
    RequestHistory.objects.all().delete()
    control.restart()
    control.learn()
    assert control.everything() == before


def test_a_restored_database_has_learned_less(control: Control) -> None:
    control.write(*traffic(20))
    control.learn()
    for table in (SpeedWindow, LengthWindow, MovingAverage):
        table.objects.all().delete()
    DailyStat.objects.all().delete()
    control.learner.read_again()
    control.learn()
    assert control.everything() == []


# Endpoints without samples


def test_tokens_per_second_are_a_first_guess(control: Control) -> None:
    MovingAverage.objects.create(endpoint_id=A, model="tiny", kind=CHAT, value=50.0, samples=b"\x90")
    control.restart()
    control.learn()
    assert control.speeds() == fit.speeds_of_average(50.0, "ollama")
    assert control.speeds(B) is None


def test_an_adopted_database_has_tokens_per_second(control: Control) -> None:
    DailyStat.objects.create(
        endpoint_id=A,
        model_id=MODEL,
        date="2026-01-01",
        api_kind=CHAT,
        total_output_tokens=500,
        total_duration_ms=20_000,
    )
    control.restart()
    control.learn()
    assert control.speeds() == fit.speeds_of_average(25.0, "ollama")


def test_the_first_answer_replaces_the_guess(control: Control) -> None:
    MovingAverage.objects.create(endpoint_id=A, model="tiny", kind=CHAT, value=50.0, samples=b"\x90")
    control.restart()
    control.learn()
    control.write(answered())
    control.learn()
    speeds = control.speeds()
    assert speeds is not None
    assert speeds.completions == 1


# Slow start


def returns(endpoint_id: str, **changes: object) -> None:
    Endpoint.objects.filter(id=endpoint_id).update(**changes)
    registry.read_again([endpoint_id])


def completions(control: Control) -> int:
    control.learn()
    speeds = control.speeds()
    assert speeds is not None
    return speeds.completions


def test_an_endpoint_that_returns_begins_its_slow_start_again(control: Control) -> None:
    control.write(*traffic(20))
    assert completions(control) == 20
    returns(A, status="offline")
    assert completions(control) == 20
    returns(A, status="online")
    assert completions(control) == 0
    control.write(answered(ago=-5))
    assert completions(control) == 1
    control.restart()
    assert completions(control) == 1


def test_one_failed_health_check_is_no_return(control: Control) -> None:
    control.write(*traffic(20))
    returns(A, status="error")
    returns(A, status="online")
    assert completions(control) == 20


def test_another_address_is_another_server(control: Control) -> None:
    control.write(*traffic(20))
    assert completions(control) == 20
    returns(A, base_url="http://elsewhere.invalid")
    assert completions(control) == 0


def test_another_address_is_noticed_after_a_restart(control: Control) -> None:
    control.write(*traffic(20))
    assert completions(control) == 20
    Endpoint.objects.filter(id=A).update(base_url="http://elsewhere.invalid")
    control.restart()
    assert completions(control) == 0
    assert SlowStart.objects.get(endpoint_id=A).since_us == round(AT * 1e6)


# When it is published


def test_nothing_is_due_without_news(control: Control) -> None:
    assert control.learner.step() is None
    version = control.version()
    control.learner.endpoints_changed(None)
    assert control.learner.step() is None
    assert control.version() == version


def test_a_small_change_waits(control: Control) -> None:
    control.write(*traffic(255, ago=10.0))
    control.learn()
    version = control.version()
    control.write(answered(output_tokens=110, duration_us=2_200_000, input_tokens=400))
    assert control.learner.step() == PUBLISH_SECONDS
    assert control.version() == version
    control.clock += PUBLISH_SECONDS
    assert control.learner.step() is None
    assert control.version() == version + 1


def test_the_same_rows_are_not_written_again(control: Control) -> None:
    control.write(*traffic(20))
    control.learn()
    version = control.version()
    control.restart()
    control.learn()
    assert control.version() == version


def test_a_rebuilt_store_gets_everything_again(control: Control) -> None:
    control.write(*traffic(20))
    control.learn()
    before = control.everything()
    store.damage_rows(control.config, "endpoints")
    control.publisher._page.damaged_generation = control.publisher._page.registry_generation
    control.publisher.rebuild_if_damaged()
    assert control.everything() == []
    control.learn()
    assert control.everything() == before


def test_publication_is_no_change_that_a_page_waits_for(control: Control) -> None:
    before = control.publisher.revision
    control.write(*traffic(20))
    control.learn()
    assert control.publisher.revision == before


def test_a_large_fleet_is_fitted_in_parts(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    control.write(*traffic(20), *traffic(20, B))
    control.learn()
    before = control.everything()
    monkeypatch.setattr(learner_module, "ENDPOINTS_AT_ONCE", 1)
    monkeypatch.setattr(learner_module, "LENGTHS_AT_ONCE", 1)
    control.restart()
    assert control.learner.step() == 0.0
    control.learn()
    assert control.everything() == before


def test_after_a_database_error_everything_is_read_again(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    control.write(*traffic(20))
    with monkeypatch.context() as patched:

        def away(keys: object) -> object:
            raise OperationalError("away")

        patched.setattr(window_rows, "speed_windows", away)
        with pytest.raises(OperationalError):
            control.learner.step()
    control.learn()
    assert control.speeds() is not None


def test_the_thread_ends_at_once(publisher: Publisher) -> None:
    learner, stopping = Learner(publisher), threading.Event()
    thread = threading.Thread(target=learner.run, args=(stopping,))
    thread.start()
    stopping.set()
    learner.stop()
    thread.join(10)
    assert not thread.is_alive()


SPEED = Speeds(0.01, 0.001, 0.02, 0.002, 100)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (SPEED, False),
        (Speeds(0.01, 0.001, 0.0209, 0.002, 101), False),
        (Speeds(0.01, 0.001, 0.0211, 0.002, 100), True),
        (Speeds(0.01, 0.00106, 0.02, 0.002, 100), True),
        (Speeds(0.01, 0.001, 0.02, 0.002, 0), True),
        (Speeds(0.0109, 0.001, 0.02, 0.002, 100), False),
        (Speeds(0.012, 0.001, 0.02, 0.002, 100), True),
        (Speeds(0.01, 0.001, 0.02, 0.002, 100, (1.0, 1.0, 0.9, 1.0)), True),
        (None, True),
    ],
)
def test_what_has_moved_is_published_at_once(after: Speeds | None, expected: bool) -> None:
    assert speeds_moved(SPEED, after) is expected


def test_the_first_completions_are_published_one_by_one() -> None:
    assert speeds_moved(Speeds(0.01, 0.001, 0.02, 0.002, 3), Speeds(0.01, 0.001, 0.02, 0.002, 4))


def test_lengths_move_by_a_twentieth() -> None:
    assert not lengths_moved(Lengths(100.0, 4.0), Lengths(104.0, 4.1))
    assert lengths_moved(Lengths(100.0, 4.0), Lengths(106.0, 4.0))
    assert lengths_moved(Lengths(100.0, None), Lengths(100.0, 4.0))
    assert lengths_moved(None, Lengths(1.0))
    assert lengths_moved(Lengths(1.0), None)


# Loads of models


def cold(seconds: float, model: str = "tiny", *, ago: float = 0.0) -> RequestRecord:
    return answered(model=model, ago=ago, work={"is_cold": True, "load_us": round(seconds * 1e6)})


def test_the_time_of_loads_is_published_with_the_speeds(control: Control) -> None:
    control.write(cold(9.0, ago=50), answered(ago=40), answered(B, ago=30))
    control.learn()
    speeds, other = control.speeds(), control.speeds(B)
    assert speeds is not None
    assert other is not None
    assert (speeds.load, speeds.completions, other.load) == (9.0, 1, 0.0)
    control.write(cold(20.0, MODEL, ago=20), cold(10.0, "TINY", ago=10))  # other names of the model
    control.learn()
    speeds = control.speeds()
    assert speeds is not None
    assert speeds.load == 9.0  # the lower quartile of 9, 20 and 10: longer ones have waited


def test_a_restart_publishes_the_same_time_of_loads(control: Control) -> None:
    control.write(cold(9.0, ago=50), cold(4.0, ago=45), answered(ago=40))
    control.learn()
    before = control.everything()
    control.restart()
    control.learn()
    assert control.everything() == before
    speeds = control.speeds()
    assert speeds is not None
    assert speeds.load == 4.0


def test_another_time_of_loads_matters_at_once() -> None:
    before = Speeds(0.1, 0.001, 0.02, 0.001, 256, load=10.0)
    assert not speeds_moved(before, msgspec.structs.replace(before, load=10.4))
    assert speeds_moved(before, msgspec.structs.replace(before, load=11.0))
    assert speeds_moved(msgspec.structs.replace(before, load=0.0), before)
