"""Python programs in processes of their own that need not import torch: a server, which has imported it, forks them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

COMMAND = "import sys; from retrieval import cli; sys.exit(cli.run(sys.argv[1:]))"

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["retrieval.cli.train", "retrieval.runs.process", "retrieval.index", "albumentations", "faiss"]
)


class Program:
    """A running program, in a process group of its own as in a terminal.

    Args:
        folder: Where its output goes, to the files `stdout` and `stderr`.
        code: As of `python -c`.
        words: Its arguments.
        environment: Environment variables. Those that are read when a module is imported come too late.
    """

    def __init__(self, folder: Path, code: str, *words: str | Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._outputs = [folder / "stdout", folder / "stderr"]
        for output in self._outputs:
            output.write_text("")
        self._process = SERVER.Process(target=_run, args=(code, list(map(str, words)), self._outputs, environment))
        self._process.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            with contextlib.suppress(ProcessLookupError):  # where it has no group yet
                self.send(signal.SIGKILL, group=True)
            self._process.kill()
        self._process.join()

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._outputs[0].read_text()

    @property
    def stderr(self) -> str:
        """Its messages so far."""
        return self._outputs[1].read_text()

    def wait_until(self, condition: Callable[[], bool], timeout: float = 120) -> None:
        """Waits for a condition; it is an error if the program ends before."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self._process.is_alive() or condition(), self.stderr
            assert time.monotonic() < deadline, self.stderr
            time.sleep(0.005)

    def send(self, number: int, *, group: bool = False) -> None:
        """Sends a signal, to its children too if `group`."""
        assert self._process.pid is not None
        (os.killpg if group else os.kill)(self._process.pid, number)

    def wait(self, timeout: float = 120) -> int:
        """Its exit code; after a signal, minus the number of the signal."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, self.stderr
        return self._process.exitcode


@contextlib.contextmanager
def two_processes(folder: Path, code: str, *words: str | Path) -> Iterator[list[Program]]:
    """Two programs that are the processes of one training, as those of torchrun; their output goes to folders of their rank."""
    with socket.socket() as free, contextlib.ExitStack() as stack:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
        free.close()
        group["OMP_NUM_THREADS"] = "1"
        yield [
            stack.enter_context(
                Program(folder / str(rank), code, *words, **group, RANK=str(rank), LOCAL_RANK=str(rank))
            )
            for rank in range(2)
        ]


def _run(code: str, words: list[str], outputs: list[Path], environment: dict[str, str]) -> None:
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # that of the system, instead of the one it was started by
    for number, output in enumerate(outputs, start=1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), number)
    os.environ.update(environment)
    if "OMP_NUM_THREADS" in environment:  # which torch has read already
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.argv = ["-c", *words]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
