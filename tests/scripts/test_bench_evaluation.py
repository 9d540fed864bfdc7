from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_evaluation.py"


@pytest.mark.slow
def test_every_candidate_is_measured_and_finds_the_same(tmp_path):
    command = [sys.executable, str(SCRIPT), "--sizes", "90", "6010", "--dim", "16", "--per-class", "3"]
    command += ["--repeats", "1", "--memory-gb", "1", "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 0, run.stderr
    with (tmp_path / "bench_evaluation.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    small, large = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    assert {row["items"] for row in small} == {"90"}
    assert all(float(row["seconds"]) > 0 and row["candidate"] in run.stdout for row in small)
    for table in (small, large):
        assert float(table[0]["ratio"]) == 1
        recalls = [float(row["recall_at_1"]) for row in table[1:] if row["recall_at_1"]]
        assert recalls == pytest.approx([recalls[0]] * len(recalls), abs=1e-3)
        assert 0 < recalls[0] < 1
    skipped = {row["candidate"]: row["note"] for row in large if not row["seconds"]}
    assert skipped == {
        "AccuracyCalculator": "skipped: needs 2.35 GB (computed)",
        "NumPy argsort": "skipped: for at most 6,000 items",
    }
