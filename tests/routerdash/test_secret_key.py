"""Django's secret key: made once, kept over restarts, and never needed by a mere management command."""

import stat
from pathlib import Path

from routerdash import secret_key


def test_a_key_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret-key"
    secret_key.make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text()) >= 50


def test_a_key_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "secret-key"
    secret_key.make(path)
    before = secret_key.read(path)
    secret_key.make(path)
    assert secret_key.read(path) == before


def test_two_installations_have_two_keys(tmp_path: Path) -> None:
    for name in ("one", "other"):
        secret_key.make(tmp_path / name)
    assert secret_key.read(tmp_path / "one") != secret_key.read(tmp_path / "other")


def test_without_a_file_there_is_one_for_this_process(tmp_path: Path) -> None:
    path = tmp_path / "secret-key"
    assert secret_key.read(path) != secret_key.read(path)
    assert not path.exists()


def test_blank_space_around_it_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret-key").write_text("abc\n")
    assert secret_key.read(tmp_path / "secret-key") == "abc"
