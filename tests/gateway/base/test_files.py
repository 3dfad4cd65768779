import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.base import files


def test_replace_creates_and_replaces(tmp_path):
    files.replace(tmp_path / "file", b"old")
    files.replace(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_files_are_accessible_by_their_owner_only(tmp_path):
    files.replace(tmp_path / "one", b"")
    files.create_once(tmp_path / "other", b"")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_create_once_keeps_an_existing_file(tmp_path):
    assert files.create_once(tmp_path / "file", b"first") == b"first"
    assert files.create_once(tmp_path / "file", b"second") == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_concurrent_creators_get_the_same_file(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        contents = set(pool.map(lambda n: files.create_once(tmp_path / "file", b"%d" % n), range(50)))
    assert contents == {(tmp_path / "file").read_bytes()}
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.replace(tmp_path / "never" / "file", b"")
