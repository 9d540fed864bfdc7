"""Randomness as a function of numbers: a resumed run, a second pass and another process need no stored state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(device: torch.device, *numbers: int) -> Iterator[None]:
    """Within the block, torch's random numbers depend on `numbers` alone; afterwards they go on as if it had not been.

    Args:
        device: where random numbers are drawn, besides the CPU.
        *numbers: not negative, e.g. a seed and a step.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))
        yield
