from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from filelock import lock_descriptor

from retrieval.errors import CheckpointError, IndexFormatError
from retrieval.files import LOCK_NAME, is_locked, lock, locked

HOLD = """
import os, sys, time
from pathlib import Path
from retrieval.files import locked
with locked(Path(sys.argv[1])):
    if hasattr(os, "fork") and os.fork() == 0:  # a data worker that outlives its parent
        os.close(1)
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""

FORK = """
import os, sys
from pathlib import Path
from retrieval.files import is_locked, lock, locked
folder = Path(sys.argv[1])
with locked(folder):
    child = os.fork()
    if child == 0:
        print("child", bool(lock._handles), flush=True)
    else:
        os.waitpid(child, 0)
        print("parent", is_locked(folder) and folder.is_dir(), flush=True)  # the child has left the block
if child == 0:
    os._exit(0)
"""


def refuse(number: int, message: str):
    def call(*arguments, **options):
        raise OSError(number, message)

    return call


def test_a_second_process_is_refused_at_once_with_the_id_of_the_first(tmp_path):
    folder = tmp_path / "run"
    with locked(folder):
        assert is_locked(folder)
        start = time.monotonic()
        with pytest.raises(
            CheckpointError,
            match=rf"run: another run \(process {os.getpid()}\) is writing to it; wait until it ends, or choose another",
        ):
            locked(folder).__enter__()
        assert time.monotonic() - start < 2
        (folder / "file").write_text("")
    assert not is_locked(folder)
    with locked(folder):
        pass
    assert (folder / "file").exists()


def test_the_user_and_the_class_of_the_error_can_be_chosen(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(IndexFormatError, match=r"another command \(process \d+\) is writing to it"),
        locked(tmp_path, user="command", error=IndexFormatError),
    ):
        pytest.fail("not reached")


def test_folders_that_were_made_for_the_lock_are_removed_if_they_stay_empty(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "new" / "run"):
            assert (tmp_path / "new" / "run").is_dir()
        assert list(tmp_path.iterdir()) == []
    assert not is_locked(tmp_path / "new" / "run")


def test_an_empty_folder_that_was_there_before_stays_as_it_was(tmp_path):
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_error_releases_the_lock(tmp_path):
    def fail():
        with locked(tmp_path / "run"):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("left", ["4711\n", "123456789\n", ""])
def test_the_lock_file_of_an_earlier_version_is_taken_over(tmp_path, left):
    (tmp_path / LOCK_NAME).write_text(left)
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)
        assert (tmp_path / LOCK_NAME).read_text().split() == [str(os.getpid())]
    assert not is_locked(tmp_path)


def test_a_process_of_an_earlier_version_is_named(tmp_path):
    (tmp_path / LOCK_NAME).write_text("4711\n")
    with (tmp_path / LOCK_NAME).open("r+b") as file:
        lock_descriptor(file.fileno(), blocking=False)
        assert is_locked(tmp_path)
        with pytest.raises(CheckpointError, match=r"another run \(process 4711\) is writing"):
            locked(tmp_path).__enter__()
    assert not is_locked(tmp_path)


def test_a_lock_file_that_names_no_process_is_refused_without_an_id(tmp_path):
    with (tmp_path / LOCK_NAME).open("w+b") as file:
        lock_descriptor(file.fileno(), blocking=False)
        with pytest.raises(CheckpointError, match="another run is writing to it"):
            locked(tmp_path).__enter__()


def test_a_lock_file_that_its_owner_has_just_removed_is_created_again(tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def lose_the_race(handle, *, blocking):
        monkeypatch.undo()
        (folder / LOCK_NAME).unlink()
        return lock_descriptor(handle, blocking=blocking)

    monkeypatch.setattr(lock, "lock_descriptor", lose_the_race)
    with locked(folder):
        assert is_locked(folder)


def test_a_folder_that_its_owner_has_just_removed_is_created_again(tmp_path, monkeypatch):
    folder, open_file = tmp_path / "run", os.open

    def lose_the_race(*arguments):
        monkeypatch.undo()
        folder.rmdir()
        return open_file(*arguments)

    monkeypatch.setattr(os, "open", lose_the_race)
    with locked(folder):
        assert is_locked(folder)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_on_a_file_system_without_locks_a_warning_is_logged(tmp_path, monkeypatch, caplog, number):
    monkeypatch.setattr(lock, "lock_descriptor", refuse(number, "No locks available"))
    with locked(tmp_path):
        assert "cannot be locked (No locks available); let no other run write to it" in caplog.text
        assert not is_locked(tmp_path)  # unknown; but a process that ended long ago must not look active


def test_a_full_disk_does_not_prevent_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", refuse(errno.ENOSPC, "No space left on device"))
    with locked(tmp_path):
        monkeypatch.undo()
        with pytest.raises(CheckpointError, match="another run is writing to it"):
            locked(tmp_path).__enter__()


def test_a_process_that_tests_the_lock_keeps_no_other_out(tmp_path):
    (tmp_path / LOCK_NAME).write_text("")
    test = os.open(tmp_path / LOCK_NAME, os.O_RDWR)
    lock_descriptor(test, blocking=False)
    threading.Timer(0.05, os.close, [test]).start()
    with locked(tmp_path):
        assert is_locked(tmp_path)


def test_a_test_of_the_lock_creates_no_file(tmp_path):
    assert not is_locked(tmp_path)
    assert not is_locked(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_folder_that_is_not_writable_can_be_tested(tmp_path, monkeypatch):
    open_file = os.open

    def open_to_read(path, flags, *arguments):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_file(path, flags, *arguments)

    (tmp_path / "file").write_text("")
    with locked(tmp_path):
        monkeypatch.setattr(os, "open", open_to_read)
        assert is_locked(tmp_path)
        with pytest.raises(CheckpointError, match=r"cannot be created or written to \(Permission denied\); choose an"):
            locked(tmp_path).__enter__()
    assert not is_locked(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot remove an open file")
def test_a_folder_that_is_removed_during_the_block_hides_no_error(tmp_path):
    def remove() -> None:
        with locked(tmp_path / "run"):
            shutil.rmtree(tmp_path / "run")
            raise CheckpointError("its folder is gone")

    with pytest.raises(CheckpointError, match="its folder is gone"):
        remove()


def test_a_path_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match="cannot be created or written to"):
            locked(path).__enter__()


def test_on_windows_the_id_is_read_past_the_locked_byte_and_the_file_is_removed_after_it_is_closed(
    tmp_path, monkeypatch
):
    folder, read_file, close_file = tmp_path / "run", os.read, os.close
    seen = []

    def read_as_on_windows(handle, count):
        if os.lseek(handle, 0, os.SEEK_CUR) == 0:
            raise PermissionError(errno.EACCES, "Permission denied")
        return read_file(handle, count)

    def close_and_look(handle):
        seen.append((folder / LOCK_NAME).exists())
        close_file(handle)

    monkeypatch.setattr(lock, "WINDOWS", True)
    monkeypatch.setattr(os, "read", read_as_on_windows)
    with locked(folder):
        with pytest.raises(CheckpointError, match=rf"another run \(process {os.getpid()}\) is writing"):
            locked(folder).__enter__()
        monkeypatch.setattr(os, "close", close_and_look)
    assert seen == [True]
    assert not folder.exists()


@pytest.mark.parametrize("stop", ["terminate", "kill"])
def test_the_lock_of_a_dead_process_is_free_even_while_its_workers_live(tmp_path, stop):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            with pytest.raises(CheckpointError, match=f"process {process.pid}"):
                locked(folder).__enter__()
            getattr(process, stop)()
            process.wait(timeout=30)
            with locked(folder):
                pass
        finally:
            process.kill()
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process is forked here")
def test_a_forked_process_neither_holds_nor_releases_the_lock(tmp_path):
    command = [sys.executable, "-c", FORK, str(tmp_path / "run")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stdout) == (0, "child False\nparent True\n"), process.stderr
