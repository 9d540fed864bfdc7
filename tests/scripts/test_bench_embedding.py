from __future__ import annotations

import csv
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

TINY = ["--backbone", "test_resnet", "--size", "32", "--batch", "4", "--repeats", "1", "--workers", "1"]


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval.cli.processor.prepare", lambda: None)  # for a process of its own
        return importlib.import_module("bench_embedding")


def assert_complete(folder: Path, printed: str, of: str) -> None:
    with (folder / "bench_embedding.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["candidate"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["index", "bare decoding", "bare network", "both at once", "former index"]
    assert float(rows["index"]["ratio"]) == 1
    for row in rows.values():
        assert float(row["seconds"]) > 0
        assert float(row["images_per_second"]) == pytest.approx(10 / float(row["seconds"]))
    assert f"10 images, the first {of}; test_resnet, 32 px" in printed
    assert "times as long as the slower of its bare parts" in printed


@pytest.mark.slow
def test_an_index_is_timed_against_its_bare_parts_and_the_former_one(script, tmp_path):
    words = [*TINY, "--images", "10", "--threads", "1", "--out", str(tmp_path)]
    command = [sys.executable, script.__file__, *words]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 0, run.stderr
    assert_complete(tmp_path, run.stdout, "1600 x 1200")


@pytest.mark.slow
def test_an_index_in_bfloat16_is_timed_alike(script, tmp_path, monkeypatch, call_main):
    monkeypatch.setattr(script, "WIDTH", 160)
    monkeypatch.setattr(script, "HEIGHT", 120)
    words = [*TINY, "--images", "10", "--threads", "1", "--precision", "bfloat16", "--out", tmp_path]
    assert_complete(tmp_path, call_main(script, *words), "160 x 120")


def test_a_folder_without_images_is_one_line_of_error(script, tmp_path, call_main):
    with pytest.raises(SystemExit, match=r"^error: .* contains no images") as error:
        call_main(script, *TINY, "--root", tmp_path)
    assert "\n" not in str(error.value)
