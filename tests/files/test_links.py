"""Outputs that are links, pipes, devices or sockets."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest

from retrieval.errors import RetrievalError
from retrieval.files import folder_in_one_piece, require_place, write_bytes

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in folders, and links for few users only")


def write_file(path: Path) -> None:
    write_bytes(path, b"new")


def write_folder(path: Path) -> None:
    with folder_in_one_piece(path, overwrite=True) as new:
        (new / "a").write_text("new")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def places(tmp_path) -> tuple[Path, Path]:
    """A folder for links, and one for their targets."""
    for name in ("links", "targets"):
        (tmp_path / name).mkdir()
    return tmp_path / "links", tmp_path / "targets"


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("write", [write_file, write_folder])
def test_the_target_of_a_link_is_written_and_the_link_stays(places, write, exists):
    links, targets = places
    (links / "first").symlink_to("second")
    (links / "second").symlink_to(targets / "out")
    if exists:
        write(targets / "out")
    require_place(links / "first")
    write(links / "first")
    assert (links / "first").readlink() == Path("second")
    assert (links / "second").readlink() == targets / "out"
    written = targets / "out" / "a" if write is write_folder else targets / "out"
    assert written.read_bytes() == b"new"
    assert (names(links), names(targets)) == (["first", "second"], ["out"])


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no second file system")
def test_a_link_to_another_file_system_is_followed_and_the_previous_file_is_kept(tmp_path):
    target = Path("/dev/shm") / f"retrieval-test-{os.getpid()}"
    link, kept = tmp_path / "link", tmp_path / "kept"
    link.symlink_to(target)
    try:
        write_bytes(link, b"1", keep=kept)
        write_bytes(link, b"2", keep=kept)
        assert (target.read_bytes(), kept.read_bytes()) == (b"2", b"1")
        target.unlink()
        write_folder(link)
        assert names(target) == ["a"]
    finally:
        for path in (target / "a", target):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
    assert link.is_symlink()


@pytest.mark.parametrize("write", [write_file, write_folder, require_place])
def test_a_link_that_cannot_be_followed_is_named(places, write):
    links, targets = places
    (links / "circle").symlink_to("circle")
    (links / "lost").symlink_to(targets / "nowhere" / "out")  # a disk that is not mounted, perhaps
    (links / "disk").symlink_to(targets / "nowhere")
    for name in ("circle", "lost"):
        with pytest.raises(
            RetrievalError, match=f"{name}: is a link to nothing that can be made; mend it or choose another"
        ):
            write(links / name)
    for name in ("disk/out", "disk/deep/out"):
        with pytest.raises(RetrievalError, match=rf"{name}: \S+/disk is a link to nothing that can be made"):
            write(links / name)
    assert (names(links), names(targets)) == (["circle", "disk", "lost"], [])


@pytest.mark.parametrize("write", [write_file, write_folder, require_place])
def test_pipes_devices_and_sockets_are_refused_and_stay(tmp_path, write):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        kinds = {
            tmp_path / "pipe": "pipe",
            tmp_path / "link": "pipe",
            Path("/dev/null"): "device",
            tmp_path / "socket": "socket",
        }
        for path, kind in kinds.items():
            with pytest.raises(
                RetrievalError, match=f"{path.name}: is a {kind}, expected a file or a folder; choose another"
            ):
                write(path)
    assert names(tmp_path) == ["link", "pipe", "socket"]
    assert Path("/dev/null").is_char_device()
