"""Embedding many images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn


def embed(model: nn.Module, batches: Iterable[Tensor], *, autocast: bool = False) -> np.ndarray:
    """Embeds batches of images in evaluation mode, in order.

    Args:
        model: images (batch, 3, height, width) to vectors (batch, dim).
        batches: image tensors on any device.
        autocast: compute in bfloat16 where that is safe: faster where the processor has it; the vectors change in the third digit.

    Returns:
        (num_images, dim) float32.

    Raises:
        ValueError: there is no batch.
    """
    device = next(model.parameters()).device
    model.eval()
    vectors = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        for images in batches:
            vectors.append(model(images.to(device, non_blocking=True)).float().cpu())
    if not vectors:
        raise ValueError("no batch of images to embed; give one at least")
    return torch.cat(vectors).numpy()
