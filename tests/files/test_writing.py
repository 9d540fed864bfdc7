from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from filelock import lock_descriptor

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
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_new_file_has_the_permissions_of_the_umask_and_a_replaced_one_keeps_its_own(tmp_path, umask, mode):
    path = tmp_path / "file"
    before = os.umask(umask)
    try:
        write_bytes(path, b"1")
        assert path.stat().st_mode & 0o777 == mode
        path.chmod(0o640)
        write_bytes(path, b"2")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_files_that_a_killed_process_left_behind_are_removed_and_those_in_use_are_not(tmp_path):
    left = [".file.0123abcd.tmp", ".file.x_yz0123.tmp"]  # the second as an earlier version named it
    others = [".file.mine.tmp", ".file.0123ABCD.tmp", ".other.0123abcd.tmp", "file.0123abcd.tmp", ".file.0123abcd"]
    for name in (*left, *others):
        (tmp_path / name).write_text("")
    with (tmp_path / ".file.01234567.tmp").open("w") as used:
        lock_descriptor(used.fileno(), blocking=False)
        write_bytes(tmp_path / "file", b"1")
        assert names(tmp_path) == sorted(["file", ".file.01234567.tmp", *others])


def test_a_file_that_is_being_written_is_no_leftover_for_another_process(tmp_path, monkeypatch):
    fsync = os.fsync

    def write_again(handle: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        write_bytes(tmp_path / "file", b"second")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", write_again)
    write_bytes(tmp_path / "file", b"first")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert names(tmp_path) == ["file"]


def test_a_file_that_was_taken_for_a_leftover_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    made: list[Path] = []

    def lock_late(handle: int, *, blocking: bool) -> bool:
        if not made:
            made.extend(tmp_path.iterdir())
            made[0].unlink()
        return lock_descriptor(handle, blocking=blocking)

    monkeypatch.setattr("retrieval.files.writing.lock_descriptor", lock_late)
    write_bytes(tmp_path / "file", b"1")
    assert len(made) == 1
    assert (tmp_path / "file").read_bytes() == b"1"
    assert names(tmp_path) == ["file"]


def test_without_locks_a_file_is_written_and_nothing_is_taken_for_a_leftover(tmp_path, monkeypatch):
    def refuse(handle: int, *, blocking: bool) -> bool:
        raise OSError(errno.ENOSYS, "Function not implemented")

    (tmp_path / ".file.0123abcd.tmp").write_text("")
    monkeypatch.setattr("retrieval.files.writing.lock_descriptor", refuse)
    write_bytes(tmp_path / "file", b"1")
    assert names(tmp_path) == [".file.0123abcd.tmp", "file"]


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
