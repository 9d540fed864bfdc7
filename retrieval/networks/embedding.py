"""Embeds batches of images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.networks.folding import fold_batchnorm

PIECE = 8  # images that pass a network at a time on a CPU, whose cache holds what its layers make of them


def embed(network: Any, batches: Iterable[Tensor], *, autocast: bool = False, fold: bool = False) -> np.ndarray:
    """Embeds batches of images in evaluation mode, in order.

    Args:
        network: A function or module from images (batch, 3, height, width) to vectors (batch, dim).
        batches: Image tensors on any device. On a CPU, a batch passes the network a few images at a time.
        autocast: Whether to compute in bfloat16 where autocast considers it safe. It is faster on hardware with bfloat16. The
            vectors change in the third digit.
        fold: Whether BatchNorm layers are folded into the convolutions before them; see `fold_batchnorm`. It takes the time of
            a few images, and makes all others faster.

    Returns:
        (num_images, dim) float32.

    Raises:
        ValueError: There is no batch, or the network does not return one vector for each image.
    """
    device = device_of(network)
    if isinstance(network, nn.Module) and network.training:
        network.eval()
    dtype = _dtype_of(network)
    vectors = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        for images in batches:
            images = images.to(device, dtype, non_blocking=True)
            if fold:
                network, fold = fold_batchnorm(network, images), False
            for piece in images.split(PIECE if device.type == "cpu" else max(1, len(images))):
                made = network(piece)
                if not isinstance(made, Tensor) or made.ndim != 2 or len(made) != len(piece):
                    shape = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
                    raise ValueError(
                        f"the network returns {shape} for {len(piece)} images, expected ({len(piece)}, dimension)"
                    )
                vectors.append(made.float().cpu())
    if not vectors:
        raise ValueError("no batch of images to embed; give at least one")
    return torch.cat(vectors).numpy()


def device_of(network: Any) -> torch.device:
    """The device of a network's parameters, or the CPU if it has none."""
    parameters = network.parameters() if isinstance(network, nn.Module) else ()
    return next((parameter.device for parameter in parameters), torch.device("cpu"))


def _dtype_of(network: Any) -> torch.dtype:
    """The floating-point type of a network's parameters, which its input must have; float32 if it has none."""
    parameters = network.parameters() if isinstance(network, nn.Module) else ()
    return next((item.dtype for item in parameters if item.is_floating_point()), torch.float32)
