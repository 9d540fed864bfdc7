from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import bench_loss
import pytest

WORDS = ["--dim", "8", "--repeats", "1"]


def rows_in(folder: Path) -> list[dict[str, str]]:
    """The rows of the table that a run writes."""
    with (folder / "bench_loss.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def quick(tmp_path_factory, call_main) -> tuple[list[dict[str, str]], str, Path]:
    """The table of a run, what it prints, and its folder."""
    folder = tmp_path_factory.mktemp("bench")
    printed = call_main(bench_loss, *WORDS, "--out", folder, "--sizes", "64", "32", "--quick")
    return rows_in(folder), printed, folder


def test_every_candidate_is_timed_at_every_size(quick):
    rows, printed, _ = quick
    names = {row["candidate"] for row in rows}
    assert len(names) == len(rows) / 2 > 20
    assert [row["queries"] for row in rows] == ["32"] * len(names) + ["64"] * len(names)
    for row in rows:
        assert row["note"] == "not installed" or float(row["seconds"]) > 0
        assert row["candidate"] in printed
    assert {float(row["ratio"]) for row in rows if row["candidate"] == "one product"} == {1}


def test_the_recall_loss_has_one_value_however_it_is_computed(quick):
    rows, _, _ = quick
    for size in ("32", "64"):
        values = [
            float(row["value"])
            for row in rows
            if row["queries"] == size and row["candidate"].startswith(("RecallLoss", "definition"))
        ]
        assert len(values) == 12  # closed form, definition, and blackbox where it can be had
        assert values == pytest.approx([values[0]] * 12, rel=1e-5)
        assert values[0] > 0.1


def test_the_plot_is_a_picture(quick):
    assert (quick[2] / "bench_loss.png").read_bytes().startswith(b"\x89PNG")


def test_what_needs_too_much_memory_is_not_started(tmp_path, call_main):
    words = ["--sizes", "256", "--quick", "--memory-gb", "0.002", "--only", "local", "Contrastive"]
    printed = call_main(bench_loss, *WORDS, "--out", tmp_path, *words)
    rows = rows_in(tmp_path)
    assert [row["candidate"] for row in rows] == [
        "one product",
        "RecallLoss local",
        "definition local",
        "ContrastiveLoss",
    ]
    assert [bool(row["seconds"]) for row in rows] == [True, True, False, False]
    assert "needs 0.00629 GB (computed)" in printed


@pytest.mark.slow
def test_the_definition_takes_more_memory_than_the_closed_form(tmp_path):
    words = [*WORDS, "--out", str(tmp_path), "--sizes", "1024", "--only", "std"]
    command = [sys.executable, bench_loss.__file__, *words]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert run.returncode == 0, run.stderr
    peaks = {row["candidate"]: float(row["peak_mib"]) for row in rows_in(tmp_path)}
    assert peaks["definition std"] > 2 * peaks["RecallLoss std"]


def test_there_is_a_table_for_each_class_size_that_divides_the_size_and_each_number_of_threads(tmp_path, call_main):
    words = ["--sizes", "32", "--quick", "--only", "RecallLoss std", "--per-class", "2", "16", "5"]
    printed = call_main(bench_loss, *WORDS, "--out", tmp_path, *words, "--threads", "1", "2")
    rows = rows_in(tmp_path)
    found = [(row["threads"], row["per_class"]) for row in rows if row["candidate"] == "one product"]
    assert found == [("1", "2"), ("1", "16"), ("2", "2"), ("2", "16")]
    assert "16 a class, cpu, threads: 2" in printed
    assert (tmp_path / "bench_loss.png").read_bytes().startswith(b"\x89PNG")
