from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import reducers
from reference import plain_recall_loss

from retrieval.losses.rambo import RamboLoss, rambo_loss

LABELS = {
    "3 classes of 4": [0] * 4 + [1] * 4 + [2] * 4,
    "5 classes of 2, shuffled": [3, 1, 4, 0, 2, 2, 0, 1, 3, 4],
    "unequal sizes and a lone label": [0, 0, 0, 0, 0, 1, 1, 7, 2, 2, 2],
    "one class only": [5] * 6,
    "lone labels only": [0, 1, 2],
}


def batch(labels: list[int], dim: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    embeddings = torch.randn(len(labels), dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(embeddings, dim=1), torch.tensor(labels)


def masks(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    same = labels[:, None] == labels[None, :]
    return same & ~torch.eye(len(labels), dtype=torch.bool), ~same


@pytest.mark.parametrize("margin", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_the_value_equals_counting_intruders_within_the_margin_one_by_one(labels, margin):
    embeddings, targets = batch(labels)
    scores, (relevant, irrelevant) = embeddings @ embeddings.T, masks(targets)
    expected = plain_recall_loss(scores + margin * irrelevant, relevant, irrelevant, "loglog")
    assert rambo_loss(scores, relevant, irrelevant, margin=margin).item() == pytest.approx(expected, abs=1e-12)
    assert RamboLoss(margin)(embeddings, targets).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_the_gradient_is_the_difference_of_two_rankings_query_by_query(labels):
    embeddings, targets = batch(labels)
    scores, (relevant, irrelevant) = (embeddings @ embeddings.T).requires_grad_(), masks(targets)
    margin, lambda_ = 0.1, 2.0
    loss = rambo_loss(scores, relevant, irrelevant, margin=margin, lambda_=lambda_)
    (gradient,) = torch.autograd.grad(loss, scores)

    expected = torch.zeros_like(scores)
    queries = int(relevant.any(dim=1).sum())
    for i, row in enumerate(scores.detach()):
        inside = torch.where(relevant[i] | irrelevant[i])[0].tolist()
        shifted = {j: row[j].item() + (margin / 2 if irrelevant[i, j] else -margin / 2) for j in inside}
        moved = dict(shifted)
        for p in inside:
            if relevant[i, p]:
                r = sum(bool(irrelevant[i, j]) and shifted[j] > shifted[p] for j in inside)
                slope = torch.tensor(float(r), dtype=torch.float64, requires_grad=True)
                torch.log1p(torch.log1p(slope)).backward()
                # Ranks divided by the number of references, as published: the gradient there is as many times larger.
                moved[p] += lambda_ * len(row) * slope.grad.item() / int(relevant[i].sum()) / queries
        for j in inside:
            before = sum(shifted[other] > shifted[j] for other in inside) / len(row)
            after = sum(moved[other] > moved[j] for other in inside) / len(row)
            expected[i, j] = (after - before) / lambda_
    torch.testing.assert_close(gradient, expected)
    if queries and irrelevant.any():
        assert gradient.ne(0).any()


def test_items_in_neither_mask_change_nothing_and_receive_no_gradient():
    scores = torch.tensor([[0.5, 0.7, 0.3, 9.0]], requires_grad=True)
    relevant = torch.tensor([[True, False, False, False]])
    irrelevant = torch.tensor([[False, True, True, False]])
    loss = rambo_loss(scores, relevant, irrelevant)
    (gradient,) = torch.autograd.grad(loss, scores)
    torch.testing.assert_close(loss, rambo_loss(scores[:, :3], relevant[:, :3]))
    assert gradient[0, 3] == 0
    assert gradient[0, 0] < 0 < gradient[0, 1]


def test_queries_without_a_relevant_item_do_not_count():
    scores = torch.tensor([[0.1, 0.9], [0.3, 0.2]])
    relevant = torch.tensor([[True, False], [False, False]])
    losses = rambo_loss(scores, relevant, reduction="none")
    assert losses[0] == rambo_loss(scores, relevant) > 0
    assert losses[1] == 0
    assert rambo_loss(scores, torch.zeros_like(relevant)) == 0
    out = RamboLoss(reducer=reducers.DoNothingReducer())(*batch(LABELS["unequal sizes and a lone label"]))
    assert out["loss"]["indices"].tolist() == [i for i in range(11) if i != 7]


def test_gradient_descent_on_free_embeddings_reaches_a_perfect_ranking():
    embeddings, targets = batch([i // 4 for i in range(40)], dim=16)
    free = embeddings.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        RamboLoss()(free, targets).backward()
        optimizer.step()
    assert RamboLoss()(free, targets) < 0.01 < RamboLoss()(embeddings, targets)


def test_wrong_arguments_are_named():
    scores, relevant = torch.zeros(1, 2), torch.tensor([[True, False]])
    for call in (lambda **options: rambo_loss(scores, relevant, **options), RamboLoss):
        with pytest.raises(ValueError, match="margin is -1, expected at least 0"):
            call(margin=-1)
        with pytest.raises(ValueError, match="expected above 0"):
            call(lambda_=0.0)
