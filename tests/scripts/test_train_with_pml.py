from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_with_pml.py"


@pytest.mark.slow
def test_the_loss_drops_into_a_script_that_trains_with_pytorch_metric_learning():
    command = [sys.executable, str(SCRIPT), "--classes", "40"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 0, run.stderr
    before, after = run.stdout.strip().splitlines()
    assert before.startswith("before")
    assert after.startswith("after")
    for line in (before, after):
        figures = re.findall(r"'(\w+)': ([\d.]+)", line)
        assert {name.removesuffix("_level0") for name, _ in figures} == {
            "precision_at_1",
            "mean_average_precision_at_r",
        }
        assert all(0 < float(value) < 1 for _, value in figures)
    assert before.removeprefix("before") != after.removeprefix("after")
