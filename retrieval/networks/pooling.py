"""Pooling: from the features at every position of an image to one feature vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

POOLINGS = ("avg", "max", "avgmax", "gem", "cls")
SMALLEST = 1e-6  # the generalised mean is of positive numbers: what lies below counts as this


def generalized_mean(features: Tensor, power: Tensor) -> Tensor:
    """The mean of x^p over the positions, to the power 1/p (GeM; Radenović et al., TPAMI 2019).

    Args:
        features: (batch, positions, width); what is below 1e-6, negative numbers too, counts as 1e-6.
        power: p, one number; 1 is the average, towards infinity it becomes the maximum. Below 1 counts as 1.

    Returns:
        (batch, width). It is worked out in float32 at least, autocast or not, and relative to the largest position, so that no
        power of a large or small feature leaves the range of the numbers.
    """
    with torch.autocast(features.device.type, enabled=False):
        wide = features.to(torch.promote_types(features.dtype, torch.float32)).clamp(min=SMALLEST)
        # The mean is homogeneous: the result does not depend on the scale, so neither does the gradient.
        scale = wide.detach().amax(dim=1, keepdim=True)
        power = power.to(wide.dtype).clamp(min=1.0)
        mean = (wide / scale).pow(power).mean(dim=1).pow(1.0 / power)
        return (mean * scale.squeeze(1)).to(features.dtype)


class Pooling(nn.Module):
    """Replaces the pooling of a timm backbone, between its `forward_features` and its `forward_head`.

    Args:
        kind: "avg", "max", "avgmax" (the mean of the two), "gem" (`generalized_mean` with a power that is learned, from 3) or
            "cls" (the class token).
        prefix_tokens: how many tokens stand before those of the positions; only "cls" looks at them.
        channels_last: feature maps are (batch, height, width, channels), as those of Swin.

    Raises:
        ValueError: an unknown kind, or "cls" where there is no class token.
    """

    def __init__(self, kind: str, prefix_tokens: int = 0, *, channels_last: bool = False) -> None:
        super().__init__()
        if kind not in POOLINGS:
            raise ValueError(
                f"pooling is {kind!r}, expected one of {', '.join(POOLINGS)}, or none for the backbone's own"
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
            features: maps (batch, channels, height, width), or (batch, height, width, channels) with `channels_last`; or tokens
                (batch, tokens, channels).

        Returns:
            Features of the same layout, of height and width 1; or the same number of prefix tokens and one more, all alike, so that
            whichever the backbone's own pooling takes, it takes this.
        """
        if features.ndim == 3:
            pooled = features[:, 0] if self.kind == "cls" else self._pool(features[:, self.prefix_tokens :])
            return pooled[:, None].expand(-1, self.prefix_tokens + 1, -1)
        if self.channels_last:
            return self._pool(features.flatten(1, 2))[:, None, None]
        return self._pool(features.flatten(2).transpose(1, 2))[:, :, None, None]

    def _pool(self, positions: Tensor) -> Tensor:
        """(batch, positions, width) to (batch, width)."""
        if self.kind == "gem":
            return generalized_mean(positions, self.power)
        if self.kind == "avg":
            return positions.mean(dim=1)
        if self.kind == "max":
            return positions.amax(dim=1)
        return (positions.mean(dim=1) + positions.amax(dim=1)) / 2
