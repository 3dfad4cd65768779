from pathlib import Path, PurePosixPath

import pytest

from gateway.base import volumes

# A shortened mount list inside a container: a root file system of layers and the mounts of the engine.
CONTAINER = """\
612 611 0:52 / / rw,relatime - overlay overlay rw,lowerdir=/layers
613 612 0:55 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
614 612 0:56 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
620 612 254:1 /containers/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/vda rw
621 612 0:60 / /tmp rw,nosuid,nodev - tmpfs tmpfs rw
"""
VOLUME = "630 612 254:1 /volumes/routerdash/_data /data rw,relatime master:1 - ext4 /dev/vda rw\n"
MEMORY = "630 612 0:61 / /data rw,relatime - tmpfs tmpfs rw\n"
BLANK = "630 612 254:1 /x /my\\040data rw,relatime - ext4 /dev/vda rw\n"


@pytest.mark.parametrize(
    ("directory", "mounts", "lost"),
    [
        ("/data", CONTAINER, True),
        ("/data/deep/below", CONTAINER, True),
        ("/tmp/data", CONTAINER, True),
        ("/data", CONTAINER + VOLUME, False),
        ("/data/deep/below", CONTAINER + VOLUME, False),
        ("/database", CONTAINER + VOLUME, True),
        ("/data", CONTAINER + MEMORY, True),
        ("/data", CONTAINER + VOLUME + MEMORY, True),  # the later one hides the earlier
        ("/my data", CONTAINER + BLANK, False),
        ("/data", "", True),
    ],
)
def test_data_without_a_volume_is_lost_with_its_container(directory: str, mounts: str, lost: bool) -> None:
    assert volumes.without_volume(PurePosixPath(directory), mounts) is lost


def test_the_mount_list_of_the_kernel_is_read() -> None:
    assert volumes.is_lost_with_container(Path("/proc")) is False
    assert volumes.is_lost_with_container(Path("/dev/shm")) is True


def test_without_a_mount_list_there_is_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "MOUNTS", Path("/no/such/file"))
    assert volumes.is_lost_with_container(Path("/never/checked/before")) is False
