"""Starting the head of a pretrained backbone from the features of the training images."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

HEAD_STARTS = ("random", "pca", "whiten")

# Added to each direction's second moment, as a multiple of their mean: directions that few images have measured are not blown up.
_SHRINKAGE = 0.3


def start_head(head: nn.Linear, features: Tensor, kind: str) -> None:
    """Sets the weights of a head from features, in place. The bias becomes 0.

    A random head loses part of what the backbone knows. This one starts from the principal directions of the features: the
    eigenvectors `v_i` of their second moments, the largest first, with the eigenvalues `s_i^2`.

    - "random" changes nothing.
    - "pca": row `i` is `v_i`. Vectors then have the angles of the features, up to the directions that are left out.
    - "whiten": row `i` is `v_i / s_i^(1/4)`, with `s_i^2` shrunk towards the mean. Directions that all features share count less.

    Source: Jégou and Chum, "Negative evidences and co-occurrences in image retrieval: the benefit of PCA and whitening", ECCV
    2012, where the exponent is 1. On unseen classes of several data sets, a full whitening lost MAP@R that training did not bring
    back, and so did taking off the mean.

    Args:
        head: The layer from (batch, width) to (batch, dim). Its weights get the variance of a fresh layer, whose learning rate
            then fits. Rows beyond `width` keep a hundredth of their random values.
        features: (n, width) Unit vectors of training images.
        kind: One of `HEAD_STARTS`.

    Raises:
        ValueError: The kind is unknown.
    """
    if kind not in HEAD_STARTS:
        raise ValueError(f"the head's start is {kind!r}, expected one of {', '.join(HEAD_STARTS)}")
    if kind == "random":
        return
    moments = features.T.double() @ features.double() / len(features)
    squares, directions = torch.linalg.eigh(moments.cpu())
    squares, rows = squares.flip(0).clamp(min=0), directions.flip(1).T[: head.out_features]
    # An eigenvector has either sign. The largest entry is made positive.
    rows = rows * rows.gather(1, rows.abs().argmax(dim=1, keepdim=True)).sign()
    if kind == "whiten":
        shrunk = (squares + _SHRINKAGE * squares.mean()).clamp(min=torch.finfo(squares.dtype).tiny)
        rows = rows / shrunk[: len(rows), None] ** 0.125
    rows = rows / (rows.square().mean().sqrt() * math.sqrt(3 * head.in_features))
    with torch.no_grad():
        head.weight[: len(rows)] = rows.to(head.weight)
        head.weight[len(rows) :] *= 0.01  # rows of zeros would have no gradient
        if head.bias is not None:
            head.bias.zero_()
