from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from retrieval.errors import CheckpointError
from retrieval.training.folder_lock import is_locked, locked

HOLD = """
import os, sys, time
from pathlib import Path
from retrieval.training.folder_lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:  # a data worker, which outlives its parent
        os.close(1)
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_and_told_who_is_there(tmp_path):
    folder = tmp_path / "run"
    with locked(folder):
        assert is_locked(folder)
        with pytest.raises(CheckpointError, match=rf"run: another run, process {os.getpid()}, is .* another --out"):
            locked(folder).__enter__()
        (folder / "file").write_text("")
    assert not is_locked(folder)
    with locked(folder):
        pass
    assert (folder / "file").exists()


def test_a_folder_that_nothing_was_put_into_goes_again(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "new" / "run"):
            assert (tmp_path / "new" / "run").is_dir()
        assert list((tmp_path / "new").iterdir()) == []
    assert not is_locked(tmp_path / "new" / "run")


def test_an_error_frees_the_folder(tmp_path):
    def fail():
        with locked(tmp_path / "run"):
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert not (tmp_path / "run").exists()


def test_a_lock_on_a_folder_that_its_owner_has_just_removed_is_taken_anew(tmp_path, monkeypatch):
    folder, lock = tmp_path / "run", fcntl.flock

    def lose_the_race(handle, operation):
        monkeypatch.undo()
        (folder / ".lock").unlink()
        lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", lose_the_race)
    with locked(folder):
        assert is_locked(folder)


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    def no_locks(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path):
        assert "cannot be locked (No locks available); let no other run write into it" in caplog.text
        assert not is_locked(tmp_path)  # nobody knows; but a run that ended long ago is not at work for ever


def test_whoever_only_looks_keeps_no_run_out(tmp_path):
    (tmp_path / ".lock").write_text("")
    looking = os.open(tmp_path / ".lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.05, os.close, [looking]).start()
    with locked(tmp_path):
        assert is_locked(tmp_path)


def test_a_folder_that_is_removed_while_it_is_held_hides_no_error(tmp_path):
    def remove() -> None:
        with locked(tmp_path / "run"):
            shutil.rmtree(tmp_path / "run")
            raise CheckpointError("its folder is gone")

    with pytest.raises(CheckpointError, match="its folder is gone"):
        remove()


def test_what_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match="cannot be the folder of a run"):
            locked(path).__enter__()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_lock_of_a_dead_process_blocks_nobody_even_while_its_workers_live(tmp_path, number):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            with pytest.raises(CheckpointError, match=f"process {process.pid}"):
                locked(folder).__enter__()
            process.send_signal(number)
            assert process.wait(timeout=30) == -number
            with locked(folder):
                pass
        finally:
            os.killpg(process.pid, signal.SIGKILL)
