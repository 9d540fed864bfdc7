"""Embeds batches of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.networks.folding import fold_batchnorm
from retrieval.networks.runtime import on_onnxruntime

PIECE = 8  # images that pass a network at a time on a CPU, whose cache holds what its layers make of them


MANY = 256  # images after which a convolutional network goes on with onnxruntime


def embed(
    network: Any,
    batches: Iterable[Tensor],
    *,
    autocast: bool = False,
    fold: bool = False,
    note: Callable[[str], None] = lambda runtime: None,
) -> np.ndarray:
    """Embeds batches of images in evaluation mode, in order.

    Args:
        network: A function or module from images (batch, 3, height, width) to vectors (batch, dim).
        batches: Image tensors on any device. On a CPU, a batch passes the network a few images at a time.
        autocast: Whether to compute in bfloat16 where autocast considers it safe. It is faster on hardware with bfloat16. The
            vectors change in the third digit.
        fold: Whether BatchNorm layers are folded into the convolutions before them; see `fold_batchnorm`. It takes the time of
            a few images, and makes all others faster. On a CPU, a network with such layers then goes on with onnxruntime after 256
            images; see `on_onnxruntime`.
        note: Called with "onnxruntime" when that is so.

    Returns:
        (num_images, dim) float32.

    Raises:
        ValueError: There is no batch, or the network does not return one vector for each image.
    """
    device = device_of(network)
    if isinstance(network, nn.Module) and network.training:
        network.eval()
    dtype = _dtype_of(network)
    vectors: list[Tensor] = []
    is_folded, count = False, 0
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        for images in batches:
            images = images.to(device, dtype, non_blocking=True)
            if fold:
                given, fold = network, False
                network = fold_batchnorm(given, images)
                is_plain = device.type == "cpu" and dtype == torch.float32 and not autocast
                is_folded = network is not given and is_plain
            if is_folded and count >= MANY:
                is_folded = False
                if (run := on_onnxruntime(network, images)) is not None:
                    network = run
                    note("onnxruntime")
            count += len(images)
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
