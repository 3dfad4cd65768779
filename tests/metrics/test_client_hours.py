"""The busiest clients: of this hour and the one before, and the same after a restart."""

import pytest
import time_machine

from metrics import client_hours, clients
from metrics.client_hours import KEPT, ClientHours
from metrics.fold import Fold
from tests.metrics.records import AT, NOW, load, request
from tests.metrics.world import UTC_ZONE, World, restored

HOUR = int(AT // 3600)


def counted(*sent: tuple[int, str, int]) -> ClientHours:
    made = ClientHours()
    for hour, address, requests in sent:
        made.add(hour, address, requests)
    return made


def test_this_hour_and_the_one_before_are_summed() -> None:
    made = counted((HOUR, "192.0.2.1", 1), (HOUR - 1, "192.0.2.1", 2), (HOUR - 2, "192.0.2.1", 4))
    assert made.busiest(HOUR, 5) == (("192.0.2.1", 3),)


def test_the_busiest_come_first_and_equal_ones_by_name() -> None:
    made = counted((HOUR, "192.0.2.3", 9), (HOUR, "192.0.2.2", 5), (HOUR, "192.0.2.1", 5), (HOUR, "192.0.2.4", 1))
    assert [client for client, _ in made.busiest(HOUR, 3)] == ["192.0.2.3", "192.0.2.1", "192.0.2.2"]


def test_what_comes_later_and_another_hour_are_seen() -> None:
    made = counted((HOUR, "192.0.2.1", 1))
    assert made.busiest(HOUR, 1) == (("192.0.2.1", 1),)
    made.add(HOUR + 1, "192.0.2.2", 3)
    assert (made.busiest(HOUR, 1), made.busiest(HOUR + 1, 1)) == ((("192.0.2.1", 1),), (("192.0.2.2", 3),))


def test_a_network_is_one_client() -> None:
    made = counted((HOUR, "2001:db8::1", 1), (HOUR, "2001:db8::2", 1))
    assert made.busiest(HOUR, 5) == (("2001:db8::/64", 2),)


def test_an_hour_has_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_hours, "MOST_CLIENTS", 1)
    made = counted((HOUR, "192.0.2.1", 1), (HOUR, "192.0.2.2", 9), (HOUR, "192.0.2.1", 1))
    assert made.busiest(HOUR, 5) == (("192.0.2.1", 2),)


def test_what_is_seen_again_by_a_clock_that_was_set_back_is_kept() -> None:
    made = counted((HOUR - 1, "192.0.2.1", 1))
    made.turn(HOUR + 3)
    assert made.busiest(HOUR, 5) == (("192.0.2.1", 1),)


def test_old_hours_are_let_go_of() -> None:
    made = counted((HOUR, "192.0.2.1", 1))
    made.turn(HOUR + KEPT)
    assert not made.hours


@pytest.mark.django_db
@pytest.mark.parametrize("seed", range(3))
def test_a_restart_changes_none_of_them(world: World, seed: int) -> None:
    world.gateway(*load(seed, 300, seconds=3 * 3600))
    world.write()
    before, after = world.figures(), restored()
    assert before.clients == after.clients
    assert len(before.clients) == 2


@pytest.mark.django_db
@time_machine.travel(NOW, tick=False)
def test_it_is_what_the_page_of_clients_says(world: World) -> None:
    world.gateway(*load(5, 200, seconds=2 * 3600))
    world.write()
    told = dict(world.figures().clients)
    for client, requests in told.items():
        hours = clients.by_hour(2, clients.seen(client).addresses)
        assert requests == sum(row["request_count"] for row in hours.rows) > 0
    assert told


def test_a_sum_of_folds_has_the_clients_of_both() -> None:
    one, other = (Fold(UTC_ZONE).add_all([request(client_ip="192.0.2.1", ago=ago)]) for ago in (0, 1))
    ((key, cell),) = (one + other).clients.items()
    assert (key[:2], cell.requests_ok) == ((HOUR, "192.0.2.1"), 2)
    assert (one.clients[key].requests_ok, other.clients[key].requests_ok) == (1, 1)
