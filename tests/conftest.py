"""Fixtures of all tests; those of the real data, which is not part of the project, skip a test where it is missing."""

from __future__ import annotations

import os

# Before anything imports albumentations, which otherwise asks the network for its latest version.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import importlib.util
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_hub import TOKEN, FakeHub, serve
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[FakeHub]:
    """A hub on this computer, which huggingface_hub asks in this process, with its token and an empty cache.

    huggingface_hub reads its environment variables when it is imported, so its constants are set instead. Its retries do not wait.
    """
    import huggingface_hub

    constants = huggingface_hub.constants
    with serve() as server:
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        without_waiting = SimpleNamespace(sleep=lambda seconds: None)
        monkeypatch.setattr(huggingface_hub.utils._http, "time", without_waiting)
        monkeypatch.setattr(huggingface_hub.file_download, "time", without_waiting)
        yield server
        huggingface_hub.close_session()


@pytest.fixture(autouse=True)
def _own_level_of_the_log() -> Iterator[None]:
    """A command with --quiet in this process silences the log of its own test only."""
    log = logging.getLogger("retrieval")
    if log.level == logging.ERROR:  # a fixture of a wider scope was quiet
        log.setLevel(logging.NOTSET)
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture
def pictures() -> None:
    """A test that takes this fixture gets the real pictures in spite of `quick_pictures`."""


@pytest.fixture
def quick_pictures(request) -> Iterator[None]:
    """Trainings and reports of the test write small white pictures: drawing takes longer than a small training.

    Fixtures of a wider scope, such as the run that the tests of a folder share, have the real pictures.
    """
    if "pictures" in request.fixturenames:
        yield
        return
    from retrieval.report import charts, report_page
    from retrieval.runs import process

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(buffer, "PNG")
    picture = buffer.getvalue()
    with pytest.MonkeyPatch.context() as patch:  # of its own: a test may undo its patches
        for name in ("plot_training", "draw_neighbours"):
            patch.setattr(process, name, lambda *arguments, **_: arguments[-1].write_bytes(picture))
        patch.setattr(charts.Chart, "png", lambda self: picture)
        patch.setattr(charts.Chart, "svg", lambda self: "<svg></svg>")
        patch.setattr(report_page, "draw_gallery", lambda rows, **_: picture)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: $RETRIEVAL_TEST_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("RETRIEVAL_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set RETRIEVAL_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def omniglot_root(shared_data: Path) -> Path:
    """Omniglot, complete, in its official layout."""
    return _unpacked("omniglot", shared_data)


@pytest.fixture(scope="session")
def cub200_root(shared_data: Path) -> Path:
    """CUB-200-2011 with all lists and the images of the classes 1-50: read it with (1, 25) and (26, 50)."""
    return _unpacked("cub200", shared_data)


@pytest.fixture(scope="session")
def cars196_root(shared_data: Path) -> Path:
    """Cars196 with all lists and the images of the train half: read it with halves=["train"]."""
    return _unpacked("cars196", shared_data)


def _unpacked(name: str, shared_data: Path) -> Path:
    """The unpacked data set; kept for later runs in the system's folder for temporary files."""
    if not (shared_data / name).is_dir():
        pytest.skip(f"no {name} in {shared_data}")
    spec = importlib.util.spec_from_file_location("unpack_test_data", REPOSITORY / "scripts" / "unpack_test_data.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return script.unpack(name, shared_data, Path(tempfile.gettempdir()) / f"retrieval-test-data-{user}")
