"""Places of subjects in the rows: taken at first use, freed when idle, found by others, limited in number and size."""

import errno
import os

import pytest

from gateway.ipc.counters import counter_file, mapped_file, places
from gateway.ipc.counters.counter_file import BUCKET_SIZE, BUCKETS, MAX_SUBJECTS, SECTION_BYTES, CounterFile
from gateway.ipc.counters.places import NoPlace, OwnPlaces
from gateway.ipc.counters.plan import CONCURRENCY, REQUESTS_PER_MINUTE, Allowance, Charge
from gateway.ipc.live_page import MAX_ROWS, MAX_WORKERS
from tests.gateway.ipc.counters.conftest import most, take, taken

ONE = Allowance(concurrency=1)
TEN_REQUESTS = Allowance(requests=10)
MIB = 1 << 20
NUMBER = 10_000  # of a cell


@pytest.fixture
def small(monkeypatch):
    """Tables of 100 subjects."""
    monkeypatch.setattr(places, "MAX_SUBJECTS", 100)


@pytest.fixture
def own(tmp_path):
    file = CounterFile(tmp_path / "counters", 2)
    file.claim(0)
    return OwnPlaces(file, 0)


def tag_of(number):
    """Tags that are spread evenly over the buckets."""
    return number + BUCKETS * (number + 1)


# Size


def test_ten_thousand_keys_and_their_users_of_32_workers_need_less_than_64_mib(tmp_path):
    """This is what the disk and the shared memory really hold, while each worker counts each of the subjects."""
    file = CounterFile(tmp_path / "counters", MAX_ROWS)
    for row in range(MAX_WORKERS):
        file.claim(row)
    status = (tmp_path / "counters").stat()
    assert status.st_blocks * 512 <= 64 * MIB
    assert file.header_bytes + MAX_WORKERS * SECTION_BYTES <= 62.2 * MIB
    own = OwnPlaces(file, MAX_WORKERS - 1)
    users = [("user", str(number)) for number in range(100)]
    for subject in (*(("key", str(number)) for number in range(10_000)), *users, ("everyone", "")):
        place = own.get(file.tag(*subject), NUMBER)
        file.words[place + counter_file.IN_FLIGHT] = 1
    assert len(own) == 10_101
    assert (tmp_path / "counters").stat().st_blocks == status.st_blocks


def test_a_row_without_a_process_needs_no_room(tmp_path):
    file = CounterFile(tmp_path / "counters", MAX_ROWS)
    assert (tmp_path / "counters").stat().st_blocks * 512 <= file.header_bytes + 4096
    file.claim(0)
    assert (tmp_path / "counters").stat().st_blocks * 512 <= file.header_bytes + SECTION_BYTES + 4096


def test_a_million_subjects_one_after_another_fit(own):
    """A slot is freed when it is idle: of many subjects, only those in use need room."""
    for subject in range(100_000):
        own.get(tag_of(subject), NUMBER)
    assert len(own) < 20


# Idle and full


def test_a_place_is_free_a_minute_after_its_last_request(world, small):
    counters = world.start()
    for subject in range(100):
        taken(counters, TEN_REQUESTS, subject=str(subject)).settle()
    with pytest.raises(NoPlace, match="subjects are in use"):
        take(counters, TEN_REQUESTS, subject="more")
    world.clock.now += 60.0
    with pytest.raises(NoPlace):
        take(counters, TEN_REQUESTS, subject="more")
    world.clock.now += 3.0
    for subject in range(100):
        taken(counters, TEN_REQUESTS, subject=f"more {subject}").settle()


def test_a_subject_with_a_request_in_flight_keeps_its_place(world, small):
    counters, other = world.start(), world.start()
    taken(counters, ONE, subject="long")
    for subject in range(1000):
        taken(counters, ONE, subject=str(subject)).settle()
        world.clock.now += 1.0
    assert take(other, ONE, subject="long") == CONCURRENCY


