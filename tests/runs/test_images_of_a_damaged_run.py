"""Whether a run can be resumed is decided by its files; a damaged file of information is no reason to lose a run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retrieval.runs.images import require_same_images
from retrieval.training import RunFolder

DAMAGED = ["", "{", "[" * 100_000, "7", "[]", "{}", '{"data": 7}', '{"data": [1]}', "\ud800"]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_environment_is_a_warning(tmp_path, caplog, text):
    folder = RunFolder(tmp_path)
    folder.environment.write_bytes(text.encode("utf-8", "surrogatepass"))
    require_same_images({}, folder, "or train again")
    assert "environment.json: cannot be read, so it is not known whether the images are still the same" in caplog.text


@pytest.mark.timeout(20)
@pytest.mark.parametrize("put", [os.mkfifo, Path.mkdir, lambda path: None], ids=["pipe", "folder", "missing"])
def test_an_environment_that_is_no_file_is_a_warning(tmp_path, caplog, put):
    put(tmp_path / "environment.json")
    require_same_images({}, RunFolder(tmp_path), "or train again")
    assert "environment.json: cannot be read" in caplog.text
