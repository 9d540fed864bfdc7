"""Fixtures for the real data, which is not part of the project; without it, tests that need it are skipped."""

from __future__ import annotations

import os

# Before anything imports albumentations, which otherwise asks the network for its latest version.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import importlib.util
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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
