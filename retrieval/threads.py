"""Threads of Python for work on tiles, each of which runs torch on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import torch

Each = Callable[[Callable[[int, int], None], Iterable[tuple[int, int]]], None]  # does the work for each pair of numbers


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


@contextmanager
def workers(*, alone: bool = False) -> Iterator[Each]:
    """Gives a function that does some work for each of some pairs of numbers, without gradients if on several threads.

    Args:
        alone: in this thread only.
    """
    if alone or torch.get_num_threads() == 1:

        def each(work: Callable[[int, int], None], pairs: Iterable[tuple[int, int]]) -> None:
            for pair in pairs:
                work(*pair)

        yield each
        return
    inference = torch.is_inference_mode_enabled()  # these modes belong to a thread
    with single_threads() as pool:

        def each_on_threads(work: Callable[[int, int], None], pairs: Iterable[tuple[int, int]]) -> None:
            def work_in_mode(pair: tuple[int, int]) -> None:
                with torch.inference_mode(inference), torch.no_grad():
                    work(*pair)

            list(pool.map(work_in_mode, pairs))

        yield each_on_threads
