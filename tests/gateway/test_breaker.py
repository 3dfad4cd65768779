import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.breaker import CLOSED, HALF_OPEN, MAX_KEYS, OPEN, WINDOW_SECONDS, Breaker, Keys


def breaker():
    return Breaker(jitter=lambda: 1.0)


def well(it):
    """An attempt ended well, as callers say it."""
    it.well += 1
    if it.bad_in_a_row:
        it.good()


def opened(at=100.0):
    it = breaker()
    for _ in range(5):
        it.bad(at)
    return it


def test_it_begins_closed():
    assert breaker().state(0) == CLOSED
    assert not breaker().blocks(0)


def test_four_failures_in_a_row_do_not_open_it():
    it = breaker()
    assert [it.bad(1.0) for _ in range(4)] == [False] * 4
    assert it.state(1.0) == CLOSED


def test_the_fifth_in_a_row_does():
    it = opened(1.0)
    assert (it.state(1.0), it.blocks(1.0), it.due) == (OPEN, True, 3.0)


def test_a_success_in_between_begins_the_row_anew():
    it = breaker()
    for _ in range(4):
        it.bad(1.0)
    well(it)
    assert not any(it.bad(1.0) for _ in range(4))


def test_half_of_twenty_in_thirty_seconds_open_it():
    it = breaker()
    for at in range(10):
        well(it)
        found = it.bad(10.0 + at)
    assert found


def test_nineteen_are_not_enough():
    it = breaker()
    for at in range(9):
        well(it)
        assert not it.bad(10.0 + at)
    assert not it.bad(20.0)


def test_less_than_half_is_not_enough():
    it = breaker()
    for _ in range(30):
        well(it)
        well(it)
        assert not it.bad(10.0)


def test_what_failed_long_ago_does_not_count():
    it = breaker()
    for _ in range(9):
        well(it)
        it.bad(10.0)
    it.turn(41.0)
    well(it)
    assert not it.bad(41.0)


def test_a_slow_turn_keeps_what_the_window_still_holds():
    it = breaker()
    for at in range(10):
        it.turn(at * 2.9)  # less than a bucket each time
        well(it)
        found = it.bad(at * 2.9)
    assert found


def test_half_open_when_its_time_has_come():
    it = opened(100.0)
    assert (it.state(102.0), it.blocks(102.0)) == (HALF_OPEN, False)


def test_one_trial_at_a_time():
    it = opened(100.0)
    it.trials += 1
    assert it.blocks(102.0)


def test_a_good_trial_closes_it():
    it = opened(100.0)
    well(it)
    assert it.state(102.0) == CLOSED


def test_each_failed_trial_doubles_the_pause_up_to_a_minute():
    it, now, pauses = opened(100.0), 102.0, []
    for _ in range(7):
        assert it.bad(now)
        pauses.append(it.due - now)
        now = it.due
    assert pauses == pytest.approx([4, 8, 16, 32, 60, 60, 60])


def test_after_a_success_the_pauses_begin_anew():
    it = opened(100.0)
    it.bad(102.0)
    well(it)
    for _ in range(5):
        it.bad(200.0)
    assert it.due == 202.0


def test_failures_of_attempts_that_were_under_way_change_nothing():
    it = opened(100.0)
    assert not it.bad(101.0)
    assert it.due == 102.0


def test_an_endpoint_that_asks_for_a_pause_gets_it_at_once():
    it = breaker()
    assert it.bad(100.0, pause=7.0)
    assert it.due == 107.0


def test_no_longer_than_a_minute():
    it = breaker()
    it.bad(100.0, pause=3600.0)
    assert it.due == 160.0


def test_the_pause_has_jitter():
    dues = set()
    for _ in range(20):
        it = Breaker()
        for _ in range(5):
            it.bad(0.0)
        dues.add(it.due)
    assert len(dues) > 10
    assert all(due is not None and 1.8 <= due <= 2.2 for due in dues)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=200))
