from __future__ import annotations

import pytest
import torch

from retrieval.losses import tile as tiles
from retrieval.losses.tile import count_reached, transposed, weigh_reached


def inputs(dtype: torch.dtype, num_limits: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A tile with ties, zeros of both signs and entries that take no part; limits that are reached exactly, and empty ones."""
    generator = torch.Generator().manual_seed(0)
    tile = (
        torch.randint(-5, 6, (9, 20), generator=generator).to(dtype)
        / 4
        * torch.tensor([1.0, -1.0], dtype=dtype).repeat(10)
    )
    limits = torch.randint(-6, 7, (9, num_limits), generator=generator).to(dtype) / 4
    tile[:, 3:5] = torch.finfo(dtype).min
    limits[2, num_limits // 2 :] = torch.inf
    return tile, limits, torch.randn(9, num_limits, generator=generator, dtype=dtype)


@pytest.mark.parametrize("compared", [0, 100], ids=["sorted", "compared"])
@pytest.mark.parametrize("num_limits", [1, 7, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("turned", [False, True])
def test_limits_are_reached_as_by_comparing_all_pairs(monkeypatch, compared, num_limits, dtype, turned):
    monkeypatch.setattr(tiles, "COMPARED", compared)
    monkeypatch.setattr(tiles, "SORTED", 100)  # some rows at a time
    tile, limits, weights = inputs(dtype, num_limits)
    if turned:
        tile = transposed(tile.T.contiguous(), num_limits)
    reached = tile[:, None, :] >= limits[:, :, None]
    counts, sums = count_reached(tile, limits, sums=num_limits)
    assert torch.equal(counts, reached.sum(2).to(dtype))
    expected = (reached * tile.clamp(min=-9)[:, None, :]).sum(2)
    torch.testing.assert_close(sums, expected)
    assert count_reached(tile, limits)[1].shape == (9, 0)
    last = count_reached(tile, limits, sums=1)[1]
    torch.testing.assert_close(last, expected[:, -1:])
    torch.testing.assert_close(weigh_reached(tile, limits, weights), (reached * weights[:, :, None]).sum(1))


def test_of_zeros_the_sign_does_not_matter():
    tile, limits = torch.tensor([[-0.0, 0.0]]), torch.zeros(1, 30)
    assert count_reached(tile, limits)[0].eq(2).all()
