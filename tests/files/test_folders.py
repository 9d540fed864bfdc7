from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from retrieval.errors import RetrievalError
from retrieval.files import (
    folder_in_one_piece,
    make_place,
    require_elsewhere,
    require_free_folder,
    require_only,
    require_place,
    write_bytes,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_space(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def fill(folder: Path, letter: str) -> None:
    for name in ("a", "b"):
        (folder / name).write_text(letter)


def content(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in ("a", "b")]


def test_a_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "folder"
    with folder_in_one_piece(path) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("1")
        assert not path.exists()
    assert (path / "deep" / "file").read_text() == "1"
    assert names(tmp_path / "new") == ["folder"]


def test_a_folder_of_many_files_is_written_with_and_without_the_function_that_flushes_all(tmp_path, monkeypatch):
    for name in ("with", "without"):
        with folder_in_one_piece(tmp_path / name) as folder:
            for number in range(101):
                (folder / str(number)).write_text("1")
        assert len(names(tmp_path / name)) == 101
        monkeypatch.delattr(os, "sync", raising=False)


def test_a_folder_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "folder"
    with folder_in_one_piece(path) as folder:
        fill(folder, "1")
        (folder / "more").write_text("1")
    with pytest.raises(RetrievalError, match=r"exists already; .* overwrite=True"), folder_in_one_piece(path) as folder:
        raise AssertionError("not reached")
    with folder_in_one_piece(path, overwrite=True) as folder:
        fill(folder, "2")
    assert content(path) == ["2", "2"]
    assert names(path) == ["a", "b"]
    assert names(tmp_path) == ["folder"]


def test_the_existing_folder_is_checked_right_before_it_is_replaced(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()

    def replace():
        with folder_in_one_piece(
            path, overwrite=True, check=lambda folder: require_only(folder, ["a", "b"], "a test")
        ) as folder:
            fill(folder, "new")
            (path / "photo").write_text("written in the meantime")

    with pytest.raises(RetrievalError, match="holds 'photo', which is no part of a test and would be lost; move it"):
        replace()
    assert (path / "photo").read_text() == "written in the meantime"
    assert names(tmp_path) == ["folder"]


def test_a_path_is_checked_without_creating_it_and_created_on_request(tmp_path):
    out = tmp_path / "new" / "deep" / "file"
    require_place(out)
    assert names(tmp_path) == []
    make_place(out)
    write_bytes(out, b"1")
    for path in (out / "x", out / "x" / "y"):
        with pytest.raises(RetrievalError, match=r"cannot be created \(Not a directory\); choose another path"):
            require_place(path)
        with pytest.raises(RetrievalError, match=r"cannot be created \(Not a directory\); choose another path"):
            make_place(path)


def test_a_path_that_is_not_accessible_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RetrievalError, match=r"out: cannot be created \(Permission denied\)"):
        require_place(tmp_path / "out")

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)  # a parent folder that may not be read
    with pytest.raises(RetrievalError, match=r"out: cannot be created \(Permission denied\)"):
        require_place(tmp_path / "out")
    monkeypatch.setattr(Path, "exists", lambda path: False)  # a drive of Windows that does not exist
    with pytest.raises(RetrievalError, match=r"out: cannot be created \(No such file or directory\)"):
        require_place(tmp_path / "out")


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    inside = tmp_path / "folder" / "inside"
    inside.mkdir(parents=True)
    for current, path in ((tmp_path / "folder", "."), (inside, "..")):
        monkeypatch.chdir(current)
        with (
            pytest.raises(RetrievalError, match="is the current folder or contains it; change to another folder first"),
            folder_in_one_piece(path, overwrite=True),
        ):
            pytest.fail("the work has begun")
        with pytest.raises(RetrievalError, match="is the current folder or contains it"):
            require_free_folder(path, overwrite=True, check=lambda folder: None)
    assert list((tmp_path / "folder").iterdir()) == [inside]
    if os.name != "nt":
        inside.rmdir()  # the current folder does not exist any more
        require_elsewhere(tmp_path)


def test_a_file_is_never_replaced_by_a_folder(tmp_path):
    (tmp_path / "file").write_text("years of work")
    with pytest.raises(RetrievalError, match="is a file"), folder_in_one_piece(tmp_path / "file", overwrite=True):
        raise AssertionError("not reached")
    with pytest.raises(RetrievalError, match="cannot be created"), folder_in_one_piece(tmp_path / "file" / "folder"):
        raise AssertionError("not reached")
    assert (tmp_path / "file").read_text() == "years of work"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("error", "seen"),
    [(ValueError, ValueError), (KeyboardInterrupt, KeyboardInterrupt), (FileNotFoundError, RetrievalError)],
)
@pytest.mark.parametrize("exists", [True, False])
def test_an_error_in_the_block_leaves_the_folder_as_it_was(tmp_path, error, seen, exists):
    path = tmp_path / "folder"
    if exists:
        path.mkdir()
        fill(path, "old")

    def fail():
        with folder_in_one_piece(path, overwrite=True) as folder:
            (folder / "a").write_text("new")
            raise error

    with pytest.raises(seen):
        fail()
    assert names(tmp_path) == ["folder"] * exists
    assert not exists or content(path) == ["old", "old"]


def test_an_error_in_the_block_leaves_no_new_parent_folders(tmp_path):
    with pytest.raises(ValueError, match="no image"), folder_in_one_piece(tmp_path / "new" / "deep" / "folder"):
        raise ValueError("no image")
    assert names(tmp_path) == []


@pytest.mark.parametrize("failing", ["fsync", "first rename", "second rename"])
def test_a_folder_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch, failing):
    path = tmp_path / "folder"
    path.mkdir()
    fill(path, "old")
    rename, renamed = Path.rename, []

    def rename_or_fail(self, target):
        renamed.append(target)
        if len(renamed) == {"first rename": 1, "second rename": 2}.get(failing):
            no_space()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_or_fail)
    monkeypatch.setattr("retrieval.files.folders._exchange", lambda one, other: False)
    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", no_space)

    def replace():
        with folder_in_one_piece(path, overwrite=True) as folder:
            fill(folder, "new")

    with pytest.raises(RetrievalError, match="No space left on device"):
        replace()
    assert content(path) == ["old", "old"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_with_and_without_an_exchange_in_one_step(tmp_path, monkeypatch, exchange):
    def never(self, target):
        raise AssertionError("there is a moment without a folder")

    if exchange and sys.platform != "linux":
        pytest.skip("only Linux exchanges two folders in one step")
    path = tmp_path / "folder"
    path.mkdir()
    fill(path, "old")
    if exchange:
        monkeypatch.setattr(Path, "rename", never)
    else:
        monkeypatch.setattr("retrieval.files.folders._exchange", lambda one, other: False)
    with folder_in_one_piece(path, overwrite=True) as folder:
        fill(folder, "new")
    assert content(path) == ["new", "new"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o002, 0o775), (0o077, 0o700)])
def test_a_new_folder_has_the_permissions_of_the_umask_and_a_replaced_one_keeps_its_own(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with folder_in_one_piece(tmp_path / "folder") as new:
            (new / "deep").mkdir()
        for path in (tmp_path / "folder", tmp_path / "folder" / "deep"):
            assert path.stat().st_mode & 0o777 == mode
        (tmp_path / "folder").chmod(0o750)
        with folder_in_one_piece(tmp_path / "folder", overwrite=True):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750
