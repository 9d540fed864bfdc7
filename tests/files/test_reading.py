"""Only regular files are read."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval.files import open_file, own_output, read_file, read_text
from retrieval.files.outputs import REPORT_MARK

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # the path of a socket has at most 108 bytes
        server.bind(path.name)


KINDS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": make_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "Is a directory": Path.mkdir,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", KINDS)
def test_anything_but_a_regular_file_is_refused_at_once(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    KINDS[kind](tmp_path / "file")
    for read in (open_file, read_file, read_text):
        with pytest.raises(OSError, match="file") as caught:
            read(tmp_path / "file")
        assert kind in str(caught.value.strerror)


def test_a_file_that_becomes_a_pipe_meanwhile_is_refused_at_once(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"x")
    before = file.stat()
    file.unlink()
    os.mkfifo(file)
    monkeypatch.setattr(Path, "stat", lambda _: before)
    with pytest.raises(OSError, match="it is a pipe"):
        open_file(file)


def test_a_regular_file_and_a_link_to_one_are_read_whole(tmp_path):
    (tmp_path / "file").write_bytes("\ufeffä\r\n".encode())
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link") == "\ufeffä\r\n".encode()
    assert read_text(tmp_path / "link", largest=7) == "ä\r\n"


def test_a_file_above_the_largest_size_is_refused_without_reading_it(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(2**40)  # a hole: takes no space, and does not fit into memory
    with pytest.raises(OSError, match="it is larger than 1,000 bytes"):
        read_file(tmp_path / "file", largest=1000)


def test_a_missing_file_keeps_the_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "none")


@pytest.mark.parametrize("name", ["a\0b", "a\ud800"])
def test_a_name_that_no_file_can_have_is_an_error_of_the_system_too(name):
    with pytest.raises(OSError, match="no file can have this name"):
        open_file(name)


def test_outputs_of_this_program_are_known_by_their_marks(tmp_path: Path) -> None:
    for path, content, expected in (
        ("run/config.yaml", "", None),
        ("run/environment.json", "{}", "a run"),
        ("index/manifest.json", '{\n  "format": "retrieval index",', "an index or a model"),
        ("other/manifest.json", '{"format": "IIIF"}', None),
        ("x-pictures/0.png", "", None),
        ("x.html", "<html>", None),
        ("x.html", f"<html><head>{REPORT_MARK}", "pictures of a report"),
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(content)
        folder = (tmp_path / path).parent if "/" in path else tmp_path / "x-pictures"
        assert own_output(folder) == expected, path
