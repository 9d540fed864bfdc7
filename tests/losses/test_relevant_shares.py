"""The options "relevant_temperature" and "spreading" of the recall loss."""

from __future__ import annotations

import pytest
import torch
from losses.test_closed_form import TOLERANCE, assert_close, both, numbers, small_tiles, unit  # noqa: F401

from retrieval import RecallLoss, recall_loss
from retrieval.losses.recall import PROJECTIONS
from retrieval.solvers import standardize


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize(
    "case", ["unequal sizes and a lone label", "separate references", "many tiles", "large classes", "one query"]
)
def test_closed_form_and_definition_agree(case, projection, dtype):
    spreading = 0.3 if PROJECTIONS[projection] is standardize else 0.0
    options = {"relevant_temperature": 0.7, "spreading": spreading, "noise": 0, "projection": projection}
    assert_close(*both(case, dtype, **options), dtype)


def loss_of(scores: torch.Tensor, relevant: torch.Tensor, **options) -> torch.Tensor:
    return recall_loss(scores, relevant, weighting="linear", noise=0, reduction="none", **options)


def test_the_shares_are_a_softmax_in_standard_deviations():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]], dtype=torch.float64)
    relevant = torch.tensor([[False, True, False, True]])  # with 1 and 2 intruders
    shares = (scores[0, [1, 3]] / (0.5 * scores.std(correction=0))).softmax(0)
    found = loss_of(scores, relevant, relevant_temperature=0.5)
    torch.testing.assert_close(found, (shares @ torch.tensor([1.0, 2.0], dtype=torch.float64))[None])


def test_between_the_nearest_and_the_mean():
    scores = torch.randn(5, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    relevant = torch.arange(20) < 4
    relevant = relevant.expand(5, 20)
    above = (scores[:, None, 4:] >= scores[:, :4, None]).sum(2)
    nearest = loss_of(scores, relevant, relevant_temperature=1e-6)
    assert nearest.tolist() == above.amin(1).tolist()  # 0 exactly if recall@1 is a hit
    torch.testing.assert_close(loss_of(scores, relevant, relevant_temperature=1e9), loss_of(scores, relevant))


def test_equal_scores_share_alike():
    scores, relevant = torch.full((2, 6), 0.3), (torch.arange(6) < 2).expand(2, 6)
    assert loss_of(scores, relevant, relevant_temperature=0.5).tolist() == [4, 4]


def test_spreading_keeps_a_share_of_the_gradient_along_the_scores():
    scores = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pull = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    centered = scores - scores.mean(1, keepdim=True)
    norm = centered.norm(dim=1, keepdim=True)
    inside = pull - pull.mean(1, keepdim=True)
    for share in (0.0, 0.25, 1.0):
        inputs = scores.clone().requires_grad_()
        found = standardize(inputs, spreading=share)
        torch.testing.assert_close(found, centered / norm)
        (found * pull).sum().backward()
        along = (inside * centered).sum(1, keepdim=True) / norm
        torch.testing.assert_close(inputs.grad, (inside - (1 - share) * along * centered / norm) / norm)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relevant_temperature": 0.0}, "relevant_temperature is 0.0, expected at least 1e-06"),
        ({"spreading": 1.5}, "spreading is 1.5, expected 0 to 1"),
        ({"projection": "mean", "spreading": 0.5}, "projection 'mean' has no spreading; choose 'std', 'local' or"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RecallLoss(**options)


def test_float16_scores_and_a_query_without_relevant_references_are_finite():
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    embeddings = unit(6).float().requires_grad_()
    RecallLoss("softmax", relevant_temperature=0.01, spreading=0.5)(embeddings, labels).backward()
    assert embeddings.grad.isfinite().all()
