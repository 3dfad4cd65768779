"""The busiest clients of this and the previous hour, also after a restart."""

import pytest
import time_machine

from metrics.counting.fold import Fold
from metrics.memory import client_hours
from metrics.memory.client_hours import RETAINED_HOURS, RecentClients
from metrics.queries.client_detail import client_summary
from metrics.queries.client_hours import client_hours as client_hours_of
from tests.metrics.records import AT, NOW, load, request
from tests.metrics.world import UTC_ZONE, World, restored

HOUR = int(AT // 3600)


def counted(*sent: tuple[int, str, int]) -> RecentClients:
    made = RecentClients()
    for hour, address, requests in sent:
        made.add(hour, address, requests)
    return made


def test_this_hour_and_the_one_before_are_summed() -> None:
    made = counted((HOUR, "192.0.2.1", 1), (HOUR - 1, "192.0.2.1", 2), (HOUR - 2, "192.0.2.1", 4))
    assert made.busiest(HOUR, 5) == (("192.0.2.1", 3),)


def test_the_busiest_come_first_and_equal_ones_by_name() -> None:
    made = counted((HOUR, "192.0.2.3", 9), (HOUR, "192.0.2.2", 5), (HOUR, "192.0.2.1", 5), (HOUR, "192.0.2.4", 1))
    assert [client for client, _ in made.busiest(HOUR, 3)] == ["192.0.2.3", "192.0.2.1", "192.0.2.2"]


def test_later_records_and_a_new_hour_are_counted() -> None:
    made = counted((HOUR, "192.0.2.1", 1))
    assert made.busiest(HOUR, 1) == (("192.0.2.1", 1),)
    made.add(HOUR + 1, "192.0.2.2", 3)
    assert (made.busiest(HOUR, 1), made.busiest(HOUR + 1, 1)) == ((("192.0.2.1", 1),), (("192.0.2.2", 3),))


def test_a_network_is_one_client() -> None:
    made = counted((HOUR, "2001:db8::1", 1), (HOUR, "2001:db8::2", 1))
    assert made.busiest(HOUR, 5) == (("2001:db8::/64", 2),)


def test_the_number_of_clients_per_hour_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_hours, "MAX_CLIENTS", 1)
    made = counted((HOUR, "192.0.2.1", 1), (HOUR, "192.0.2.2", 9), (HOUR, "192.0.2.1", 1))
    assert made.busiest(HOUR, 5) == (("192.0.2.1", 2),)


def test_hours_are_kept_after_a_clock_is_set_back() -> None:
    made = counted((HOUR - 1, "192.0.2.1", 1))
    made.advance(HOUR + 3)
    assert made.busiest(HOUR, 5) == (("192.0.2.1", 1),)


def test_old_hours_are_dropped() -> None:
    made = counted((HOUR, "192.0.2.1", 1))
    made.advance(HOUR + RETAINED_HOURS)
    assert not made.hours


@pytest.mark.django_db
@pytest.mark.parametrize("seed", range(3))
def test_a_restart_does_not_change_the_busiest_clients(world: World, seed: int) -> None:
    world.gateway(*load(seed, 300, seconds=3 * 3600))
    world.write()
    before, after = world.figures(), restored()
    assert before.clients == after.clients
    assert len(before.clients) == 2


@pytest.mark.django_db
@time_machine.travel(NOW, tick=False)
def test_the_busiest_clients_agree_with_the_page_of_clients(world: World) -> None:
    world.gateway(*load(5, 200, seconds=2 * 3600))
    world.write()
    reported = dict(world.figures().clients)
    for client, requests in reported.items():
        hours = client_hours_of(2, client_summary(client).addresses)
        assert requests == sum(row["request_count"] for row in hours.rows) > 0
    assert reported


def test_a_sum_of_folds_has_the_clients_of_both() -> None:
    one, other = (Fold(UTC_ZONE).add_all([request(client_ip="192.0.2.1", ago=ago)]) for ago in (0, 1))
    ((key, cell),) = (one + other).clients.items()
    assert (key[:2], cell.requests_ok) == ((HOUR, "192.0.2.1"), 2)
    assert (one.clients[key].requests_ok, other.clients[key].requests_ok) == (1, 1)
