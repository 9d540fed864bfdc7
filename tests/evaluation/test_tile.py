from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from retrieval.evaluation import tile


@pytest.fixture(params=["compared", "sorted"])
def way(request, monkeypatch):
    monkeypatch.setattr(tile, "COMPARED", 1000 if request.param == "compared" else 0)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("num_limits", [1, 3, 30])
@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (1, 9), (20, 33)])
def test_scores_above_and_within_limits_are_those_that_a_plain_loop_finds(way, shape, num_limits, transposed):
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.integers(-4, 5, shape).astype(np.float32))
    scores[scores == -4] = -torch.inf
    scores = scores.T if transposed else scores
    low = torch.from_numpy(rng.integers(-5, 6, (num_limits, len(scores))).astype(np.float32))
    high = low + 1
    low[0, 0] = high[0, 0] = torch.inf  # as where a query has no more relevant items
    before = scores.clone()
    above, within = tile.count_above(scores, torch.full((scores.numel(),), torch.nan), low, high)
    for limit, row in np.ndindex(num_limits, len(scores)):
        assert above[limit, row] == sum(score > high[limit, row] for score in scores[row])
        assert within[limit, row] == any(low[limit, row] < score <= high[limit, row] for score in scores[row])
    assert above.shape == within.shape == low.shape
    assert_array_equal(scores, before)
