"""The simulated batching server, step by step."""

from dataclasses import replace

import pytest

from benchmarks.routing.server import Job, Server, Shape

SHAPE = Shape("vllm", a=10.0, b=1.0, c=0.0, p=0.1, slots=4, memory=10_000, budget=100, paged=True)


def make(shape: Shape = SHAPE, **loads: float) -> Server:
    return Server(shape, loads=loads, random=lambda: 0.5)  # without noise


def drain(server: Server, now: float = 0.0) -> dict[Job, float]:
    """Run it until it is idle, and return when each request ended."""
    ended: dict[Job, float] = {}
    due = server.begin(now)
    while due is not None:
        now = due
        for job in server.advance(now):
            ended[job] = now
        due = server.begin(now)
    return ended


def test_a_request_alone_takes_its_prompt_and_then_a_step_for_each_token() -> None:
    server, job = make(), Job(50, 11)
    server.submit(job, 0.0)
    assert drain(server) == {job: pytest.approx(0.003 + 50 * 0.0001 + 10 * 0.011)}


def test_the_first_token_comes_with_the_last_chunk_of_the_prompt() -> None:
    server, job = make(), Job(250, 2)
    server.submit(job, 0.0)
    drain(server)
    assert job.first_at == pytest.approx(3 * 0.003 + 250 * 0.0001)


def test_a_stretch_takes_as_long_as_its_single_steps() -> None:
    shape = replace(SHAPE, c=3.0)
    long, single = make(shape), make(shape)
    single.longest = 1
    ends = []
    for server in (long, single):
        for output in (7, 20, 33):
            server.submit(Job(40, output), 0.0)
        ends.append(list(drain(server).values()))
    assert ends[0] == pytest.approx(ends[1])


def test_an_arrival_ends_a_stretch_with_its_current_step() -> None:
    server, first, second = make(), Job(10, 101), Job(10, 2)
    server.submit(first, 0.0)
    due = server.begin(0.0)
    assert due is not None
    server.advance(due)  # the prompt is read
    assert server.begin(due) == pytest.approx(due + 100 * 0.011)
    assert server.submit(second, due + 0.025) == pytest.approx(due + 3 * 0.011)
    server.advance(due + 3 * 0.011)
    assert server.written(first) == 4


def test_requests_that_write_together_slow_each_other() -> None:
    server = make()
    jobs = [Job(10, 51) for _ in range(3)]
    for job in jobs:
        server.submit(job, 0.0)
    ended = drain(server)
    assert ended[jobs[0]] > 50 * 0.013


def test_more_requests_than_slots_wait() -> None:
    server = make(replace(SHAPE, slots=1))
    first, second = Job(10, 10), Job(10, 10)
    server.submit(first, 0.0)
    server.submit(second, 0.0)
    assert (server.running, len(server.waiting)) == (1, 1)
    ended = drain(server)
    assert ended[second] == pytest.approx(2 * ended[first])


def test_a_request_that_has_no_room_in_memory_waits() -> None:
    server = make(replace(SHAPE, memory=1000))
    server.submit(Job(600, 5), 0.0)
    server.submit(Job(600, 5), 0.0)
    drain_due = server.begin(0.0)
    assert (server.running, len(server.waiting), drain_due is not None) == (1, 1, True)
    assert len(drain(server)) == 2


def test_requests_that_outgrow_the_memory_are_put_back_and_end_all_the_same() -> None:
    server = make(replace(SHAPE, memory=400))
    jobs = [Job(60, 150) for _ in range(3)]
    for job in jobs:
        server.submit(job, 0.0)
    assert drain(server).keys() == set(jobs)
    assert [job.written for job in jobs] == [150, 150, 150]


@pytest.mark.parametrize("paged", [True, False])
def test_the_next_turn_of_a_conversation_reads_only_what_is_new(paged: bool) -> None:
    server = make(replace(SHAPE, paged=paged))
    server.submit(Job(160, 16, system="s", system_tokens=96, conversation="c"), 0.0)
    drain(server)
    again = Job(200, 2, system="s", system_tokens=96, conversation="c", history=80)
    server.submit(again, 5.0)
    drain(server, 5.0)
    assert again.cached == 176


def test_pages_share_a_system_prompt_between_conversations() -> None:
    server = make()
    server.submit(Job(160, 4, system="s", system_tokens=96, conversation="c"), 0.0)
    drain(server)
    other = Job(160, 4, system="s", system_tokens=96, conversation="d")
    server.submit(other, 5.0)
    assert other.cached == 96


def test_pages_forget_the_oldest_prefix_first() -> None:
    server = make(replace(SHAPE, memory=400))
    for name in ("old", "new"):
        server.submit(Job(240, 4, conversation=name), 0.0)
        drain(server)
    again = [Job(240, 2, conversation=name, history=240) for name in ("new", "old")]
    assert server.cache.match(again[0]) > server.cache.match(again[1])


def test_a_slot_keeps_only_its_last_prefix() -> None:
    server = make(replace(SHAPE, paged=False, slots=1))
    for name in ("one", "two"):
        server.submit(Job(200, 4, conversation=name), 0.0)
        drain(server)
    assert server.cache.match(Job(200, 4, conversation="one", history=200)) == 0
    assert server.cache.match(Job(200, 4, conversation="two", history=150)) == 150


def test_an_embedding_ends_when_its_prompt_is_read() -> None:
    server, job = make(), Job(100, 0)
    server.submit(job, 0.0)
    assert drain(server) == {job: pytest.approx(0.013)}


SWAPPING = replace(SHAPE, one_model=True, keep_alive=60.0)


def test_another_model_is_loaded_when_nothing_runs() -> None:
    server = make(SWAPPING, x=5.0, y=7.0)
    first, second, third = Job(10, 5, model="x"), Job(10, 5, model="y"), Job(10, 5, model="x")
    for job in (first, second, third):
        server.submit(job, 0.0)
    ended = drain(server)
    assert (server.loads, first.cold, second.cold, third.cold) == (3, True, True, True)
    assert ended[third] == pytest.approx(17.0, abs=0.5)


def test_a_model_in_memory_is_unloaded_after_a_pause() -> None:
    server = make(SWAPPING, x=5.0)
    for now in (0.0, 20.0, 200.0):
        server.submit(Job(10, 2, model="x"), now)
        drain(server, now)
    assert server.loads == 2


def test_a_throttled_server_takes_longer_from_the_current_step_on() -> None:
    server, job = make(), Job(10, 101)
    server.submit(job, 0.0)
    due = server.begin(0.0)
    assert due is not None
    server.advance(due)
    server.begin(due)
    cut = server.set_slowdown(3.0, due + 0.005)
    assert cut is not None
    assert cut == pytest.approx(due + 0.011)
    server.advance(cut)
    assert server.begin(cut) == pytest.approx(cut + 99 * 0.033)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_cancelled_request_leaves_its_slot_and_memory(steps: int) -> None:
    server, job, other = make(replace(SHAPE, slots=1)), Job(150, 5), Job(150, 5)
    due = server.submit(job, 0.0)
    server.submit(other, 0.0)
    for _ in range(steps):
        assert due is not None
        server.advance(due)
        due = server.begin(due)
    server.cancel(job)
    if due is not None:
        server.advance(due)
    assert drain(server, 9.0).keys() == {other}
    assert (server.running, server.memory_used) == (0, 0.0)
