import msgspec
import pytest

from gateway import snapshot
from gateway.snapshot import ApiKey, Model, Unreadable
from tests.gateway.samples import make_endpoint, make_snapshot

FULL = make_snapshot(
    make_endpoint("a", Model("m", "org/M", ("m:latest",), ("chat",), 4096), sealed_key="gAAA", timeout_secs=1.5),
    make_endpoint("b", status=snapshot.OFFLINE, operator_state=snapshot.DRAINING),
    version=7,
    api_keys=(ApiKey("1", "00" * 32, ("openai.inference",), 12.5),),
)


def test_a_snapshot_survives_its_file(tmp_path):
    snapshot.save(tmp_path / "snapshot", FULL)
    assert snapshot.load(tmp_path / "snapshot") == FULL


def test_the_file_is_for_its_owner_alone(tmp_path):
    snapshot.save(tmp_path / "snapshot", FULL)
    assert (tmp_path / "snapshot").stat().st_mode & 0o777 == 0o600


def test_a_later_one_replaces_it(tmp_path):
    for version in (1, 2):
        snapshot.save(tmp_path / "snapshot", make_snapshot(version=version))
    assert snapshot.load(tmp_path / "snapshot").version == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(Unreadable, match="snapshot never"):
        snapshot.load(tmp_path / "never")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x93\x01\x02\x03", msgspec.msgpack.encode({"version": 1})])
def test_nonsense_is_unreadable(tmp_path, content):
    (tmp_path / "snapshot").write_bytes(content)
    with pytest.raises(Unreadable):
        snapshot.load(tmp_path / "snapshot")


def test_every_beginning_of_a_file_is_unreadable(tmp_path):
    path = tmp_path / "snapshot"
    snapshot.save(path, FULL)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Unreadable):
            snapshot.load(path)


def test_another_format_is_unreadable(tmp_path):
    snapshot.save(tmp_path / "snapshot", make_snapshot(format=snapshot.FORMAT + 1))
    with pytest.raises(Unreadable, match="has format 2, not 1"):
        snapshot.load(tmp_path / "snapshot")


def test_fields_that_a_newer_release_adds_are_passed_over(tmp_path):
    newer = msgspec.to_builtins(FULL) | {"of tomorrow": True}
    (tmp_path / "snapshot").write_bytes(msgspec.msgpack.encode(newer))
    assert snapshot.load(tmp_path / "snapshot") == FULL
