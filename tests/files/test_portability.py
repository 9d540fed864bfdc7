"""The package must not need anything that only Unix has. No test runs on Windows, so these tests take it away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.files import folder_in_one_piece, write_bytes

TAKE_AWAY = """
import os, shutil, signal, sys

def take_away():
    for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios"):
        sys.modules[name] = None
    for name in ("fork", "forkpty", "register_at_fork", "sync", "fdatasync", "pread", "pwrite", "getuid", "geteuid", "fchmod",
                 "mkfifo", "killpg", "setsid", "getpgid", "uname", "sysconf", "statvfs", "nice", "getloadavg",
                 "sched_getaffinity", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "O_CLOEXEC"):
        if hasattr(os, name):
            delattr(os, name)
    for name in ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGUSR1", "alarm", "setitimer",
                 "pthread_sigmask"):
        if hasattr(signal, name):
            delattr(signal, name)
    open_file = os.open

    def open_no_folder(path, flags, *arguments, **options):  # Windows cannot open a folder
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied")
        return open_file(path, flags, *arguments, **options)

    os.open = open_no_folder
    shutil._use_fd_functions = False
"""

IMPORT_ALL = (
    TAKE_AWAY
    + """
import importlib, pkgutil, retrieval, retrieval.cli

def import_all():
    names = ["retrieval", *(module.name for package in (retrieval, retrieval.cli)
                            for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."))]
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    return len(names)

# The first time loads the libraries, which may need Unix on Unix. The second time loads this package alone.
import_all()
for name in [name for name in sys.modules if name.split(".")[0] == "retrieval"]:
    del sys.modules[name]
take_away()
print("modules", import_all())
"""
)

USE_FILES = """
from pathlib import Path
from retrieval.errors import RetrievalError
from retrieval.files import LOCK_NAME, folder_in_one_piece, is_locked, locked, write_bytes, write_json, write_text

folder = Path(sys.argv[1])
for content in (b"1", b"2"):
    write_bytes(folder / "file", content, keep=folder / "kept")
assert ((folder / "file").read_bytes(), (folder / "kept").read_bytes()) == (b"2", b"1")
write_json(folder / "value.json", {"a": 1})
write_text(folder / "text", "a")
for number in (1, 150):
    with folder_in_one_piece(folder / "new" / "folder", overwrite=True) as new:
        (new / "deep").mkdir()
        for name in range(number):
            (new / "deep" / str(name)).write_text("1")
    assert len(list((folder / "new" / "folder" / "deep").iterdir())) == number
    assert [path.name for path in (folder / "new").iterdir()] == ["folder"]
with locked(folder / "run"):
    print("locked", is_locked(folder / "run"))
    try:
        locked(folder / "run").__enter__()
    except RetrievalError as error:
        print(error)
assert not (folder / "run").exists()
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "-c", program, str(folder)]
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


@pytest.mark.slow
def test_every_module_is_imported_without_what_only_unix_has_and_files_are_written(tmp_path):
    process = run(IMPORT_ALL + USE_FILES, tmp_path)
    assert process.returncode == 0, process.stderr
    modules, held, refused = process.stdout.splitlines()
    assert int(modules.removeprefix("modules ")) > 80
    assert held == "locked True"
    assert "another run (process " in refused


def test_without_any_means_to_lock_a_warning_is_logged_and_the_work_is_done(tmp_path):
    process = run(TAKE_AWAY + "take_away()\n" + USE_FILES, tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stdout == "locked False\n"
    assert "run: cannot be locked (fcntl is unavailable); let no other run write to it" in process.stderr


@pytest.mark.parametrize("refused", ["open", "fsync"])
def test_a_folder_that_cannot_be_flushed_is_no_error(tmp_path, monkeypatch, refused):
    call, folders = getattr(os, refused), []

    def refuse_folders(what, *arguments):
        if os.path.isdir(what if refused == "open" else f"/proc/self/fd/{what}"):  # noqa: PTH112
            folders.append(what)
            raise OSError(22, "Invalid argument")
        return call(what, *arguments)

    if refused == "fsync" and not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc")
    monkeypatch.setattr(os, refused, refuse_folders)
    write_bytes(tmp_path / "file", b"1")
    with folder_in_one_piece(tmp_path / "folder") as folder:
        (folder / "deep").mkdir()
    assert len(folders) == 3
    assert (tmp_path / "folder" / "deep").is_dir()
