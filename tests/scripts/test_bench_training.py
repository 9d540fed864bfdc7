from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_training.py"
TINY = ["--backbone", "test_resnet", "--size", "32", "--batch", "8", "--steps", "2", "--repeats", "1"]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *TINY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[list[dict[str, str]], str]:
    """The rows of the table that a run on drawn images writes, and what it prints."""
    folder = tmp_path_factory.mktemp("bench")
    run = bench("--images", "52", "--out", str(folder))
    assert run.returncode == 0, run.stderr
    with (folder / "bench_training.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file)), run.stdout


@pytest.mark.slow
def test_steps_and_reading_are_timed_against_their_bare_loops(tiny):
    rows, printed = tiny
    assert [(row["table"], row["candidate"]) for row in rows] == [
        ("step", "bare loop"),
        ("step", "trainer, tensors in memory"),
        ("step", "trainer, its loader (2 workers)"),
        ("reading", "bare loop"),
        *(("reading", f"{kind}, {workers} workers") for workers in (0, 1, 2) for kind in ("evaluation", "training")),
    ]
    for row in rows:
        assert float(row["seconds"]) > 0
        assert float(row["images_per_second"]) > 0
        assert float(row["ratio"]) > 0
        assert row["candidate"] in printed
    assert {float(row["ratio"]) for row in rows if row["candidate"] == "bare loop"} == {1}


def test_the_trainer_and_the_bare_loop_do_the_same_work(tiny):
    losses = [float(row["loss"]) for row in tiny[0] if row["table"] == "step"]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    assert losses[0] > 0.1


@pytest.mark.slow
def test_too_few_images_are_one_line_of_error():
    run = bench("--images", "8")
    assert run.returncode == 1
    assert "at least 49 training images" in run.stderr
    assert "Traceback" not in run.stderr