def test_it_is_never_open_for_more_than_a_minute(steps):
    it, now = Breaker(), 0.0
    for ended_well, passed in steps:
        now += passed
        it.turn(now)
        if ended_well:
            well(it)
        else:
            it.bad(now)
        assert it.due is None or it.due <= now + 66


# Whose failures count


def succeed(keys, key, now):
    """As callers say it."""
    if keys.last == key:
        keys.last_at = now
    else:
        keys.succeeded(key, now)


def test_the_only_active_keys_failures_all_count():
    keys = Keys()
    succeed(keys, "a", 0.0)
    assert [keys.failed("a", at) for at in (1.0, 2.0, 3.0, 4.0, 5.0)] == [True] * 5


def test_while_another_key_succeeds_a_keys_failures_count_once():
    keys = Keys()
    succeed(keys, "b", 0.0)
    assert [keys.failed("a", at) for at in (1.0, 2.0, 3.0)] == [True, False, False]


def test_once_again_after_the_window():
    keys = Keys()
    keys.failed("a", 1.0)
    succeed(keys, "b", WINDOW_SECONDS)
    assert not keys.failed("a", WINDOW_SECONDS)
    assert keys.failed("a", WINDOW_SECONDS + 1.0)


def test_a_success_that_the_window_has_left_behind_excuses_nobody():
    keys = Keys()
    succeed(keys, "b", 0.0)
    keys.failed("a", 29.0)
    assert not keys.failed("a", 29.9)
    assert keys.failed("a", 30.0)


def test_a_key_that_fails_itself_no_longer_excuses_another():
    """So an endpoint that fails for all of its keys is found out at once."""
    keys = Keys()
    succeed(keys, "a", 0.0)
    succeed(keys, "b", 0.1)
    found = [keys.failed(key, 1.0) for key in ("a", "a", "b", "a", "b", "a")]
    assert found == [True, False, True, True, True, True]


def test_behind_a_key_that_fails_now_an_earlier_one_still_excuses():
    keys = Keys()
    succeed(keys, "c", 0.0)
    succeed(keys, "b", 0.5)
    succeed(keys, "a", 1.0)
    found = [keys.failed(key, 2.0) for key in ("a", "a", "b", "b", "a")]
    assert found == [True, False, True, False, False]


def test_a_keys_own_successes_do_not_excuse_it():
    keys = Keys()
    for at in range(5):
        succeed(keys, "a", at)
        assert keys.failed("a", at + 0.5)


def test_what_was_forgiven_counts_once_more():
    keys = Keys()
    succeed(keys, "b", 0.0)
    keys.failed("a", 1.0)
    keys.forgive()
    assert [keys.failed("a", at) for at in (2.0, 3.0)] == [True, False]


def test_no_more_than_so_many_keys_are_remembered():
    keys = Keys()
    for number in range(3 * MAX_KEYS):
        succeed(keys, f"good {number}", number / 1000)
        keys.failed(f"bad {number}", number / 1000)
    assert len(keys._earlier) <= MAX_KEYS
    assert len(keys._counted) <= MAX_KEYS
    assert not keys.failed(f"bad {3 * MAX_KEYS - 1}", 1.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0, 12)), max_size=80))
def test_it_decides_as_the_rule_says(steps):
    """Against a model that keeps everything."""
    keys, now = Keys(), 0.0
    ends: dict[str, tuple[bool, float]] = {}  # the last of each key
    counted: dict[str, float] = {}
    for key, ended_well, passed in steps:
        now += passed
        ends[key] = ended_well, now
        if ended_well:
            succeed(keys, key, now)
            continue
        another = any(well and now - at < WINDOW_SECONDS for name, (well, at) in ends.items() if name != key)
        excused = another and key in counted and now - counted[key] < WINDOW_SECONDS
        if not excused:
            counted[key] = now
        assert keys.failed(key, now) is not excused
