"""What a killed process or a write that fails in the middle leaves behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

SIZE = 300_000
DELAYS = [0.0, 0.003, 0.007, 0.013, 0.029, 0.061]


def kill_in_the_middle(program: str, path: Path, delay: float) -> None:
    """Runs a program that prints a line and then writes to `path` without end. Kills it `delay` seconds later."""
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as stdout:
        assert stdout.readline().split() == [b"ready"]
        time.sleep(delay)
        process.kill()
        process.wait(timeout=60)


def test_a_killed_process_leaves_a_complete_file_old_or_new(tmp_path):
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
        content = path.read_bytes()
        assert len(content) == SIZE
        assert len(set(content)) == 1


def test_a_killed_process_leaves_a_complete_folder_old_or_new(tmp_path):
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
    for number, delay in enumerate(DELAYS):
        path = tmp_path / str(number) / "folder"
        kill_in_the_middle(program, path, delay)
        # Without an exchange in one step, the old folder may still have its temporary name.
        complete = [path] if path.exists() else list(path.parent.glob(".folder.unfinished/old-*"))
        assert len(complete) == 1
        first, second = ((complete[0] / name).read_text() for name in ("a", "b"))
        assert first == second
        assert len(first) == SIZE


def test_a_write_that_fails_in_the_middle_leaves_the_previous_content_and_no_other_file(tmp_path):
    pytest.importorskip("resource")
    path = tmp_path / "file"
    path.write_bytes(b"old")
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
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
