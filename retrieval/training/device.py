"""The device of a model."""

from __future__ import annotations

import torch

from retrieval.errors import ConfigError


def pick_device(name: str | torch.device) -> torch.device:
    """The device of that name; "auto" is the first CUDA GPU if there is one, else the CPU.

    Raises:
        ConfigError: The device is not available on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):  # torch asserts that it was compiled with CUDA
        device = torch.device("meta")
    if device.type == "meta":  # its tensors hold no numbers
        known = "auto, cpu or cuda" if torch.cuda.is_available() else "auto or cpu"
        raise ConfigError(f"device: {str(name)!r} is not available on this machine; use {known}")
    return device
