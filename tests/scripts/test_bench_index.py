"""The benchmark of the index runs on a small one."""

from __future__ import annotations

import argparse
import sys

import bench_index
import numpy as np
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc"),
]


def test_every_step_of_the_benchmark_runs(tmp_path, monkeypatch, call_main):
    steps = vars(bench_index)
    # In this process: each of the processes would import torch.
    monkeypatch.setattr(
        bench_index, "child", lambda options, step: bench_index.measured(steps[f"step_{step}"], options)
    )
    words = ["--vectors", "20000", "--rerank", "600", "--sample", "100", "--type", "IVF8,PQ16x4", "--folder", tmp_path]
    printed = call_main(bench_index, *words)
    assert printed.count(" of them in place of old ones") == 2
    assert printed.count(", 0 of them in place of old ones") == 2
    for name in ("index made of them", "opened, and one query, cold", "recall of 100 queries", "with re-ranking"):
        assert name in printed
    assert list(tmp_path.iterdir()) == []


def test_a_step_runs_in_a_process_of_its_own(tmp_path):
    options = argparse.Namespace(vectors=50, dimension=4, rerank=0, sample=1, type="", folder=tmp_path)
    result = bench_index.child(options, "source")
    assert result["seconds"] > 0
    assert result["imports"] > 2**20
    assert np.load(tmp_path / "vectors.npy").shape == (50, 4)
