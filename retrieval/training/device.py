"""The device of a model."""

from __future__ import annotations

import torch

from retrieval.errors import ConfigError


def pick_device(name: str | torch.device) -> torch.device:
    """Returns the device of a name. "auto" is the first CUDA GPU, or the CPU if there is none.

    Raises:
        ConfigError: The device is not available on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):  # torch raises AssertionError if it was built without CUDA
        device = torch.device("meta")
    if device.type == "meta":  # meta tensors have no data
        known = "auto, cpu or cuda" if torch.cuda.is_available() else "auto or cpu"
        raise ConfigError(f"device: {str(name)!r} is not available on this machine; use {known}")
    return device
