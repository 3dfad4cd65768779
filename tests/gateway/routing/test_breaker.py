import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.breaker import CLOSED, HALF_OPEN, MAX_KEYS, OPEN, WINDOW_SECONDS, Breaker, Keys


def make_breaker():
    return Breaker(jitter=lambda: 1.0)


def opened(moment=100.0):
    breaker = make_breaker()
    for _ in range(5):
        breaker.record_failure(moment)
    return breaker


def test_a_breaker_begins_closed():
    assert make_breaker().state(0) == CLOSED
    assert not make_breaker().blocks(0)


def test_four_failures_in_a_row_do_not_open_the_breaker():
    breaker = make_breaker()
    assert [breaker.record_failure(1.0) for _ in range(4)] == [False] * 4
    assert breaker.state(1.0) == CLOSED


def test_five_failures_in_a_row_open_the_breaker():
    breaker = opened(1.0)
    assert (breaker.state(1.0), breaker.blocks(1.0), breaker.due) == (OPEN, True, 3.0)


def test_a_success_resets_the_row_of_failures():
    breaker = make_breaker()
    for _ in range(4):
        breaker.record_failure(1.0)
    breaker.record_success()
    assert not any(breaker.record_failure(1.0) for _ in range(4))


def test_half_of_twenty_failing_in_thirty_seconds_opens_the_breaker():
    breaker = make_breaker()
    for seconds in range(10):
        breaker.record_success()
        opens = breaker.record_failure(10.0 + seconds)
    assert opens


def test_nineteen_attempts_do_not_open_the_breaker():
    breaker = make_breaker()
    for seconds in range(9):
        breaker.record_success()
        assert not breaker.record_failure(10.0 + seconds)
    assert not breaker.record_failure(20.0)


def test_failures_of_less_than_half_do_not_open_the_breaker():
    breaker = make_breaker()
    for _ in range(30):
        breaker.record_success()
        breaker.record_success()
        assert not breaker.record_failure(10.0)


def test_failures_before_the_window_do_not_count():
    breaker = make_breaker()
    for _ in range(9):
        breaker.record_success()
        breaker.record_failure(10.0)
    breaker.move_window(41.0)
    breaker.record_success()
    assert not breaker.record_failure(41.0)


def test_a_slow_iteration_keeps_attempts_inside_the_window():
    breaker = make_breaker()
    for step in range(10):
        breaker.move_window(step * 2.9)  # less than a bucket per step
        breaker.record_success()
        opens = breaker.record_failure(step * 2.9)
    assert opens


def test_a_breaker_is_half_open_after_its_pause():
    breaker = opened(100.0)
    assert (breaker.state(102.0), breaker.blocks(102.0)) == (HALF_OPEN, False)


def test_one_trial_at_a_time():
    breaker = opened(100.0)
    breaker.trials += 1
    assert breaker.blocks(102.0)


def test_a_successful_trial_closes_the_breaker():
    breaker = opened(100.0)
    breaker.record_success()
    assert breaker.state(102.0) == CLOSED


def test_each_failed_trial_doubles_the_pause_up_to_a_minute():
    breaker, now, pauses = opened(100.0), 102.0, []
    for _ in range(7):
        assert breaker.record_failure(now)
        pauses.append(breaker.due - now)
        now = breaker.due
    assert pauses == pytest.approx([4, 8, 16, 32, 60, 60, 60])


def test_after_a_success_the_pauses_start_at_the_minimum():
    breaker = opened(100.0)
    breaker.record_failure(102.0)
    breaker.record_success()
    for _ in range(5):
        breaker.record_failure(200.0)
    assert breaker.due == 202.0


def test_failures_of_earlier_attempts_do_not_change_an_open_breaker():
    breaker = opened(100.0)
    assert not breaker.record_failure(101.0)
    assert breaker.due == 102.0


def test_retry_after_opens_the_breaker_at_once():
    breaker = make_breaker()
    assert breaker.record_failure(100.0, pause=7.0)
    assert breaker.due == 107.0


def test_retry_after_is_limited_to_a_minute():
    breaker = make_breaker()
    breaker.record_failure(100.0, pause=3600.0)
    assert breaker.due == 160.0


