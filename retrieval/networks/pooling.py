"""Pooling of the features at all positions of an image into one feature vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

POOLINGS = ("avg", "max", "avgmax", "gem", "cls")
SMALLEST = 1e-6  # the generalised mean needs positive numbers, so smaller ones are clamped to this


def generalized_mean(features: Tensor, power: Tensor) -> Tensor:
    """Returns the mean of x^p over the positions, to the power 1/p (GeM; Radenović et al., TPAMI 2019).

    The computation uses at least float32, under autocast too. Features are divided by their maximum first, so that their powers
    neither overflow nor underflow.

    Args:
        features: (batch, positions, width). Values below 1e-6 are clamped to 1e-6.
        power: p, a single number. 1 gives the average, infinity the maximum. Values below 1 are clamped to 1.

    Returns:
        (batch, width).
    """
    device = "cpu" if features.is_meta else features.device.type  # there is no autocast for the meta device
    with torch.autocast(device, enabled=False):
        wide = features.to(torch.promote_types(features.dtype, torch.float32)).clamp(min=SMALLEST)
        # The mean is homogeneous, so the scale changes neither the result nor the gradient.
        scale = wide.detach().amax(dim=1, keepdim=True)
        power = power.to(wide.dtype).clamp(min=1.0)
        mean = (wide / scale).pow(power).mean(dim=1).pow(1.0 / power)
        return (mean * scale.squeeze(1)).to(features.dtype)


class Pooling(nn.Module):
    """Replaces the pooling of a timm backbone, between its `forward_features` and its `forward_head`.

    Args:
        kind: "avg", "max", "avgmax" (the mean of the two), "gem" (`generalized_mean` with a learned power, initially 3) or "cls"
            (the class token).
        prefix_tokens: Number of tokens before those of the positions. Only "cls" uses them.
        channels_last: Whether feature maps are (batch, height, width, channels), as in Swin.

    Raises:
        ValueError: The kind is unknown, or is "cls" and the backbone has no class token.
    """

    def __init__(self, kind: str, prefix_tokens: int = 0, *, channels_last: bool = False) -> None:
        super().__init__()
        if kind not in POOLINGS:
            raise ValueError(
                f"pooling is {kind!r}, expected one of {', '.join(POOLINGS)}, or null for the backbone's own"
            )
        if kind == "cls" and not prefix_tokens:
            raise ValueError("pooling is 'cls', but the backbone has no class token; use avg, max, avgmax or gem")
        self.kind = kind
        self.prefix_tokens = prefix_tokens
        self.channels_last = channels_last
        if kind == "gem":
            self.power = nn.Parameter(torch.tensor([3.0]))

    def forward(self, features: Tensor) -> Tensor:
        """Pools the positions into one.

        Args:
            features: Feature maps (batch, channels, height, width), or (batch, height, width, channels) with `channels_last`; or
                tokens (batch, tokens, channels).

        Returns:
            Features of the same layout. Feature maps have height and width 1. Tokens are `prefix_tokens + 1` copies of the pooled
            features, so the backbone's own pooling returns them whichever token it takes.
        """
        if features.ndim == 3:
            pooled = features[:, 0] if self.kind == "cls" else self._pool(features[:, self.prefix_tokens :])
            return pooled[:, None].expand(-1, self.prefix_tokens + 1, -1)
        if self.channels_last:
            return self._pool(features.flatten(1, 2))[:, None, None]
        return self._pool(features.flatten(2).transpose(1, 2))[:, :, None, None]

    def _pool(self, positions: Tensor) -> Tensor:
        """Pools (batch, positions, width) to (batch, width)."""
        if self.kind == "gem":
            return generalized_mean(positions, self.power)
        if self.kind == "avg":
            return positions.mean(dim=1)
        if self.kind == "max":
            return positions.amax(dim=1)
        return (positions.mean(dim=1) + positions.amax(dim=1)) / 2
