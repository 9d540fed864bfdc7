from __future__ import annotations

import sys

import pytest
from forked import Program

CODE = """
import resource, sys, torch
from retrieval.cli import processor
if sys.argv[1] == "prepared":
    processor.prepare()
for _ in range(20):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_used_again_without_page_faults(tmp_path):
    def faults(word: str) -> int:
        with Program(tmp_path, CODE, word) as program:
            assert program.wait() == 0
        return int(program.stdout)

    assert faults("plain") - faults("prepared") > 10 * 2**26 / 4096  # of the 20 x 16,384 pages written
