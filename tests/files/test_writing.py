from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from retrieval.errors import RetrievalError
from retrieval.files import write_bytes, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_space(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_written_and_replaced(tmp_path):
    write_bytes(tmp_path / "file", b"\0\r\n1")
    assert (tmp_path / "file").read_bytes() == b"\0\r\n1"
    write_bytes(str(tmp_path / "file"), memoryview(b"2"))
    assert (tmp_path / "file").read_bytes() == b"2"
    write_text(tmp_path / "text", "größer\n")
    assert (tmp_path / "text").read_bytes() == "größer\n".encode()
    assert names(tmp_path) == ["file", "text"]


def test_the_previous_content_is_kept_under_a_second_name(tmp_path):
    path, kept = tmp_path / "file", tmp_path / "kept"
    write_bytes(path, b"1", keep=kept)
    assert not kept.exists()
    for content in (b"2", b"3"):
        write_bytes(path, content, keep=kept)
    assert (path.read_bytes(), kept.read_bytes()) == (b"3", b"2")
    kept.unlink()
    kept.hardlink_to(path)  # the state after a write that failed between the two renames
    write_bytes(path, b"4", keep=kept)
    assert (path.read_bytes(), kept.read_bytes()) == (b"4", b"3")
    assert names(tmp_path) == ["file", "kept"]


@pytest.mark.parametrize("error", [OSError(errno.EPERM, "Operation not permitted"), NotImplementedError("no os.link")])
def test_the_previous_content_is_kept_without_hard_links_too(tmp_path, monkeypatch, error):
    def refuse(*arguments):
        raise error

    path, kept = tmp_path / "file", tmp_path / "kept"
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    for content in (b"1", b"2"):
        write_bytes(path, content, keep=kept)
    assert (path.read_bytes(), kept.read_bytes()) == (b"2", b"1")
    assert names(tmp_path) == ["file", "kept"]


def test_a_link_that_a_killed_process_left_behind_does_no_harm(tmp_path):
    path, kept = tmp_path / "file", tmp_path / "kept"
    (tmp_path / ".kept.link.tmp").write_text("left behind")
    for content in (b"1", b"2"):
        write_bytes(path, content, keep=kept)
    assert (path.read_bytes(), kept.read_bytes()) == (b"2", b"1")
    assert names(tmp_path) == ["file", "kept"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
def test_other_users_may_read_a_file(tmp_path):
    write_bytes(tmp_path / "file", b"1")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_json_that_other_programs_cannot_read_is_refused_and_replaces_nothing(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"größe": [1, None, 0.5]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"größe": [1, None, 0.5]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"größe": [1, None, 0.5]}
    assert names(tmp_path) == ["value.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_is_full_at_the_last_step_leaves_the_previous_content_and_no_other_file(
    tmp_path, monkeypatch, step
):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[step], no_space)
    with pytest.raises(
        RetrievalError, match=r"file: cannot be written \(.*No space left.*any previous content is unchanged"
    ):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_file_in_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(RetrievalError, match="cannot be written"):
        write_bytes(tmp_path / "nowhere" / "file", b"1")
    (tmp_path / "file").write_text("")
    with pytest.raises(RetrievalError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "file", b"1")
    assert names(tmp_path) == ["file"]