def test_subjects_that_are_taken_together_keep_their_places(own):
    kept = [tag_of(number) for number in range(3)]
    places = [own.get(tag, NUMBER, kept) for tag in kept]
    for number in range(100, 200):
        own.get(tag_of(number), NUMBER, kept)
    assert [own.get(tag, NUMBER, kept) for tag in kept] == places
    assert [own._file.words[place + counter_file.TAG] for place in places] == kept


def test_a_full_table_does_not_stop_subjects_that_have_a_place(world, small):
    counters = world.start()
    for subject in range(100):
        taken(counters, Allowance(concurrency=2), subject=str(subject))
    with pytest.raises(NoPlace):
        take(counters, ONE, subject="more")
    taken(counters, Allowance(concurrency=2), subject="7")
    assert take(counters, Allowance(concurrency=2), subject="7") == CONCURRENCY


def test_the_other_rows_of_a_full_one_count_on(world, small):
    full, other = world.start(), world.start()
    for subject in range(100):
        taken(full, ONE, subject=str(subject))
    taken(other, ONE, subject="more")
    assert take(other, ONE, subject="7") == CONCURRENCY


def test_a_full_bucket_is_an_error(own):
    for subject in range(BUCKET_SIZE):
        own._file.words[own.get(7 + BUCKETS * (subject + 1), NUMBER) + counter_file.IN_FLIGHT] = 1
    with pytest.raises(NoPlace, match="72 subjects of one bucket are in use"):
        own.get(7 + BUCKETS * 1000, NUMBER)
    own.get(8 + BUCKETS * 1000, NUMBER)


def test_a_subject_without_a_new_place_never_counts_in_its_old_one(world, small):
    counters, other = world.start(), world.start()
    plan = counters.plan((counters.subject("key", "a"), ONE))
    plan.take().settle()
    for subject in range(100):
        taken(counters, ONE, subject=str(subject))
    for _ in range(2):
        with pytest.raises(NoPlace):
            plan.take()
    assert all(isinstance(take(other, Allowance(concurrency=2), subject=str(one)), Charge) for one in range(100))


def test_a_process_notices_that_a_subjects_place_was_given_up(world, small):
    """It keeps an object of the subject, whose old place belongs to another one now."""
    counters, other = world.start(), world.start()
    plan = counters.plan((counters.subject("key", "old"), ONE))
    plan.take().settle()
    for number in range(99):
        taken(counters, ONE, subject=str(number))
    assert isinstance(plan.take(), Charge)
    assert take(other, ONE, subject="old") == CONCURRENCY
    assert all(take(other, ONE, subject=str(number)) == CONCURRENCY for number in range(99))


# Other rows


def test_subjects_are_found_in_other_rows(own):
    file = own._file
    places = {}
    for subject in range(5000):
        tag = file.tag("key", str(subject))
        places[tag] = own.get(tag, NUMBER)
        file.words[places[tag] + counter_file.IN_FLIGHT] = 1
    assert len(set(places.values())) == 5000
    assert {tag: file.find(0, tag) for tag in places} == places
    assert [file.find(0, file.tag("key", "5000")), file.find(1, file.tag("key", "7"))] == [None, None]


def test_a_process_killed_while_it_gave_a_place_leaves_a_table_that_works(own):
    """At each of its stores: the successor gives every subject one place, and no place to two subjects."""
    file = own._file

    class Killed(Exception):
        pass

    class Stores:
        """A view that ends the process at a certain store."""

        left = 0

        def __init__(self, view):
            self.view = view

        def __getitem__(self, index):
            return self.view[index]

        def __setitem__(self, index, value):
            if Stores.left == 0:
                raise Killed
            Stores.left -= 1
            self.view[index] = value

    words, shorts = file.words, file.shorts
    survived = 0
    for stores in range(40):
        before = OwnPlaces(file, 0)
        file.words, file.shorts = Stores(words), Stores(shorts)
        before._words = file.words
        Stores.left = stores
        try:
            before.get(tag_of(1000 + stores), NUMBER)
            survived += 1
        except Killed:
            pass
        file.words, file.shorts = words, shorts
        after = OwnPlaces(file, 0)
        places = []
        for subject in range(30):
            places.append(after.get(tag_of(subject), NUMBER))
            words[places[-1] + counter_file.IN_FLIGHT] = 1
        assert len(set(places)) == 30
        assert [file.find(0, tag_of(subject)) for subject in range(30)] == places
        assert len(after) + len(after._free) == file.used(0)
        for place in places:
            words[place + counter_file.IN_FLIGHT] = 0
    assert 0 < survived < 40


