"""Pauses of endpoints, and kinds that they lack, over all processes."""

import pytest

from gateway.base.request_kinds import CHAT, COUNT_TOKENS, EMBEDDINGS, MESSAGES, RERANK, RESPONSES
from gateway.base.sealing import Sealer
from gateway.ipc.live_page import LivePage
from gateway.providers.errors import ErrorCause
from gateway.registry import schema
from gateway.routing import set_aside
from gateway.routing.balancer import EXCLUDED, OPEN
from gateway.routing.roster import Roster
from gateway.routing.set_aside import LACKING_SECONDS, note_of
from tests.gateway.samples import KEY, make_endpoint


class Clock:
    def __init__(self, now=1_000_000.0):
        self.now = now

    def time(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(set_aside, "time", made)
    return made


@pytest.fixture
def two(config, control, sweeper, clock):
    """Return the rosters of two processes, which know a cloud `c` and a server `s`."""

    def make():
        page = LivePage(config.live_page_path)
        return Roster(config.registry_dir, page, page.claim_row(), Sealer([KEY]), sweeper)

    made = make(), make()
    publish(control)
    for roster in made:
        roster.refresh()
        roster.follow()
    return made


def publish(control, **facts):
    cloud = make_endpoint("c", "tiny", slot=1, **{"kind": "openai", "external": True, **facts})
    control.publish(cloud, make_endpoint("s", "tiny", slot=2))


def ranks(two):
    for roster in two:
        roster.follow()
    return [roster.endpoints["c"].rank for roster in two]


def test_a_pause_holds_in_all_processes_until_its_end(two, clock):
    two[0].aside.pause(two[0].endpoints["c"], ErrorCause.LIMITED, 30)
    assert ranks(two) == [EXCLUDED, EXCLUDED]
    assert two[1].endpoints["c"].memory.pause_cause is ErrorCause.LIMITED
    clock.now += 29
    assert ranks(two) == [EXCLUDED, EXCLUDED]
    clock.now += 1
    assert ranks(two) == [0, 0]


def test_the_longest_pause_counts(two, clock):
    aside, cloud = two[0].aside, two[0].endpoints["c"]
    aside.pause(cloud, ErrorCause.MONEY, 600)
    aside.pause(cloud, ErrorCause.LIMITED, 1)
    clock.now += 599
    assert ranks(two) == [EXCLUDED, EXCLUDED]
    assert cloud.memory.pause_cause is ErrorCause.MONEY


def test_after_missing_money_single_requests_show_whether_somebody_has_paid(two, clock):
    cloud = two[0].endpoints["c"]
    two[0].aside.pause(cloud, ErrorCause.MONEY, 600)
    clock.now += 600
    two[0].follow()
    assert (cloud.rank, cloud.breaker.due is None) == (0, False)
    cloud.begin_trial()
    assert cloud.rank == OPEN
    cloud.end_trial()
    cloud.record_success("client", 0.0)
    assert (cloud.rank, cloud.breaker.due) == (0, None)


def test_an_administrators_reset_ends_a_pause(two, control):
    two[0].aside.pause(two[0].endpoints["c"], ErrorCause.MONEY, 600)
    assert ranks(two) == [EXCLUDED, EXCLUDED]
    control.page.breakers.reset(1)
    assert ranks(two) == [0, 0]


def test_another_key_ends_a_pause(two, control):
    two[0].aside.pause(two[0].endpoints["c"], ErrorCause.KEY_REFUSED, 60)
    publish(control, sealed_key=Sealer([KEY]).seal("sk-another"))
    for roster in two:
        roster.refresh()
    assert ranks(two) == [0, 0]


def test_a_pause_of_another_endpoint_in_the_slot_is_not_inherited(two, control):
    two[0].aside.pause(two[0].endpoints["c"], ErrorCause.MONEY, 600)
    control.publish(make_endpoint("d", "tiny", slot=1))
    for roster in two:
        roster.refresh()
        roster.follow()
        assert roster.endpoints["d"].rank == 0


# Missing kinds


def unable(roster, kind):
    roster.follow()
    return dict(roster.aside.unable.get(kind, {}))


def test_a_provider_lacks_what_it_does_not_offer(two):
    assert unable(two[0], RERANK) == {"c": True}
    assert unable(two[0], CHAT) == {}
    assert unable(two[0], MESSAGES) == {}  # translated to chat completions
    assert unable(two[0], COUNT_TOKENS) == {"c": True}
    assert two[0].aside.lacks(two[0].endpoints["c"], MESSAGES)


def test_anthropic_gets_chat_completions_as_messages(two, control):
    publish(control, kind="anthropic")
    two[0].refresh()
    assert unable(two[0], CHAT) == {}
    assert unable(two[0], EMBEDDINGS) == {"c": True}


def test_a_missing_kind_is_known_to_all_processes_for_a_while(two, clock):
    two[0].aside.learn_lacking(two[0].endpoints["s"], RESPONSES)
    assert two[0].aside.unable[RESPONSES] == {"s": False}
    assert unable(two[1], RESPONSES) == {"s": False}
    two[1].aside.learn_lacking(two[1].endpoints["s"], RERANK)
    assert unable(two[0], RESPONSES) == {"s": False}
    assert unable(two[0], RERANK) == {"s": False, "c": True}
    clock.now += LACKING_SECONDS
    assert [unable(roster, RESPONSES) for roster in two] == [{}, {}]


def test_an_endpoint_without_messages_is_asked_in_another_dialect(two):
    aside, server = two[0].aside, two[0].endpoints["s"]
    aside.learn_lacking(server, MESSAGES)
    assert (aside.lacks(server, MESSAGES), unable(two[0], MESSAGES)) == (True, {})
    aside.learn_lacking(server, CHAT)
    assert unable(two[0], MESSAGES) == {"s": False}


def test_responses_are_translated_only_where_no_other_endpoint_has_them(two, control):
    publish(control, kind="together")
    two[0].refresh()
    assert unable(two[0], RESPONSES) == {"c": False}
    publish(control, kind="anthropic")
    two[0].refresh()
    assert unable(two[0], RESPONSES) == {"c": False}  # by way of a chat completion


@pytest.mark.parametrize("edit", [{"cost_weight": 2.0}, {"base_url": "http://127.0.0.1:2"}])
def test_an_edit_forgets_missing_kinds(two, control, edit):
    two[0].aside.learn_lacking(two[0].endpoints["s"], RESPONSES)
    control.publish(make_endpoint("s", "tiny", slot=2, **edit))
    two[0].refresh()
    assert [unable(roster, RESPONSES) for roster in two] == [{}, {}]


def test_a_sync_that_changes_models_forgets_missing_kinds(two, control):
    two[0].aside.learn_lacking(two[0].endpoints["s"], RESPONSES)
    control.publish(make_endpoint("s", "tiny", "new", slot=2))
    two[0].refresh()
    assert [unable(roster, RESPONSES) for roster in two] == [{}, {}]


def test_a_health_check_forgets_nothing(two, control):
    two[0].aside.learn_lacking(two[0].endpoints["s"], RESPONSES)
    control.publish(
        make_endpoint("c", "tiny", slot=1, kind="openai", external=True),
        make_endpoint("s", "tiny", slot=2, status=schema.ERROR),
    )
    two[0].refresh()
    assert unable(two[0], RESPONSES) == {"s": False}


# What pages and the API show


def test_the_note_of_an_endpoint(two, clock, control):
    aside, cloud = two[0].aside, two[0].endpoints["c"]
    notes = control.page.notes
    assert note_of(notes, 1, "c", clock.now) is None
    aside.learn_lacking(cloud, RESPONSES)
    assert note_of(notes, 1, "c", clock.now) == (0, None, (RESPONSES,))
    aside.pause(cloud, ErrorCause.MONEY, 10)
    assert note_of(notes, 1, "c", clock.now) == (int(clock.now) + 10, "money", (RESPONSES,))
    assert note_of(notes, 1, "c", clock.now + 10) == (0, None, (RESPONSES,))
    assert note_of(notes, 1, "c", clock.now + LACKING_SECONDS) is None
