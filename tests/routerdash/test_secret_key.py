"""Django's secret key: created once, kept over restarts, and not needed by other management commands."""

import stat
from pathlib import Path

from routerdash import secret_key


def test_a_key_is_created_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secret-key"
    secret_key.make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text()) >= 50


def test_an_existing_key_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "secret-key"
    secret_key.make(path)
    before = secret_key.read(path)
    secret_key.make(path)
    assert secret_key.read(path) == before


def test_two_installations_have_two_keys(tmp_path: Path) -> None:
    for name in ("one", "other"):
        secret_key.make(tmp_path / name)
    assert secret_key.read(tmp_path / "one") != secret_key.read(tmp_path / "other")


def test_without_a_file_the_process_has_a_temporary_key(tmp_path: Path) -> None:
    path = tmp_path / "secret-key"
    assert secret_key.read(path) != secret_key.read(path)
    assert not path.exists()


def test_whitespace_around_the_key_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "secret-key").write_text("abc\n")
    assert secret_key.read(tmp_path / "secret-key") == "abc"


def test_a_replaced_key_is_noticed_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "secret-key"
    secret_key.make(path)
    watch = secret_key.Watch(path)
    assert not watch.is_replaced()
    secret_key.rotate(path)
    assert watch.is_replaced()
    assert watch.changed() == path.read_text()
    assert not watch.is_replaced()
    path.unlink()
    assert not watch.is_replaced()
