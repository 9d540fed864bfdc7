"""A running service for tests, and a small client of the standard library."""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import retrieval
from retrieval import serving
from retrieval.serving.server import server_of

CLASSES = ("ant", "bee & <wasp>", "crab", "dove")
PREPARATION = retrieval.Preprocessing(resize=32, size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def draw(root: Path, count: int = 6) -> Path:
    """Noisy patterns in a folder for each class; the image of a class is unlike those of others."""
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        pattern = generator.integers(0, 256, (4, 4, 3))
        for i in range(count):
            pixels = (pattern + generator.integers(-30, 31, (4, 4, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).resize((40, 40), Image.Resampling.NEAREST).save(root / name / f"{i}.png")
    return root


@functools.cache
def make_model(seed: int = 0) -> retrieval.Model:
    """The model of `make_torch_model` as ONNX: for a network of torch, each index and each service would export one."""
    with tempfile.TemporaryDirectory() as folder:
        make_torch_model(seed).save(Path(folder) / "model")
        model = retrieval.Model.load(Path(folder) / "model", device="cpu")
    model.workers = 0  # as of a model of Python: services run in threads of this process, which is not to be forked
    return model


def make_torch_model(seed: int = 0) -> retrieval.Model:
    torch.manual_seed(seed)
    return retrieval.Model(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 16)), PREPARATION)


def png(colour: Any = "white", size: tuple[int, int] = (8, 8)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "PNG")
    return content.getvalue()


def form(*files: tuple[str, bytes], fields: dict[str, str] | None = None) -> tuple[bytes, dict[str, str]]:
    """The body of a form and its headers."""
    parts = [
        f'--edge\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    parts += [
        f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (fields or {}).items()
    ]
    return b"".join(parts) + b"--edge--\r\n", {"Content-Type": "multipart/form-data; boundary=edge"}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> str:
        return self.json["error"]


@dataclass
class Client:
    """Asks a service on this machine."""

    port: int
    token: str | None = None

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *, chunked: bool = False
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        own = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        with contextlib.closing(connection):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the answer may have come before the end
                connection.request(method, path, body, {**own, **(headers or {})}, encode_chunked=chunked)
            response = connection.getresponse()
            content = response.read()
            return Answer(response.status, {key.lower(): value for key, value in response.getheaders()}, content)

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("GET", path, headers=headers)

    def search(self, *files: tuple[str, bytes], options: str = "", to: str = "search") -> Answer:
        return self.ask("POST", f"/v1/{to}{options}", *form(*files))

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").content.decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)


@contextlib.contextmanager
def running(index: Any, **settings: Any) -> Iterator[Client]:
    """A service in a thread of this process."""
    app = serving.create_app(index, serving.Settings(**settings))
    listening = serving.bind(port=0)
    server = server_of(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    port = listening.getsockname()[1]
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield Client(port, settings.get("token"))
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
