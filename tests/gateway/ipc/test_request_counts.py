"""Counts of requests in shared memory, over several lives of a row."""

from gateway.base import errors
from gateway.ipc.live_page import LivePage
from gateway.ipc.request_counts import REFUSED, ROW_WORDS, path_of_counts, read_ended


def test_all_codes_of_refusals_have_a_word():
    codes = [value for name, value in vars(errors).items() if name.isupper() and isinstance(value, str)]
    assert list(errors.CODES) == codes
    assert len(codes) <= ROW_WORDS - REFUSED


def store(counts, served, recorded):
    counts.served, counts.recorded = served, recorded
    counts.store_ended()


def test_a_served_request_without_a_record_is_missing(tmp_path):
    page = LivePage(tmp_path / "live")
    first, second = page.requests.row(0), page.requests.row(1)
    for counts in (first, second):
        store(counts, 3, 3)
    assert page.requests.without_record() == 0
    store(first, 4, 3)
    store(second, 3, 4)  # one has its record and has not ended yet: it hides no other one
    assert page.requests.without_record() == 1
    assert read_ended(tmp_path / "live")[:2] == [(4, 3), (3, 4)]
    again = page.requests.row(0)  # of the next process
    store(again, 2, 2)
    assert read_ended(tmp_path / "live")[0] == (6, 5)


def test_a_kill_between_both_stores_is_no_loss_and_hides_none(tmp_path):
    page = LivePage(tmp_path / "live")
    store(page.requests.row(0), 0, 2)
    assert page.requests.without_record() == 0
    store(page.requests.row(0), 1, 0)
    assert LivePage(tmp_path / "live").requests.without_record() == 1


def test_refusals_of_a_killed_process_are_left_to_the_next_one(tmp_path):
    counts = LivePage(tmp_path / "live").requests.row(2)
    for code in (errors.INVALID_API_KEY, errors.NOT_FOUND, errors.INVALID_API_KEY):
        assert counts.count_refused(code)
    assert not counts.count_refused("of another release")
    again = LivePage(tmp_path / "live").requests.row(2)
    assert again.refused == {errors.INVALID_API_KEY: 2, errors.NOT_FOUND: 1}
    again.count_refused(errors.INVALID_API_KEY, -2)
    again.count_refused(errors.NOT_FOUND, -1)
    assert again.refused == LivePage(tmp_path / "live").requests.row(2).refused == {}


def test_no_file_and_that_of_another_release_are_not_read(tmp_path):
    assert read_ended(tmp_path / "live") == []
    for content in (b"", b"123", bytes(8 * 100)):
        path_of_counts(tmp_path / "live").write_bytes(content)
        assert read_ended(tmp_path / "live") == []
