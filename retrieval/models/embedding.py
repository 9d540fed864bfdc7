"""Embedding many images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn


def embed(model: nn.Module, batches: Iterable[Tensor]) -> np.ndarray:
    """Embeds batches of images in evaluation mode, in order.

    Args:
        model: images (batch, 3, height, width) to vectors (batch, dim).
        batches: image tensors on any device.

    Returns:
        (num_images, dim) float32.
    """
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        vectors = [model(images.to(device, non_blocking=True)).float().cpu() for images in batches]
    return torch.cat(vectors).numpy()
