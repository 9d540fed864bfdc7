from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import reducers

from retrieval.losses import RamboLoss, RecallLoss, rambo_loss
from retrieval.solvers import Blackbox

LABELS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 7, 2, 2, 2])
LOSSES = {
    "rambo": RamboLoss,
    "blackbox": lambda **options: RecallLoss(gradient="blackbox", noise=0, **options),
    "another lambda": lambda **options: RecallLoss("none", gradient=Blackbox(9.0), noise=0, **options),
}


def embeddings() -> torch.Tensor:
    return torch.randn(11, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)


def gradient(loss: torch.nn.Module, factor: float = 1) -> torch.Tensor:
    inputs = embeddings()
    (factor * loss(inputs, LABELS)).backward()
    return inputs.grad


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("factor", [1e-3, 0.25, 3, 65536])
def test_a_factor_of_the_loss_is_a_factor_of_the_gradient(name, factor):
    expected = gradient(LOSSES[name]())
    assert expected.any()
    torch.testing.assert_close(gradient(LOSSES[name](), factor), factor * expected)


@pytest.mark.parametrize("name", LOSSES)
def test_the_sum_and_weighted_classes_pull_as_the_mean_does(name):
    expected = gradient(LOSSES[name]())
    torch.testing.assert_close(gradient(LOSSES[name](reducer=reducers.SumReducer())), 10 * expected)
    weights = torch.full((8,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(gradient(LOSSES[name](reducer=reducers.ClassWeightedReducer(weights))), 0.5 * expected)


def test_each_query_has_a_factor_of_its_own():
    scores = torch.randn(3, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    relevant = torch.arange(9) < torch.tensor([[2], [0], [3]])  # the second query does not count
    factors = torch.tensor([1.0, 5.0, -2.0], dtype=torch.float64)

    def of(factors: torch.Tensor) -> torch.Tensor:
        losses = rambo_loss(scores, relevant, lambda_=20.0, reduction="none")
        return torch.autograd.grad((losses * factors).sum(), scores)[0]

    each = of(torch.ones_like(factors))
    assert each[0].any()
    assert each[2].any()
    torch.testing.assert_close(of(factors), factors[:, None] * each)
    (mean,) = torch.autograd.grad(rambo_loss(scores, relevant, lambda_=20.0), scores)
    torch.testing.assert_close(each, 2 * mean)


def test_a_second_backward_pass_gives_the_same():
    inputs = embeddings()
    loss = RamboLoss()(inputs, LABELS)
    first, second = (torch.autograd.grad(loss, inputs, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
