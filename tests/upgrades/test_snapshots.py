"""Snapshots of earlier releases: a start of this one without the database serves from them."""

from contextlib import closing
from pathlib import Path

import pytest

from gateway.base.config import load
from gateway.ipc.live_page import LivePage
from gateway.registry import old_snapshot
from gateway.registry.kinds import ENDPOINTS, MODELS
from gateway.registry.schema import digest_of, ref
from gateway.registry.writer import RegistryWriter
from routerdash.publication.synchronisation import serve_without_database
from tests.upgrades import archives


@pytest.mark.parametrize("archive", archives.archives(), ids=lambda path: path.name.removesuffix(".tar.xz"))
def test_the_snapshot_of_an_earlier_release_becomes_a_store(archive: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    archives.unpack(archive, data_dir)
    if not (data_dir / old_snapshot.FILE).exists():
        pytest.skip("this release had a registry store already")
    snapshot = old_snapshot.load(data_dir / old_snapshot.FILE)
    config = load({"ROUTERDASH_DATA_DIR": str(data_dir)})
    with closing(RegistryWriter(config.registry_dir, LivePage(config.live_page_path))) as writer:
        assert serve_without_database(writer, data_dir)
        assert (
            {facts.id for facts in writer.rows(ENDPOINTS)} == {endpoint.id for endpoint in snapshot.endpoints} != set()
        )
        for endpoint in snapshot.endpoints:
            assert {model.id for model in writer.rows(MODELS, ref(endpoint.id))} == {
                model.id for model in endpoint.models
            }
        hashes = {digest_of(key.hash) for key in snapshot.api_keys}
        assert set(writer.keys_between(b"", b"\xff" * 64)) == hashes != set()
