"""Promises of `retrieval.files.reading`."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from retrieval.files import open_regular, own_output, read_regular
from retrieval.files.outputs import REPORT_MARK


def test_a_regular_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\r\n\0")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(str(tmp_path / "file")) == read_regular(tmp_path / "link") == b"\r\n\0"
    with open_regular(tmp_path / "file") as file:
        assert file.read(1) == b"\r"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_a_device_a_socket_and_a_folder_are_refused_at_once(tmp_path: Path, monkeypatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path / "socket", tmp_path):
            with pytest.raises(OSError, match=r"\[Errno \d+\]") as caught:
                read_regular(path)
            assert caught.value.strerror
    with pytest.raises(OSError, match="Not a regular file"):
        read_regular(tmp_path / "pipe")


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
