"""The file of a worker's running and waiting requests: complete, or not readable at all."""

from pathlib import Path

import pytest

from gateway.ipc import running_requests
from gateway.ipc.running_requests import Present, Running, Waiting

WAITING = Waiting("w", "tiny", "chat_completions", "k", "192.0.2.1", 5.5, 1)
RUNNING = Running("r", "tiny", "embeddings", "e", None, None, 4.5, streamed=True, deltas=7)


def test_the_file_survives_a_round_trip(tmp_path: Path) -> None:
    stored = Present(3, 6.5, (WAITING,), (RUNNING,), 1, 201)
    running_requests.save(tmp_path, stored)
    assert running_requests.load(tmp_path, 3) == stored
    assert [path.name for path in tmp_path.iterdir()] == ["live-3.json"]


def test_the_file_is_accessible_by_its_owner_only(tmp_path: Path) -> None:
    running_requests.save(tmp_path, Present(0, 1.0))
    assert running_requests.path(tmp_path, 0).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"worker": 0}', b"\xff\xfe", b'{"worker": 0, "at": "now"}'])
def test_an_unreadable_file_is_none(tmp_path: Path, content: bytes) -> None:
    running_requests.path(tmp_path, 0).write_bytes(content)
    assert running_requests.load(tmp_path, 0) is None


def test_a_worker_without_a_file_has_none(tmp_path: Path) -> None:
    assert running_requests.load(tmp_path, 0) is None
