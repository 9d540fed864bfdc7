from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import retrieval
from retrieval.errors import RetrievalError
from retrieval.model import onnx


def test_other_neighbours_are_refused_but_where_two_are_as_near():
    def at(*angles: float) -> np.ndarray:
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    onnx._require_same_neighbours(at(0, 0.1, 0.19999, 0.6), at(0, 0.1, 0.20001, 0.6), k=1)
    vectors, expected = at(0, 0.1, 0.15, 0.6), at(0, 0.1, 0.3, 0.6)  # the nearest of 0.1
    with pytest.raises(RetrievalError, match="onnxruntime finds other neighbours of image 1 than torch"):
        onnx._require_same_neighbours(vectors, expected, k=1)


class Scaled(nn.Module):
    """A network whose vectors are multiples of those of a linear layer."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 4)
        self.factor = factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1)) * self.factor


@pytest.mark.parametrize(("factor", "difference"), [(0.0, "nan"), (float("nan"), "nan"), (1e-15, None), (1e15, None)])
def test_a_network_whose_vectors_have_no_direction_is_not_exported(tmp_path, factor, difference):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    preparation: dict[str, Any] = {"resize": 8, "size": 8, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    model = retrieval.Model(Scaled(factor), retrieval.Preprocessing(**preparation))
    if difference is None:
        assert model.export_onnx(tmp_path / "m.onnx")["largest_difference"] < 1e-4
    else:
        with pytest.raises(RetrievalError, match=f"vectors differ from torch's by {difference}, more than 0.0001"):
            model.export_onnx(tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").exists() == (difference is None)
