from __future__ import annotations

import csv
import importlib
import subprocess
import sys

import pytest

TINY = ["--backbone", "test_resnet", "--size", "32", "--batch", "8", "--steps", "2", "--repeats", "1"]


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrieval.cli.processor.prepare", lambda: None)  # for a process of its own
        return importlib.import_module("bench_training")


@pytest.fixture(scope="module")
def tiny(script, tmp_path_factory, call_main) -> tuple[list[dict[str, str]], str]:
    """The rows of the table that a run on drawn images writes, and what it prints."""
    folder = tmp_path_factory.mktemp("bench")
    printed = call_main(script, *TINY, "--images", "52", "--out", folder)
    with (folder / "bench_training.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file)), printed


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
def test_too_few_images_are_one_line_of_error(script):
    command = [sys.executable, script.__file__, *TINY, "--images", "8"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 1
    assert "at least 49 training images" in run.stderr
    assert "Traceback" not in run.stderr
