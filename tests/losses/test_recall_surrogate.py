from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import reducers
from reference import plain_recall_surrogate_loss
from torch.autograd import gradcheck

from retrieval.losses.recall_surrogate import RecallSurrogateLoss, recall_surrogate_loss

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


@pytest.mark.parametrize("count_query", [False, True])
@pytest.mark.parametrize(("tau_k", "tau_rank"), [(1.0, 0.01), (0.3, 0.2)])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_the_value_equals_a_loop_over_queries_cut_offs_items_and_competitors(labels, tau_k, tau_rank, count_query):
    embeddings, targets = batch(labels)
    scores, (relevant, irrelevant) = embeddings @ embeddings.T, masks(targets)
    ks = (1, 2, 8)
    competitors = torch.ones_like(relevant) if count_query else relevant | irrelevant
    expected = plain_recall_surrogate_loss(scores, relevant, competitors, ks, tau_k, tau_rank)
    options = {"ks": ks, "tau_k": tau_k, "tau_rank": tau_rank, "count_query": count_query}
    value = recall_surrogate_loss(scores, relevant, irrelevant, **options)
    assert value.item() == pytest.approx(expected, abs=1e-12)
    module = RecallSurrogateLoss(**options)(embeddings, targets)
    assert module.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("ks", "count_query", "expected"),
    [
        ((1,), True, 0.5644),
        ((1, 2, 4, 8, 16), True, 0.2851),
        ((1,), False, 0.1119),
        ((1, 2, 4, 8, 16), False, 0.1021),
    ],
)
def test_a_perfect_well_separated_ranking_has_the_published_codes_value_or_the_corrected_one(ks, count_query, expected):
    classes, angles = 8, torch.tensor([-0.9, -0.4, 0.3, 0.85])  # no two items of a class equally far from a third
    embeddings = torch.zeros(classes * 4, classes * 2)
    for c in range(classes):
        embeddings[c * 4 : c * 4 + 4, 2 * c] = (angles / 2).cos()
        embeddings[c * 4 : c * 4 + 4, 2 * c + 1] = (angles / 2).sin()
    targets = torch.arange(classes).repeat_interleave(4)
    loss = RecallSurrogateLoss(ks, tau_k=1.0, tau_rank=1e-4, count_query=count_query)(embeddings, targets)
    assert loss.item() == pytest.approx(expected, abs=5e-5)


def test_small_temperatures_give_the_share_of_relevant_items_that_could_be_and_are_in_the_first_k():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5]])
    relevant = torch.tensor([[True, False, True, False, True]])
    for k, recall in ((1, 1 / 1), (2, 1 / 2), (3, 2 / 3), (5, 3 / 3)):
        # An item at rank k stands on the cut-off itself, where the sigmoid is at 1/2.
        loss = recall_surrogate_loss(scores, relevant, ks=(k,), tau_k=1e-3, tau_rank=1e-5)
        half = 0.5 / min(k, 3) if relevant[0, k - 1] else 0.0
        assert loss.item() == pytest.approx(1 - (recall - half), abs=1e-5)


@pytest.mark.parametrize("count_query", [False, True])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_the_derivative_is_right(labels, count_query):
    embeddings, targets = batch(labels)
    scores, (relevant, irrelevant) = (embeddings @ embeddings.T).requires_grad_(), masks(targets)
    options = {"ks": (1, 3), "tau_rank": 0.2, "count_query": count_query, "reduction": "none"}
    assert gradcheck(lambda s: recall_surrogate_loss(s, relevant, irrelevant, **options), (scores,))


def test_each_cut_off_may_have_its_own_temperature():
    embeddings, targets = batch(LABELS["3 classes of 4"])
    scores, (relevant, irrelevant) = embeddings @ embeddings.T, masks(targets)
    one = recall_surrogate_loss(scores, relevant, irrelevant, ks=(2,), tau_k=2.0)
    other = recall_surrogate_loss(scores, relevant, irrelevant, ks=(4,), tau_k=0.5)
    both = recall_surrogate_loss(scores, relevant, irrelevant, ks=(2, 4), tau_k=(2.0, 0.5))
    torch.testing.assert_close(both, (one + other) / 2)


def test_items_in_neither_mask_compete_only_when_the_query_is_counted():
    scores = torch.tensor([[0.5, 0.7, 0.3, 0.9]], requires_grad=True)
    relevant = torch.tensor([[True, False, False, False]])
    irrelevant = torch.tensor([[False, True, True, False]])
    for count_query in (False, True):
        loss = recall_surrogate_loss(scores, relevant, irrelevant, tau_rank=0.2, count_query=count_query)
        (gradient,) = torch.autograd.grad(loss, scores)
        assert bool(gradient[0, 3] != 0) is count_query


def test_queries_without_a_relevant_item_do_not_count():
    scores = torch.tensor([[0.1, 0.9], [0.3, 0.2]])
    relevant = torch.tensor([[True, False], [False, False]])
    losses = recall_surrogate_loss(scores, relevant, reduction="none")
    assert losses[0] == recall_surrogate_loss(scores, relevant) > 0
    assert losses[1] == 0
    out = RecallSurrogateLoss(reducer=reducers.DoNothingReducer())(*batch(LABELS["unequal sizes and a lone label"]))
    assert out["loss"]["indices"].tolist() == [i for i in range(11) if i != 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ks": ()}, "expected cut-offs of at least 1"),
        ({"ks": (0, 1)}, r"ks is \(0, 1\), expected cut-offs of at least 1"),
        ({"tau_k": 0.0}, "tau_k is 0.0, expected a number above 0, or one for each of the 5 ks"),
        ({"tau_k": (1.0, 2.0)}, "one for each of the 5 ks"),
        ({"tau_rank": 0.0}, "expected above 0"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        recall_surrogate_loss(torch.zeros(1, 2), torch.tensor([[True, False]]), **change)
    with pytest.raises(ValueError, match=message):
        RecallSurrogateLoss(**change)
