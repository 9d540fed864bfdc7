"""An index of a few small images, which the tests of the service share and do not change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the service needs image-retrieval-toolkit[serve], which is not installed")
pytest.importorskip("uvicorn", reason="the service needs image-retrieval-toolkit[serve], which is not installed")
pytest.importorskip(
    "python_multipart", reason="the service needs image-retrieval-toolkit[serve], which is not installed"
)

from serving.service import Client, draw, make_model, running

import retrieval


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """See `draw`."""
    return draw(tmp_path_factory.mktemp("images") / "images")


@pytest.fixture(scope="session")
def folder(images, tmp_path_factory) -> Path:
    """The folder of an index of the images, whose model is an ONNX file."""
    folder = tmp_path_factory.mktemp("indexes") / "index"
    retrieval.Index.build(make_model(), images, folder, thumbnails=True)
    return folder


@pytest.fixture(scope="session")
def index(folder) -> retrieval.Index:
    """That index."""
    return retrieval.Index.open(folder)


@pytest.fixture(scope="module")
def client(index) -> Iterator[Client]:
    """A service of the index."""
    with running(index, max_bytes=200_000, max_pixels=1_000_000, max_images=4) as client:
        yield client
