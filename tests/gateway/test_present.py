"""What a worker has now, in a file: as it went, or not at all."""

from pathlib import Path

import pytest

from gateway import present
from gateway.present import Present, Running, Waiting

WAITING = Waiting("w", "tiny", "chat_completions", "k", "192.0.2.1", 5.5, 1)
RUNNING = Running("r", "tiny", "embeddings", "e", None, None, 4.5, streamed=True, deltas=7)


def test_it_comes_back_as_it_went(tmp_path: Path) -> None:
    told = Present(3, 6.5, (WAITING,), (RUNNING,), 1, 201)
    present.save(tmp_path, told)
    assert present.load(tmp_path, 3) == told
    assert [path.name for path in tmp_path.iterdir()] == ["live-3.json"]


def test_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    present.save(tmp_path, Present(0, 1.0))
    assert present.path(tmp_path, 0).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"worker": 0}', b"\xff\xfe", b'{"worker": 0, "at": "now"}'])
def test_what_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    present.path(tmp_path, 0).write_bytes(content)
    assert present.load(tmp_path, 0) is None


def test_a_worker_that_told_nothing_has_none(tmp_path: Path) -> None:
    assert present.load(tmp_path, 0) is None
