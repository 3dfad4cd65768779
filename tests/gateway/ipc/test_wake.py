import select

import pytest

from gateway.ipc.live_page import LivePage
from gateway.ipc.wake import BY_CONTROL, BY_GATEWAY, WakePipe, Waker, wake_all


@pytest.fixture
def page(tmp_path):
    return LivePage(tmp_path / "live")


@pytest.fixture
def rows(page):
    claimed = [page.claim_row() for _ in range(2)]
    yield claimed
    for row in claimed:
        row.release()


def is_readable(pipe):
    return bool(select.select([pipe.descriptor], [], [], 0)[0])


def test_every_process_is_woken(page, rows):
    pipes = [WakePipe(row.wake_path) for row in rows]
    assert [is_readable(pipe) for pipe in pipes] == [False, False]
    wake_all(page)
    wake_all(page)
    assert [is_readable(pipe) for pipe in pipes] == [True, True]
    for pipe in pipes:
        pipe.drain()
    assert [is_readable(pipe) for pipe in pipes] == [False, False]
    for pipe in pipes:
        pipe.close()


def test_processes_without_a_pipe_are_no_error(page, rows):
    wake_all(page)
    WakePipe(rows[0].wake_path).close()
    wake_all(page)


def test_a_full_pipe_is_no_error(page, rows):
    pipe = WakePipe(rows[0].wake_path)
    for _ in range(70_000):
        wake_all(page)
    pipe.drain()
    pipe.close()


def test_another_file_is_refused(page, rows):
    rows[0].wake_path.write_text("")
    with pytest.raises(FileExistsError, match="is no named pipe"):
        WakePipe(rows[0].wake_path)


def test_a_gateway_wakes_one_other_and_says_that_it_is_no_change(page, rows):
    pipes, waker = [WakePipe(row.wake_path) for row in rows], Waker(page)
    waker.wake(rows[1].number)
    waker.wake(rows[1].number)
    assert pipes[0].drain() == b""
    wake_all(page)
    assert pipes[1].drain() == bytes([BY_GATEWAY, BY_GATEWAY, BY_CONTROL])
    waker.close()
    for pipe in pipes:
        pipe.close()


def test_a_gateway_that_has_ended_is_no_error_and_the_next_one_of_its_row_is_woken(page, rows):
    waker = Waker(page)
    waker.wake(rows[0].number)  # nobody has created the pipe
    for _ in range(2):
        pipe = WakePipe(rows[0].wake_path)
        waker.wake(rows[0].number)
        assert pipe.drain() == bytes([BY_GATEWAY])
        pipe.close()
        waker.wake(rows[0].number)
    waker.close()


def test_a_full_pipe_of_another_gateway_stays_open(page, rows):
    pipe, waker = WakePipe(rows[0].wake_path), Waker(page)
    for _ in range(70_000):
        waker.wake(rows[0].number)
    while pipe.drain():
        pass
    waker.wake(rows[0].number)
    assert pipe.drain() == bytes([BY_GATEWAY])
    waker.close()
    pipe.close()
