"""Bundles altered at random, opened and searched: none crashes the process, none changes what is found in silence."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from index.altered_bundles import alter_bundles

from retrieval.files import blocks

PROGRAM = """
import sys
from index.altered_bundles import alter_bundles
from retrieval.files import blocks
for block in (2**23, 256):
    blocks.BLOCK = block
    print(*alter_bundles(*map(int, sys.argv[1:])))
"""


def check(figures: tuple[int, ...], count: int) -> None:
    refused, same, forged = figures
    assert refused + same + forged == count
    assert refused > count / 2


@pytest.mark.slow
@pytest.mark.parametrize("block", [2**23, 256], ids=["files", "blocks"])
def test_no_altered_bundle_crashes_or_deceives(monkeypatch, block):
    monkeypatch.setattr(blocks, "BLOCK", block)  # with small ones, files are mapped and checked when they are used
    check(alter_bundles(0, 60), 60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "count", "options"), [(0, 60, ["-O"]), (1, 1000, [])], ids=["without assertions", "two thousand"]
)
def test_no_altered_bundle_crashes_a_process_or_deceives(seed, count, options):
    command = [sys.executable, *options, "-W", "error", "-c", PROGRAM, str(seed), str(count)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800, env=environment)
    assert done.returncode == 0, done.stderr[-1000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        check(tuple(map(int, line.split())), count)
