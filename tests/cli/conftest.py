"""Images and a trained run that the tests of the command line share and do not change."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import arguments, draw_images

from retrieval import cli


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """See `draw_images`."""
    return draw_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def run(images, tmp_path_factory) -> Path:
    """A trained run with an index of its test split."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert cli.run(arguments(images, folder)) == 0
    assert cli.run(["index", str(folder), "--split", "test"]) == 0
    return folder
