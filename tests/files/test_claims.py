"""One writer for each output, and nothing left behind by a killed one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from retrieval.errors import RetrievalError
from retrieval.files import claim_file, claim_folder, claimed, folder_in_one_piece, is_claimed, write_bytes

HOLD = """
import sys, time
from pathlib import Path
from retrieval.files import claimed
from retrieval.files import folder_in_one_piece
with folder_in_one_piece(sys.argv[1], overwrite=True) as new:
    (new / "a").write_text("unfinished")
    print("writing", flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, content: str = "new") -> None:
    with folder_in_one_piece(path, overwrite=True) as new:
        (new / "a").write_text(content)


@pytest.fixture
def writer(tmp_path):
    """Another process that writes the folder "out"."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split() == [b"writing"]
        yield process
        process.kill()


def test_a_second_writer_is_refused_at_once_by_every_name_of_the_output(tmp_path, writer):
    (tmp_path / "link").symlink_to("out")
    for path in (tmp_path / "out", tmp_path / "link"):
        with pytest.raises(
            RetrievalError,
            match=rf"{path.name}: another call \(process {writer.pid}\) is writing to it; wait until it ends",
        ):
            write(path)
    write(tmp_path / "other")


def test_what_a_killed_writer_leaves_behind_is_taken_away_by_the_next_one(tmp_path, writer):
    writer.kill()
    writer.wait(timeout=60)
    assert names(tmp_path) == [".out.unfinished"]
    assert [name[:4] for name in names(tmp_path / ".out.unfinished")] == [".loc", "new-"]
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "a").read_text() == "new"


def test_a_folder_that_a_killed_writer_was_about_to_replace_gets_its_name_back(tmp_path):
    unfinished = tmp_path / ".out.unfinished"
    (unfinished / "old-1").mkdir(parents=True)
    (unfinished / "old-1" / "a").write_text("years of work")
    (unfinished / "new-1").mkdir()
    with pytest.raises(RetrievalError, match="out: exists already"), folder_in_one_piece(tmp_path / "out"):
        pytest.fail("not reached")
    assert (tmp_path / "out" / "a").read_text() == "years of work"
    assert names(tmp_path) == ["out"]


def test_without_locks_nothing_of_another_process_is_taken_away(tmp_path, monkeypatch, caplog):
    def refuse(handle: int, *, blocking: bool) -> bool:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("retrieval.files.lock.lock_descriptor", refuse)
    with folder_in_one_piece(tmp_path / "out", overwrite=True) as new:
        (new / "a").write_text("first")
        monkeypatch.setattr("retrieval.files.claims._own", threading.local())  # as another process
        write(tmp_path / "out", "second")
        assert (tmp_path / "out" / "a").read_text() == "second"
    assert (tmp_path / "out" / "a").read_text() == "first"
    assert names(tmp_path) == ["out"]
    assert "out: cannot be locked (Function not implemented); let no other call write to it" in caplog.text


def test_another_thread_is_refused_and_the_same_one_may_claim_an_output_again(tmp_path):
    found: list[str] = []

    def claim() -> None:
        try:
            with claimed(tmp_path / "out"):
                found.append("claimed")
        except RetrievalError as error:
            found.append(str(error))

    with claimed(tmp_path / "out") as folder:
        thread = threading.Thread(target=claim)
        thread.start()
        thread.join()
        with claimed(tmp_path / "out") as again:
            assert again == folder
        write(tmp_path / "out")
        assert names(tmp_path) == [".out.unfinished", "out"]
    assert [f"(process {os.getpid()}) is writing to it" in message for message in found] == [True]
    claim()
    assert found[1:] == ["claimed"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("claim", [claim_file, claim_folder])
def test_an_output_is_checked_and_claimed_before_the_work(tmp_path, claim):
    def foreign(path: Path) -> None:
        raise RetrievalError(f"{path}: is foreign")

    out = tmp_path / "new" / "out"
    with claim(out, False, foreign), pytest.raises(ValueError, match="broken"), claim(out, False, foreign):
        raise ValueError("broken")
    assert names(tmp_path) == []
    if claim is claim_file:
        write_bytes(tmp_path / "out", b"1")
    else:
        write(tmp_path / "out")
    with pytest.raises(RetrievalError, match="exists already"), claim(tmp_path / "out", False, foreign):
        pytest.fail("not reached")
    with pytest.raises(RetrievalError, match="is foreign"), claim(tmp_path / "out", True, foreign):
        pytest.fail("not reached")
    assert names(tmp_path) == ["out"]


def test_an_empty_file_is_replaced_whatever_it_was_meant_to_be(tmp_path):
    (tmp_path / "out").write_text("")
    with claim_file(tmp_path / "out", True, lambda path: pytest.fail("checked")):
        write_bytes(tmp_path / "out", b"1")
    assert (tmp_path / "out").read_bytes() == b"1"


def test_a_folder_in_the_place_of_a_file_and_a_file_in_the_place_of_a_folder_are_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("1")
    with (
        pytest.raises(RetrievalError, match="folder: is a folder, expected the name of a file"),
        claim_file(tmp_path / "folder", True, print),
    ):
        pytest.fail("not reached")
    with (
        pytest.raises(RetrievalError, match="file: is a file, expected a folder"),
        claim_folder(tmp_path / "file", True, print),
    ):
        pytest.fail("not reached")


def test_the_root_of_the_file_system_is_no_output():
    with pytest.raises(RetrievalError, match="/: cannot be replaced as a whole; choose a folder in it"), claimed("/"):
        pass
    assert not is_claimed("/")


def test_what_is_left_of_an_earlier_call_is_removed_by_one_that_succeeds(tmp_path):
    def stop() -> None:
        with claimed(tmp_path / "out") as folder:
            (folder / "parts").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert names(tmp_path) == [".out.unfinished"]
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["n" * 255, "\u00e9" * 127, "n" * 201])
def test_an_output_may_have_the_longest_name_of_the_system(tmp_path, name):
    with claim_folder(tmp_path / name, False, lambda folder: None):
        assert is_claimed(tmp_path / name)
        assert not is_claimed(tmp_path / f"{name[:-1]}m")  # a name that begins alike
        write(tmp_path / name)
    write_bytes(tmp_path / name / name, b"1")
    write_bytes(tmp_path / name / name, b"2")
    assert names(tmp_path) == [name]
    assert names(tmp_path / name) == ["a", name]


def test_a_name_that_is_too_long_is_refused_in_one_line(tmp_path):
    for claim in (claim_folder, claim_file):
        with (
            pytest.raises(RetrievalError, match=r"n: cannot be created \(File name too long\); choose another path"),
            claim(tmp_path / ("n" * 256), False, lambda folder: None),
        ):
            pass