def test_the_pause_has_jitter():
    dues = set()
    for _ in range(20):
        breaker = Breaker()
        for _ in range(5):
            breaker.record_failure(0.0)
        dues.add(breaker.due)
    assert len(dues) > 10
    assert all(due is not None and 1.8 <= due <= 2.2 for due in dues)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=200))
def test_a_breaker_is_never_open_for_more_than_a_minute(steps):
    breaker, now = Breaker(), 0.0
    for ended_well, passed in steps:
        now += passed
        breaker.move_window(now)
        if ended_well:
            breaker.record_success()
        else:
            breaker.record_failure(now)
        assert breaker.due is None or breaker.due <= now + 66


# Failures by key


def test_the_only_active_keys_failures_all_count():
    keys = Keys()
    keys.succeeded("a", 0.0)
    assert [keys.failed("a", moment) for moment in (1.0, 2.0, 3.0, 4.0, 5.0)] == [True] * 5


def test_while_another_key_succeeds_a_keys_failures_count_once():
    keys = Keys()
    keys.succeeded("b", 0.0)
    assert [keys.failed("a", moment) for moment in (1.0, 2.0, 3.0)] == [True, False, False]


def test_a_keys_failures_count_once_more_after_the_window():
    keys = Keys()
    keys.failed("a", 1.0)
    keys.succeeded("b", WINDOW_SECONDS)
    assert not keys.failed("a", WINDOW_SECONDS)
    assert keys.failed("a", WINDOW_SECONDS + 1.0)


def test_a_success_before_the_window_has_no_effect():
    keys = Keys()
    keys.succeeded("b", 0.0)
    keys.failed("a", 29.0)
    assert not keys.failed("a", 29.9)
    assert keys.failed("a", 30.0)


def test_a_success_of_a_key_that_fails_now_has_no_effect():
    """An endpoint that fails for all of its keys opens its breaker at once."""
    keys = Keys()
    keys.succeeded("a", 0.0)
    keys.succeeded("b", 0.1)
    counts = [keys.failed(key, 1.0) for key in ("a", "a", "b", "a", "b", "a")]
    assert counts == [True, False, True, True, True, True]


def test_an_earlier_successful_key_still_has_an_effect():
    keys = Keys()
    keys.succeeded("c", 0.0)
    keys.succeeded("b", 0.5)
    keys.succeeded("a", 1.0)
    counts = [keys.failed(key, 2.0) for key in ("a", "a", "b", "b", "a")]
    assert counts == [True, False, True, False, False]


def test_a_keys_own_successes_do_not_reduce_its_failures():
    keys = Keys()
    for moment in range(5):
        keys.succeeded("a", moment)
        assert keys.failed("a", moment + 0.5)


def test_ignored_failures_count_again():
    keys = Keys()
    keys.succeeded("b", 0.0)
    keys.failed("a", 1.0)
    keys.forgive()
    assert [keys.failed("a", moment) for moment in (2.0, 3.0)] == [True, False]


def test_the_number_of_remembered_keys_is_limited():
    keys = Keys()
    for number in range(3 * MAX_KEYS):
        keys.succeeded(f"good {number}", number / 1000)
        keys.failed(f"bad {number}", number / 1000)
    assert len(keys._earlier) <= MAX_KEYS
    assert len(keys._counted) <= MAX_KEYS
    assert not keys.failed(f"bad {3 * MAX_KEYS - 1}", 1.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0, 12)), max_size=80))
def test_the_breaker_decides_like_the_reference_model(steps):
    """Compare the breaker with a reference model that keeps all attempts."""
    keys, now = Keys(), 0.0
    ends: dict[str, tuple[bool, float]] = {}  # the last result of each key
    counted: dict[str, float] = {}
    for key, ended_well, passed in steps:
        now += passed
        ends[key] = ended_well, now
        if ended_well:
            keys.succeeded(key, now)
            continue
        another = any(
            success and now - moment < WINDOW_SECONDS for name, (success, moment) in ends.items() if name != key
        )
        excused = another and key in counted and now - counted[key] < WINDOW_SECONDS
        if not excused:
            counted[key] = now
        assert keys.failed(key, now) is not excused
