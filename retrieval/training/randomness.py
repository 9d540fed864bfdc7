"""Random numbers as a function of seeds, so that a resumed run, a second pass or another process needs no stored state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(device: torch.device, *numbers: int) -> Iterator[None]:
    """A context in which torch's random numbers depend on `numbers` only. The previous random state is restored at the end.

    Args:
        device: A device that generates random numbers, besides the CPU.
        *numbers: Numbers from 0, e.g. a seed and a step.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))
        yield
