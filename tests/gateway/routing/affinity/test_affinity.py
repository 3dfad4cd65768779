import pytest

from gateway.base.config import AFFINITY_HEADER
from gateway.dialects.prompt_fields import decode_prompt
from gateway.routing.affinity.affinity import YOUNG
from gateway.routing.affinity.table import CLOCK_TOKENS_SHIFT
from tests.gateway.routing.affinity.conftest import OTHER_SECRET, Fleet, chat

TURN = chat("s" * 400, "x" * 2000)
NEXT_TURN = chat("s" * 400, "x" * 2000, "answer", "more")


def test_the_next_turn_of_a_conversation_finds_its_endpoint(fleet):
    a, _ = fleet.add("a", 3), fleet.add("b", 4)
    assert fleet.sizes(TURN) == {}
    fleet.send(TURN, a)
    sizes = fleet.sizes(NEXT_TURN)
    assert list(sizes) == ["a"]
    assert sizes["a"] >= 0.79 * len(decode_prompt(TURN).messages)


@pytest.mark.parametrize("other", [{"key": "other"}, {"key": None}, {"model": "other"}])
def test_another_key_or_model_finds_nothing(fleet, other):
    fleet.send(TURN, fleet.add("a", 3))
    assert fleet.sizes(TURN, **other) == {}


def test_another_secret_finds_nothing(fleet, table):
    fleet.send(TURN, fleet.add("a", 3))
    other = Fleet(table, secret=OTHER_SECRET, endpoints=fleet.endpoints)
    assert other.sizes(TURN) == {}


def test_endpoints_that_share_a_system_prompt_are_found_with_their_part(fleet):
    a, b = fleet.add("a", 3), fleet.add("b", 4)
    fleet.send(chat("s" * 3000, "x" * 2000), a)
    fleet.send(chat("s" * 3000, "y" * 2000), b)
    sizes = fleet.sizes(chat("s" * 3000, "x" * 2000, "answer", "more"))
    assert set(sizes) == {"a", "b"}
    assert sizes["b"] < sizes["a"]


def looked_up(fleet, body):
    prefix = fleet.read(body)
    fleet.affinity.find(prefix, fleet)
    return sorted(prefix.hashes)


def test_once_all_endpoints_have_a_mark_no_more_are_looked_up(fleet):
    a, b = fleet.add("a", 3), fleet.add("b", 4)
    longest = len(fleet.read(TURN).marks) - 1
    fleet.send(TURN, a)
    assert looked_up(fleet, TURN) == [0, longest]
    fleet.send(TURN, b)
    assert looked_up(fleet, TURN) == [longest]


