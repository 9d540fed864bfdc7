"""`retrieval serve` as a process."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import COMMAND, Program
from small_run import call

pytest.importorskip("fastapi", reason="the service needs image-retrieval-toolkit[serve], which is not installed")

from serving.service import Client, make_model

from retrieval import Index


@contextlib.contextmanager
def serving(folder: Path, *words: str, **environment: str) -> Iterator[tuple[Program, Client, dict]]:
    """The command with a free port, until the end of the block; its output goes to the folder."""
    with Program(folder, COMMAND, "serve", *words, "--port", "0", "--json", **environment) as process:
        process.wait_until(lambda: process.stdout.endswith("\n}\n"))
        facts = json.loads(process.stdout)
        yield process, Client(int(facts["address"].rpartition(":")[2])), facts


@pytest.fixture(scope="module")
def index(images, tmp_path_factory) -> Path:
    """An index whose model is an ONNX file already: a network of torch is exported when it is served, which takes seconds."""
    folder = tmp_path_factory.mktemp("indexes") / "index"
    Index.build(make_model(), images / "test", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_lets_what_runs_finish(index, images, tmp_path, number, code):
    photo = next((images / "test").glob("*/*.png")).read_bytes()
    with serving(tmp_path, str(index)) as (process, client, facts):
        assert facts["items"] == 28
        assert client.search(("a.png", photo)).status == 200
        # The headers and the first half of the body come before the signal, the other half after it.
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
        connection.putrequest("POST", "/v1/search?k=3")
        connection.putheader("Content-Type", "image/png")
        connection.putheader("Content-Length", str(len(photo)))
        connection.endheaders(photo[:50])
        time.sleep(0.3)
        process.send(number)
        process.wait_until(lambda: is_refused(client))
        connection.send(photo[50:])
        response = connection.getresponse()
        assert response.status == 200
        assert len(json.loads(response.read())["results"][0]["neighbours"]) == 3
        connection.close()
        assert process.wait(30) == code
        assert "Traceback" not in process.stderr


def is_refused(client: Client) -> bool:
    """Whether new connections are refused."""
    try:
        client.get("/healthz")
    except OSError as error:  # the last one before may be closed without an answer
        return isinstance(error, ConnectionRefusedError)
    return False


@pytest.mark.slow
def test_a_token_of_the_environment_is_asked_for_and_a_changed_index_is_taken_up(index, tmp_path, capsys):
    index = shutil.copytree(index, tmp_path / "index")
    with serving(tmp_path, str(index), "--reload", "--token-env", "THE_TOKEN", THE_TOKEN="abc") as (_, client, _):
        assert client.get("/v1/index").status == 401
        client.token = "abc"
        assert client.get("/v1/index").json["count"] == 28
        assert call(capsys, "index", "remove", str(index), "--id", "0")[0] == 0
        for _ in range(200):
            if client.get("/v1/index").json["count"] == 27:
                break
            time.sleep(0.05)
        assert client.get("/v1/index").json["count"] == 27


def test_what_cannot_be_served_is_said_in_one_line(run, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("NO_SUCH_TOKEN", raising=False)
    monkeypatch.setenv("EMPTY_TOKEN", "")
    monkeypatch.setenv("BAD_TOKEN", "a b")
    folder = str(run)
    for words, code, text in (
        ([folder, "--token-env", "NO_SUCH_TOKEN"], 2, "the environment variable NO_SUCH_TOKEN is not set, or is empty"),
        ([folder, "--token-env", "EMPTY_TOKEN"], 2, "EMPTY_TOKEN is not set, or is empty"),
        ([folder, "--token-env", "BAD_TOKEN"], 2, "BAD_TOKEN holds characters that no HTTP header can"),
        ([folder, "--queue", "3"], 2, "--queue is 3, less than --max-images 16"),
        ([folder, "--port", "65536"], 2, "65536"),
        ([folder, "--host", "no such host", "--port", "0"], 1, "no such host:0: cannot be served at"),
        ([str(tmp_path / "nothing"), "--port", "0"], 1, "nothing: does not exist"),
    ):
        found, out, err = call(capsys, "serve", *words)
        assert (found, out) == (code, "")
        assert err.startswith("error: ")
        assert text in err
        assert err.count("\n") == 1


@pytest.mark.slow
def test_an_open_address_without_a_token_is_warned_of(run, capsys, monkeypatch):
    from retrieval import serving as library

    served = threading.Event()
    monkeypatch.setattr(library, "serve", lambda app, listening: (listening.close(), served.set()))
    code, out, err = call(capsys, "serve", str(run), "--host", "127.0.0.1", "--port", "0")
    assert (code, served.is_set()) == (0, True)
    assert out.startswith("serving   http://127.0.0.1:")
    assert out.endswith("(28 images, onnxruntime)\n")
    assert "other machines" not in err


def test_the_service_is_imported_by_its_command_only():
    code = "import sys, retrieval, retrieval.cli; retrieval.cli.run(['serve', '--help']); sys.exit('fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_its_packages_the_command_says_what_to_install(run):
    code = (
        "import sys; sys.modules['uvicorn'] = None; import retrieval.cli; "
        f"sys.exit(retrieval.cli.run(['serve', {str(run)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "python -m pip install 'image-retrieval-toolkit[serve]'" in done.stderr
    assert done.stderr.count("\n") == 1
