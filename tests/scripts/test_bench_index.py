"""The benchmark of the index runs on a small one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_index.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
def test_every_step_of_the_benchmark_runs(tmp_path):
    words = ["--vectors", "20000", "--rerank", "600", "--sample", "100", "--type", "IVF8,PQ16x4", "--folder", tmp_path]
    done = subprocess.run([sys.executable, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" of them in place of old ones") == 2
    assert done.stdout.count(", 0 of them in place of old ones") == 2
    for name in ("index made of them", "opened, and one query, cold", "recall of 100 queries", "with re-ranking"):
        assert name in done.stdout
    assert list(tmp_path.iterdir()) == []
