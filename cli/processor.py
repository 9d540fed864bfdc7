"""Settings of the process that must be made before torch is imported: faster training on a CPU, and quiet connections."""

from __future__ import annotations

import ctypes
import gc
import os
import sys


def prepare() -> None:
    """Makes OpenMP threads wait passively, glibc keep freed memory, and torch log no stack of a connection that was lost.

    Python looks for cycles of objects less often: this takes an eighth of the time of a start, while torch and timm are imported.
    Threads that wait actively take processor time from the data workers; on two cores, training takes twice as long. By default,
    glibc returns every large freed block to the system. Each activation of each step then gets new pages, whose page faults take as
    long as the arithmetic.
    """
    gc.set_threshold(10_000)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # A connection to a lost process is one line of ours. torch would add its own stack.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            largest_mapped, trimmed = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
            library.mallopt(largest_mapped, 0)
            library.mallopt(trimmed, -1)
