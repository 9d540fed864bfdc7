from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys
from retrieval.cli import processor
if sys.argv[1] == "prepared":
    processor.prepare()
import torch
for _ in range(20):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_used_again_without_page_faults():
    def faults(word: str) -> int:
        command = [sys.executable, "-c", CODE, word]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("plain") - faults("prepared") > 10 * 2**26 / 4096  # of the 20 x 16,384 pages written
