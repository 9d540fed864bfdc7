from __future__ import annotations

import pytest
import torch

from retrieval.losses.running_softmax import RunningSoftmax


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sharpness", [0.01, 1.0, 1000.0])
def test_columns_that_come_some_at_a_time_have_the_weights_that_they_have_together(sharpness, dtype):
    scores = torch.randn(7, 40, generator=torch.Generator().manual_seed(0), dtype=dtype)
    each = torch.full((7,), sharpness, dtype=dtype)
    running = RunningSoftmax(each)
    for columns in scores.split(11, dim=1):
        running.add(running.partial(columns))
    expected = (each[:, None] * scores).softmax(dim=1)
    near = {"rtol": 1e-3, "atol": 1e-6} if dtype == torch.float32 else {}  # the rounding of a logit of 1,000
    torch.testing.assert_close(running.weights(scores), expected, **near)
    torch.testing.assert_close(running.weights(scores, -2 * each), -2 * each[:, None] * expected, **near)
    torch.testing.assert_close(running.mean(), (expected * scores).sum(dim=1), **near)
    others = torch.tensor([-9.0, 0.3, 9.0], dtype=dtype)
    together = torch.cat([scores[:, None].expand(-1, 3, -1), others.expand(7, 3)[..., None]], dim=2)
    own = (each[:, None, None] * together).softmax(dim=2)[..., -1]
    torch.testing.assert_close(running.weight_beside(others.expand(7, 3)), 1 - own, **near)
    again = RunningSoftmax(each, running.state)
    assert torch.equal(again.weights(scores), running.weights(scores))


def test_the_lowest_numbers_there_are_weigh_nothing_and_do_no_harm():
    lowest = torch.finfo(torch.float32).min
    scores = torch.tensor([[lowest, 0.3, lowest, 0.5], [lowest] * 4])
    running = RunningSoftmax(torch.ones(2))
    for columns in scores.split(1, dim=1):
        running.add(running.partial(columns))
    weights = running.weights(scores)
    torch.testing.assert_close(weights[0, [1, 3]], scores[0, [1, 3]].softmax(dim=0))
    assert weights[0, [0, 2]].eq(0).all()
    assert weights.isfinite().all()
    assert running.weight_beside(torch.tensor([[-9e9], [-9e9]])).tolist() == [[1.0], [0.0]]
