from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys
from retrieval.cli import processor
if sys.argv[1] == "prepared":
    processor.prepare()
{load}
for _ in range(20):
    {make}
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
@pytest.mark.parametrize(
    ("load", "make"), [("", "b'1' * 2**26"), pytest.param("import torch", "torch.ones(2**24)", marks=pytest.mark.slow)]
)
def test_freed_memory_is_used_again_without_page_faults(load, make):
    def faults(word: str) -> int:
        command = [sys.executable, "-c", CODE.format(load=load, make=make), word]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("plain") - faults("prepared") > 10 * 2**26 / 4096  # of the 20 x 16,384 pages written
