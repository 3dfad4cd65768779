"""L10: each request that a gateway has served has a record."""

import pytest
from django.conf import settings

from gateway.ipc.live_page import LivePage
from tests.metrics.reconcile.test_reconcile import Reported, _own_settings  # noqa: F401  # a fixture
from tests.metrics.world import World

pytestmark = [pytest.mark.every_database, pytest.mark.django_db]


def test_a_served_request_without_a_record_is_a_difference(world: World) -> None:
    world.write()
    counts = LivePage(settings.ROUTERDASH.live_page_path).requests.row(3)
    counts.served, counts.recorded = 7, 8
    counts.store_ended()  # a process was killed while it ended one
    assert Reported().code == 0
    counts.served = 10
    counts.store_ended()
    reported = Reported()
    where = "served requests with a record in row 3 of the live page, since the boot"
    assert (reported.code, reported.differences("L10")) == (1, [f"L10: {where}: expected 10, found 8"])
