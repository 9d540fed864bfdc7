from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_embedding.py"
TINY = ["--backbone", "test_resnet", "--size", "32", "--batch", "4", "--repeats", "1", "--workers", "1"]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *TINY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_index_is_timed_against_its_bare_parts_and_the_former_one(tmp_path, precision):
    run = bench("--images", "10", "--threads", "1", "--precision", precision, "--out", str(tmp_path))
    assert run.returncode == 0, run.stderr
    with (tmp_path / "bench_embedding.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["candidate"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["index", "bare decoding", "bare network", "both at once", "former index"]
    assert float(rows["index"]["ratio"]) == 1
    for row in rows.values():
        assert float(row["seconds"]) > 0
        assert float(row["images_per_second"]) == pytest.approx(10 / float(row["seconds"]))
    assert "10 images, the first 1600 x 1200; test_resnet, 32 px" in run.stdout
    assert "times as long as the slower of its bare parts" in run.stdout


@pytest.mark.slow
def test_a_folder_without_images_is_one_line_of_error(tmp_path):
    run = bench("--root", str(tmp_path))
    assert run.returncode == 1
    assert "contains no images" in run.stderr
    assert "Traceback" not in run.stderr