def test_the_mark_in_the_middle_is_looked_up_if_another_endpoint_has_the_first(fleet):
    a, b, _ = fleet.add("a", 3), fleet.add("b", 4), fleet.add("c", 5)
    fleet.send(TURN, a)
    fleet.send(chat("s" * 400, "x" * 200 + "y" * 2000), b)
    longest = len(fleet.read(TURN).marks) - 1
    assert looked_up(fleet, TURN) == [0, longest // 2, longest]


def test_a_set_keeps_four_endpoints(fleet):
    endpoints = [fleet.add(str(number), number) for number in range(5)]
    for endpoint in endpoints:
        fleet.send(TURN, endpoint)
        fleet.clocks[endpoint.facts.slot] = 10_000 * (5 - endpoint.facts.slot)
    assert len(fleet.sizes(TURN)) == 4


def test_the_mark_that_is_replaced_is_the_oldest_by_its_endpoints_clock(fleet):
    endpoints = [fleet.add(str(number), number) for number in range(5)]
    for endpoint in endpoints[:4]:
        fleet.send(TURN, endpoint)
    fleet.clocks = {0: 5000, 1: 9000, 2: 7000, 3: 100}
    fleet.send(TURN, endpoints[4])
    assert set(fleet.sizes(TURN)) == {"0", "2", "3", "4"}


def test_marks_of_a_deleted_endpoint_are_replaced_first(fleet):
    endpoints = [fleet.add(str(number), number) for number in range(5)]
    for endpoint in endpoints[:4]:
        fleet.send(TURN, endpoint)
    fleet.clocks = {0: 500_000, 1: 900_000, 3: 100_000}
    fleet.remove(endpoints[2])
    fleet.send(TURN, endpoints[4])
    assert {"0", "1", "3", "4"} <= set(fleet.sizes(TURN))


def test_an_endpoint_in_the_slot_of_a_deleted_one_inherits_nothing(fleet):
    a = fleet.add("a", 3)
    fleet.send(TURN, a)
    fleet.remove(a)
    fleet.add("b", 3)
    assert fleet.sizes(TURN) == {}


def test_an_endpoint_at_another_address_has_lost_its_cache(fleet):
    a = fleet.add("a", 3)
    fleet.send(TURN, a)
    fleet.remove(a)
    fleet.add("a", 3, base_url="http://b")
    assert fleet.sizes(TURN) == {}


def test_another_process_and_a_restart_find_the_marks(fleet, paths):
    from gateway.routing.affinity.table import open_table

    fleet.send(TURN, fleet.add("a", 3))
    other = Fleet(open_table(*paths), endpoints=fleet.endpoints)
    assert fleet.sizes(NEXT_TURN) == other.sizes(NEXT_TURN) != {}


@pytest.mark.parametrize(("tokens", "age"), [(0, 0), (8_000, 0), (8_192, 1), (32_768, 2), (131_072, 3), (10**7, 3)])
def test_a_mark_ages_with_the_tokens_that_its_endpoint_reads(fleet, tokens, age):
    a = fleet.add("a", 3)
    fleet.clocks[3] = 777
    fleet.send(TURN, a)
    fleet.clocks[3] += tokens
    assert fleet.age(TURN, "a") == age


def test_a_mark_that_is_used_again_is_young_again(fleet):
    a = fleet.add("a", 3)
    fleet.send(TURN, a)
    fleet.clocks[3] = 100_000
    fleet.send(TURN, a)
    assert fleet.age(TURN, "a") == 0


def test_the_clock_may_wrap(fleet):
    a = fleet.add("a", 3)
    fleet.clocks[3] = (1 << 32) - 64
    fleet.send(TURN, a)
    fleet.clocks[3] = YOUNG << CLOCK_TOKENS_SHIFT
    assert fleet.age(TURN, "a") == 1


def test_a_clock_that_is_ahead_means_age_0(fleet):
    a = fleet.add("a", 3)
    fleet.clocks[3] = 9_000
    fleet.send(TURN, a)
    fleet.clocks[3] = 0
    assert fleet.age(TURN, "a") == 0


def test_no_text_is_stored(fleet, paths):
    fleet.send(chat("my secret " * 300, "another secret " * 300), fleet.add("a", 3), session=b"my-session-id")
    stored = paths[0].read_bytes()
    assert b"secret" not in stored
    assert b"session" not in stored


def test_the_checksum_of_a_prompt_is_not_stored(fleet, paths):
    """Who reads the table, and knows everything but the secret, cannot test a text."""
    prefix = fleet.send(TURN, fleet.add("a", 3))
    stored = paths[0].read_bytes()
    for number, checksum in enumerate(prefix.marks):
        assert checksum.to_bytes(8, "little")[:4] not in stored
        assert prefix.hashes[number] != checksum


# Sessions


def test_a_session_keeps_its_endpoint_when_the_prompt_has_changed(fleet):
    fleet.send(TURN, fleet.add("a", 3), session=b"session-1")
    assert fleet.sizes(chat("z" * 3000, "q"), session=b"session-1") == {"a": 512}


@pytest.mark.parametrize("other", [b"session-12", b"session-", b"SESSION-1", None])
def test_sessions_are_equal_or_not(fleet, other):
    fleet.send(chat("s", "q" * 600), fleet.add("a", 3), session=b"session-1")
    assert fleet.sizes(chat("z" * 3000, "q"), session=other) == {}


def test_a_session_is_known_to_one_key_alone(fleet):
    fleet.send(TURN, fleet.add("a", 3), session=b"s")
    assert fleet.sizes(chat("z" * 3000, "q"), session=b"s", key="other") == {}


def test_the_body_tells_how_long_the_prefix_of_a_session_is(fleet):
    fleet.send(TURN, fleet.add("a", 3), session=b"s")
    assert fleet.sizes(NEXT_TURN, session=b"s") == fleet.sizes(NEXT_TURN)


def test_short_requests_have_affinity_only_in_a_session(fleet):
    short = chat("s", "q")
    fields = decode_prompt(short)
    assert fleet.affinity.read(fields, None, "key", "m", len(short)) is None
    fleet.send(short, fleet.add("a", 3), session=b"s")
    assert fleet.sizes(short, session=b"s") == {"a": 512}


def test_the_setting_header_uses_sessions_alone(table):
    fleet = Fleet(table, AFFINITY_HEADER)
    a = fleet.add("a", 3)
    assert fleet.affinity.read(decode_prompt(TURN), None, "key", "m", len(TURN)) is None
    fleet.send(TURN, a, session=b"s")
    sizes = fleet.sizes(chat("z" * 5000, "q"), session=b"s")
    assert sizes["a"] >= 0.79 * len(decode_prompt(TURN).messages)
    assert sizes["a"] <= len(TURN)


# The conversation of the record


def test_turns_of_a_conversation_have_one_key_of_8_bytes(fleet):
    first, second = fleet.read(TURN).conversation, fleet.read(NEXT_TURN).conversation
    assert first == second
    assert len(bytes.fromhex(first)) == 8


def test_conversations_differ_by_text_session_key_model_and_secret(fleet, table):
    other = Fleet(table, secret=OTHER_SECRET)
    prefixes = [
        fleet.read(TURN),
        fleet.read(chat("s" * 400, "y" * 2000)),
        fleet.read(TURN, session=b"s"),
        fleet.read(TURN, session=b"t"),
        fleet.read(TURN, key="other"),
        fleet.read(TURN, model="other"),
        other.read(TURN),
    ]
    assert len({prefix.conversation for prefix in prefixes}) == len(prefixes)


@pytest.mark.parametrize("session", [None, b"s"])
@pytest.mark.parametrize("body", [TURN, chat("s" * 10_000, "q", tools=["t" * 700])])
def test_without_a_choice_of_endpoints_there_is_only_the_conversation(fleet, session, body):
    conversation = fleet.affinity.conversation(decode_prompt(body), session, "key", "m", len(body))
    assert conversation == fleet.read(body, session=session).conversation


def test_a_session_is_one_conversation_whatever_its_prompts(fleet):
    first, second = fleet.read(TURN, session=b"s"), fleet.read(chat("z" * 700, "q"), session=b"s")
    assert first.conversation == second.conversation
