from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retrieval.errors import RetrievalError
from retrieval.files import (
    folder_in_one_piece,
    make_place,
    require_elsewhere,
    require_place,
    write_bytes,
    write_json,
    write_text,
)
from retrieval.recipes.outputs import require_free_folder

SIZE = 300_000


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_space(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def fill(folder: Path, letter: str) -> None:
    for name in ("a", "b"):
        (folder / name).write_text(letter)


def content(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in ("a", "b")]


def test_a_file_is_written_and_replaced(tmp_path):
    write_bytes(tmp_path / "file", b"\0\r\n1")
    assert (tmp_path / "file").read_bytes() == b"\0\r\n1"
    write_bytes(str(tmp_path / "file"), memoryview(b"2"))
    assert (tmp_path / "file").read_bytes() == b"2"
    write_text(tmp_path / "text", "größer\n")
    assert (tmp_path / "text").read_bytes() == "größer\n".encode()
    assert names(tmp_path) == ["file", "text"]


def test_the_content_that_is_replaced_goes_on_under_another_name(tmp_path):
    path, kept = tmp_path / "file", tmp_path / "kept"
    for content in (b"1", b"2", b"3"):
        write_bytes(path, content, keep=kept)
    assert (path.read_bytes(), kept.read_bytes()) == (b"3", b"2")
    kept.unlink()
    kept.hardlink_to(path)  # as it is where the write failed between the two
    write_bytes(path, b"4", keep=kept)
    assert (path.read_bytes(), kept.read_bytes()) == (b"4", b"3")
    assert names(tmp_path) == ["file", "kept"]


@pytest.mark.parametrize("left_over", [True, False])
def test_where_a_file_can_have_one_name_only_its_content_goes_on_too(tmp_path, monkeypatch, left_over):
    path, kept = tmp_path / "file", tmp_path / "kept"
    if left_over:
        (tmp_path / ".kept.link.tmp").write_text("of a process that was killed")
    else:
        monkeypatch.setattr(Path, "hardlink_to", no_space)
    for content in (b"1", b"2"):
        write_bytes(path, content, keep=kept)
    assert (path.read_bytes(), kept.read_bytes()) == (b"2", b"1")
    assert names(tmp_path) == ["file", "kept"]


def test_others_may_read_what_is_written(tmp_path):
    write_bytes(tmp_path / "file", b"1")
    with folder_in_one_piece(tmp_path / "folder"):
        pass
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755


def test_json_that_no_other_program_could_read_is_refused_and_replaces_nothing(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"größe": [1, None, 0.5]})
    assert json.loads(path.read_text()) == {"größe": [1, None, 0.5]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text()) == {"größe": [1, None, 0.5]}
    assert names(tmp_path) == ["value.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_is_full_at_the_last_moment_leaves_the_old_content_and_no_other_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[step], no_space)
    with pytest.raises(
        RetrievalError, match=r"file: cannot be written \(.*No space left.*what was there before is unch"
    ):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_write_that_fails_in_the_middle_leaves_the_old_content_and_no_other_file(tmp_path):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    program = f"""
import resource, sys
from retrieval.errors import RetrievalError
from retrieval.files import folder_in_one_piece, write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
def fill():
    with folder_in_one_piece(sys.argv[1] + "-folder") as folder:
        (folder / "a").write_bytes(bytes({SIZE}))
for attempt in (lambda: write_bytes(sys.argv[1], bytes({SIZE})), fill):
    try:
        attempt()
    except RetrievalError as error:
        print(error)
"""
    command = [sys.executable, "-c", program, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert run.stdout.count("cannot be written (File too large)") == 2
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_file_in_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(RetrievalError, match="cannot be written"):
        write_bytes(tmp_path / "nowhere" / "file", b"1")
    (tmp_path / "file").write_text("")
    with pytest.raises(RetrievalError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "file", b"1")
    assert names(tmp_path) == ["file"]


def test_a_folder_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder"
    with folder_in_one_piece(path) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("1")
        assert not path.exists()
    assert (path / "deep" / "file").read_text() == "1"
    assert names(tmp_path / "new") == ["folder"]


def test_a_folder_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "folder"
    with folder_in_one_piece(path) as folder:
        fill(folder, "1")
        (folder / "more").write_text("1")
    with pytest.raises(RetrievalError, match=r"exists already; .* --overwrite"), folder_in_one_piece(path) as folder:
        raise AssertionError("not reached")
    with folder_in_one_piece(path, overwrite=True) as folder:
        fill(folder, "2")
    assert content(path) == ["2", "2"]
    assert names(path) == ["a", "b"]
    assert names(tmp_path) == ["folder"]


def test_what_a_folder_must_hold_to_be_replaced_is_looked_at_right_before(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()

    def check(folder: Path) -> None:
        if (folder / "photo").exists():
            raise RetrievalError("would be lost")

    def replace():
        with folder_in_one_piece(path, overwrite=True, check=check) as folder:
            fill(folder, "new")
            (path / "photo").write_text("came meanwhile")

    with pytest.raises(RetrievalError, match="would be lost"):
        replace()
    assert (path / "photo").read_text() == "came meanwhile"
    assert names(tmp_path) == ["folder"]


def test_a_place_is_looked_at_without_making_it_and_made_when_it_is_needed(tmp_path):
    out = tmp_path / "new" / "deep" / "file"
    require_place(out)
    assert names(tmp_path) == []
    make_place(out)
    write_bytes(out, b"1")
    for place in (out / "x", out / "x" / "y"):
        with pytest.raises(RetrievalError, match=r"cannot be made \(Not a directory\); choose another place"):
            require_place(place)
        with pytest.raises(RetrievalError, match=r"cannot be made \(Not a directory\); choose another place"):
            make_place(place)


def test_the_folder_where_one_is_is_not_replaced_and_nothing_is_left_in_it(tmp_path, monkeypatch):
    inside = tmp_path / "folder" / "inside"
    inside.mkdir(parents=True)
    for here, path in ((tmp_path / "folder", "."), (inside, "..")):
        monkeypatch.chdir(here)
        with (
            pytest.raises(RetrievalError, match="is where you are and would be replaced; change to another folder"),
            folder_in_one_piece(path, overwrite=True),
        ):
            pytest.fail("the work has begun")
        with pytest.raises(RetrievalError, match="is where you are"):
            require_free_folder(path, overwrite=True, check=lambda folder: None)
    assert list((tmp_path / "folder").iterdir()) == [inside]
    inside.rmdir()  # where one is now is nowhere
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
def test_an_error_in_the_middle_leaves_the_folder_as_it_was(tmp_path, error, seen, exists):
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


def test_an_error_in_the_middle_leaves_no_new_folders_above(tmp_path):
    with pytest.raises(ValueError, match="no image"), folder_in_one_piece(tmp_path / "new" / "deep" / "folder"):
        raise ValueError("no image")
    assert names(tmp_path) == []


@pytest.mark.parametrize("failing", ["fsync", "first rename", "second rename"])
def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch, failing):
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
    monkeypatch.setattr("retrieval.files._exchange", lambda one, other: False)  # as where a system cannot swap folders
    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", no_space)

    def replace():
        with folder_in_one_piece(path, overwrite=True) as folder:
            fill(folder, "new")

    with pytest.raises(RetrievalError, match="No space left on device"):
        replace()
    assert content(path) == ["old", "old"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux swaps two folders in one step")
def test_a_folder_is_replaced_without_a_moment_in_which_there_is_none(tmp_path, monkeypatch):
    def never(self, target):
        raise AssertionError("moved away")

    path = tmp_path / "folder"
    path.mkdir()
    fill(path, "old")
    monkeypatch.setattr(Path, "rename", never)
    with folder_in_one_piece(path, overwrite=True) as folder:
        fill(folder, "new")
    assert content(path) == ["new", "new"]
    assert names(tmp_path) == ["folder"]


def kill_in_the_middle(program: str, path: Path, delay: float) -> None:
    """Runs a program that prints a line and then writes to `path` without end; kills it `delay` seconds later."""
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as stdout:
        assert stdout.readline() == b"ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)


DELAYS = [0.0, 0.003, 0.007, 0.013, 0.029, 0.061]


def test_a_kill_leaves_a_file_old_or_new_but_whole(tmp_path):
    path = tmp_path / "file"
    program = f"""
import itertools, sys
from retrieval.files import write_bytes
write_bytes(sys.argv[1], b"0" * {SIZE})
print("ready", flush=True)
for number in itertools.count(1):
    write_bytes(sys.argv[1], b"%d" % (number % 10) * {SIZE})
"""
    for delay in DELAYS:
        kill_in_the_middle(program, path, delay)
        found = path.read_bytes()
        assert len(found) == SIZE
        assert len(set(found)) == 1


def test_a_kill_leaves_a_folder_old_or_new_but_whole(tmp_path):
    program = f"""
import itertools, sys
from retrieval.files import folder_in_one_piece
for number in itertools.count():
    with folder_in_one_piece(sys.argv[1], overwrite=True) as folder:
        for name in "ab":
            (folder / name).write_text(str(number % 10) * {SIZE})
    if number == 0:
        print("ready", flush=True)
"""
    for round_, delay in enumerate(DELAYS):
        path = tmp_path / str(round_) / "folder"
        kill_in_the_middle(program, path, delay)
        # Between the two renames of a replacement, the old folder stands beside its name.
        whole = [path] if path.exists() else list(path.parent.glob(".folder.*.old"))
        assert len(whole) == 1
        first, second = content(whole[0])
        assert first == second
        assert len(first) == SIZE
