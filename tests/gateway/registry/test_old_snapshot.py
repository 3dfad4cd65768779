"""The snapshot of earlier releases, which is read at the first start of this one without a database."""

import msgspec
import pytest

from gateway.registry import old_snapshot, schema
from gateway.registry.old_snapshot import Snapshot, Unreadable
from gateway.registry.schema import Model, PublishedKey
from tests.gateway.samples import make_endpoint

FULL = Snapshot(
    version=7,
    database_id="database-1",
    endpoints=(
        make_endpoint("a", Model("m", "org/M", ("m:latest",), ("chat",), 4096), sealed_key="gAAA", timeout_secs=1.5),
        make_endpoint("b", status=schema.OFFLINE, operator_state=schema.DRAINING),
    ),
    api_keys=(PublishedKey("1", "00" * 32, ("openai.inference",), 12.5),),
)
# As a release before the registry store wrote it.
OF_EARLIER_RELEASE = {
    "version": 7,
    "database_id": "database-1",
    "format": 1,
    "endpoints": [
        {
            "id": "a", "slot": 0, "name": "a", "base_url": "http://127.0.0.1:1", "kind": "vllm", "status": "online",
            "models": [["m", "org/M", ["m:latest"], ["chat"], 4096]],
        }
    ],
    "api_keys": [["1", "00" * 32, ["openai.inference"], 12.5]],
}  # fmt: skip


def test_a_snapshot_of_an_earlier_release_is_read(tmp_path):
    (tmp_path / "snapshot").write_bytes(msgspec.msgpack.encode(OF_EARLIER_RELEASE))
    loaded = old_snapshot.load(tmp_path / "snapshot")
    assert loaded.endpoints[0].models == (Model("m", "org/M", ("m:latest",), ("chat",), 4096),)
    assert loaded.api_keys == FULL.api_keys


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(Unreadable, match="snapshot never"):
        old_snapshot.load(tmp_path / "never")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x93\x01\x02\x03", msgspec.msgpack.encode({"version": 1})])
def test_random_bytes_are_unreadable(tmp_path, content):
    (tmp_path / "snapshot").write_bytes(content)
    with pytest.raises(Unreadable):
        old_snapshot.load(tmp_path / "snapshot")


def test_every_truncated_file_is_unreadable(tmp_path):
    path = tmp_path / "snapshot"
    whole = msgspec.msgpack.encode(FULL)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Unreadable):
            old_snapshot.load(path)


def test_another_format_is_unreadable(tmp_path):
    other = msgspec.structs.replace(FULL, format=2)
    (tmp_path / "snapshot").write_bytes(msgspec.msgpack.encode(other))
    with pytest.raises(Unreadable, match="has format 2, not 1"):
        old_snapshot.load(tmp_path / "snapshot")