# The file


def test_only_the_owner_may_read_the_file(world, tmp_path):
    assert (tmp_path / "live-counters").stat().st_mode & 0o077 == 0


def test_a_full_disk_is_an_error_at_the_start(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="No space left"):
        CounterFile(tmp_path / "counters", 2)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_when_a_row_is_claimed(world, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(OSError, match="No space left"):
            world.page.claim_row()
    counters = world.start()
    assert (world.rows[0].number, most(counters, ONE)) == (0, 1)


@pytest.mark.parametrize("damage", [b"", b"\0" * 4096, b"other layout" * 400])
def test_another_file_is_replaced(world, tmp_path, damage):
    taken(world.start(), ONE)
    (tmp_path / "live-counters").unlink()
    (tmp_path / "live-counters").write_bytes(damage)
    again = world.open()
    assert (again.counters.words[counter_file.CHANGES], again.counters.counting(NUMBER)) == (0, [])


def test_a_file_of_another_layout_is_left_to_the_processes_that_have_it(world, tmp_path, monkeypatch):
    """It is replaced, never truncated: a store into it would kill them."""
    counters = world.start()
    monkeypatch.setattr(counter_file, "_FORMAT", counter_file._FORMAT + 1)
    world.open()
    assert most(counters, TEN_REQUESTS) == 10
    assert take(counters, TEN_REQUESTS) == REQUESTS_PER_MINUTE


def test_a_row_of_a_replaced_file_cannot_be_claimed(world, tmp_path):
    """Its room would be allocated in the new file."""
    (tmp_path / "live-counters").unlink()
    world.open()
    with pytest.raises(OSError, match="was replaced by a process of another release"):
        world.start()


def test_counts_of_an_earlier_boot_are_dropped(world, monkeypatch):
    """The monotonic clock has begun anew, so the numbers of cells mean other times."""
    counters = world.start()
    assert most(counters, TEN_REQUESTS) == 10
    monkeypatch.setattr(mapped_file, "boot_number", lambda: 1)
    world.page = world.open()
    again = world.start()
    assert most(again, TEN_REQUESTS) == 10


def test_tags_have_63_bits_and_a_secret(tmp_path):
    files = [CounterFile(tmp_path / name, 1) for name in ("a", "b")]
    tags = {file.tag(level, "x") for file in files for level in ("key", "user")}
    assert len(tags) == 4
    assert all(0 < tag < 1 << 63 for tag in tags)
    assert files[0].tag("key", "x") == CounterFile(tmp_path / "a", 1).tag("key", "x")


def test_a_table_has_room_for_all_subjects():
    assert BUCKETS * BUCKET_SIZE > 1.8 * MAX_SUBJECTS


def test_each_plan_of_a_subject_notices_that_the_subject_has_another_place(world):
    """The second plan counted at the former place, so that more requests were in flight than allowed."""
    counters = world.start()
    subject = counters.subject("key", "a")
    first, second = (counters.plan((subject, ONE)) for _ in range(2))
    for plan in (first, second):
        taken_once = plan.take()
        assert isinstance(taken_once, Charge)
        taken_once.settle()
    place = subject.place
    taken(counters, ONE, subject="b").settle()  # it looks for idle places, and "a" loses its own
    taken(counters, ONE, subject="c")  # it gets the place of "a", or another one
    charge = first.take()
    assert isinstance(charge, Charge)
    assert subject.place != place
    assert not isinstance(second.take(), Charge)
    charge.settle()
    assert isinstance(second.take(), Charge)
    assert not isinstance(first.take(), Charge)
