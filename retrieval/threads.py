"""Threads of Python for work on tiles, each of which runs torch on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import torch


@contextmanager
def single_threads() -> Iterator[ThreadPoolExecutor]:
    """Makes a pool with as many threads as torch uses. In each of them torch runs on one thread.

    The steps on a tile or a block are too short to be shared: torch's threads would mostly wait for one another.
    """
    number = torch.get_num_threads()
    ready = Barrier(number + 1, timeout=60)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # fixes the number for this thread, whatever other threads set
        ready.wait()

    with ThreadPoolExecutor(number, initializer=begin) as pool:
        try:
            for _ in range(number):
                pool.submit(torch.get_num_threads)  # a pool starts a thread for a task
            ready.wait()
        finally:
            torch.set_num_threads(number)  # a number that a thread sets also applies to threads that start later
        yield pool
