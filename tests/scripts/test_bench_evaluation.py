from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import bench_evaluation
import pytest

pytestmark = pytest.mark.slow

WORDS = ["--dim", "16", "--per-class", "3", "--repeats", "1"]


def assert_all_find_the_same(table: list[dict[str, str]]) -> None:
    assert float(table[0]["ratio"]) == 1
    recalls = [float(row["recall_at_1"]) for row in table[1:] if row["recall_at_1"]]
    assert recalls == pytest.approx([recalls[0]] * len(recalls), abs=1e-3)
    assert 0 < recalls[0] < 1


def rows_of(folder: Path, printed: str) -> list[dict[str, str]]:
    """The rows of the table, each of which is printed too."""
    with (folder / "bench_evaluation.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(row["candidate"] in printed for row in rows)
    return rows


def test_every_candidate_is_measured_and_finds_the_same(tmp_path):
    words = [*WORDS, "--out", str(tmp_path), "--sizes", "90", "6010", "--memory-gb", "1"]
    command = [sys.executable, bench_evaluation.__file__, *words]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 0, run.stderr
    rows = rows_of(tmp_path, run.stdout)
    small, large = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    assert {row["items"] for row in small} == {"90"}
    assert all(float(row["seconds"]) > 0 for row in small)
    for table in (small, large):
        assert_all_find_the_same(table)
    skipped = {row["candidate"]: row["note"] for row in large if not row["seconds"]}
    assert skipped == {
        "AccuracyCalculator": "skipped: needs 2.35 GB (computed)",
        "NumPy argsort": "skipped: for at most 6,000 items",
    }
    if sys.platform == "linux":  # the only system where a peak can be restarted
        measured = [(float(row["peak_mib"]), float(row["process_mib"])) for row in large if row["seconds"]]
        assert all(0 < added < in_all for added, in_all in measured)


def test_items_are_measured_against_a_gallery(tmp_path, call_main):
    printed = call_main(bench_evaluation, *WORDS, "--out", tmp_path, "--sizes", "90", "--gallery", "300")
    table = rows_of(tmp_path, printed)
    assert {(row["items"], row["gallery"]) for row in table} == {("90", "300")}
    assert all(row["seconds"] for row in table)
    assert_all_find_the_same(table)
