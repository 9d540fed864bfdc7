from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning import distances, miners, reducers
from reference import plain_smooth_ap_loss
from torch.autograd import gradcheck

from retrieval.losses import smooth_ap
from retrieval.losses.smooth_ap import SmoothAPLoss, smooth_ap_loss

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


@pytest.mark.parametrize("tau", [0.01, 0.3])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_the_value_equals_a_triple_loop(labels, tau):
    embeddings, targets = batch(labels)
    scores, (relevant, irrelevant) = embeddings @ embeddings.T, masks(targets)
    expected = plain_smooth_ap_loss(scores, relevant, irrelevant, tau)
    assert smooth_ap_loss(scores, relevant, irrelevant, tau=tau).item() == pytest.approx(expected, abs=1e-12)
    assert SmoothAPLoss(tau)(embeddings, targets).item() == pytest.approx(expected, abs=1e-12)


def test_a_small_temperature_gives_average_precision():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5]])
    relevant = torch.tensor([[True, False, True, False, False]])
    assert smooth_ap_loss(scores, relevant, tau=1e-4).item() == pytest.approx(1 - (1 + 2 / 3) / 2)
    assert smooth_ap_loss(-scores, relevant, tau=1e-4).item() == pytest.approx(1 - (1 / 3 + 2 / 5) / 2)
    assert smooth_ap_loss(scores, torch.ones_like(relevant), tau=1e-4) == 0


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_the_derivative_is_right_in_one_block_and_in_many(labels, monkeypatch):
    embeddings, targets = batch(labels)
    scores, (relevant, irrelevant) = (embeddings @ embeddings.T).requires_grad_(), masks(targets)
    values = []
    for block in (smooth_ap.BLOCK, 30):
        monkeypatch.setattr(smooth_ap, "BLOCK", block)
        assert gradcheck(lambda s: smooth_ap_loss(s, relevant, irrelevant, tau=0.2, reduction="none"), (scores,))
        values.append(smooth_ap_loss(scores, relevant, irrelevant))
    torch.testing.assert_close(*values)


def test_items_in_neither_mask_change_nothing_and_receive_no_gradient():
    scores = torch.tensor([[0.5, 0.7, 0.3, 9.0]], requires_grad=True)
    relevant = torch.tensor([[True, False, False, False]])
    irrelevant = torch.tensor([[False, True, True, False]])
    loss = smooth_ap_loss(scores, relevant, irrelevant, tau=0.2)
    (gradient,) = torch.autograd.grad(loss, scores)
    torch.testing.assert_close(loss, smooth_ap_loss(scores[:, :3], relevant[:, :3], tau=0.2))
    assert gradient[0, 3] == 0
    assert gradient[0, :3].ne(0).all()


def test_queries_without_a_relevant_item_do_not_count():
    scores = torch.tensor([[0.1, 0.9], [0.3, 0.2]])
    relevant = torch.tensor([[True, False], [False, False]])
    assert smooth_ap_loss(scores, relevant).item() == pytest.approx(0.5)
    assert smooth_ap_loss(scores, relevant, reduction="none").tolist() == pytest.approx([0.5, 0])
    assert smooth_ap_loss(scores, torch.zeros_like(relevant)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": 0.0}, "tau is 0.0, expected above 0"),
        ({"reduction": "sum"}, "expected one of mean, none"),
        ({"relevant": torch.zeros(2, 3), "irrelevant": torch.zeros(2, 3, dtype=torch.bool)}, "expected torch.bool"),
        ({"relevant": torch.zeros(2, 2, dtype=torch.bool)}, r"expected torch.bool of the scores' \(2, 3\)"),
        ({"irrelevant": torch.ones(2, 3, dtype=torch.bool)}, "overlap"),
        ({"scores": torch.zeros(3)}, "num_queries, num_references"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"scores": torch.zeros(2, 3), "relevant": torch.tensor([[True, False, False]] * 2)} | change
    with pytest.raises(ValueError, match=message):
        smooth_ap_loss(**arguments)
    with pytest.raises(ValueError, match="tau is -1"):
        SmoothAPLoss(-1)


class TestSmoothAPLoss:
    def test_the_order_of_the_batch_does_not_matter(self):
        embeddings, targets = batch(LABELS["unequal sizes and a lone label"])
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(
            SmoothAPLoss()(embeddings[order], targets[order]), SmoothAPLoss()(embeddings, targets)
        )

    def test_own_entries_are_no_candidates_and_separate_references_are(self):
        embeddings, targets = batch(LABELS["3 classes of 4"])
        same = targets[:, None] == targets[None, :]
        separate = SmoothAPLoss()(embeddings, targets, ref_emb=embeddings.clone(), ref_labels=targets)
        torch.testing.assert_close(separate, smooth_ap_loss(embeddings @ embeddings.T, same))

    def test_mined_pairs_are_the_candidates(self):
        embeddings, targets = batch(LABELS["3 classes of 4"])
        relevant, irrelevant = torch.zeros(2, 12, 12, dtype=torch.bool)
        relevant[[0, 5], [1, 6]] = True
        irrelevant[[0, 0, 5], [4, 8, 1]] = True
        mined = (*torch.where(relevant), *torch.where(irrelevant))
        expected = smooth_ap_loss(embeddings @ embeddings.T, relevant, irrelevant)
        torch.testing.assert_close(SmoothAPLoss()(embeddings, targets, mined), expected)
        assert SmoothAPLoss()(embeddings, targets, miners.MultiSimilarityMiner()(embeddings, targets)).isfinite()

    def test_no_pair_at_all_gives_a_zero_that_can_be_differentiated(self):
        embeddings, targets = batch(LABELS["lone labels only"])
        embeddings.requires_grad_()
        loss = SmoothAPLoss()(embeddings, targets)
        loss.backward()
        assert loss == 0
        assert embeddings.grad.eq(0).all()

    def test_reducers_distances_and_half_precision_are_taken(self):
        embeddings, targets = batch(LABELS["unequal sizes and a lone label"])
        out = SmoothAPLoss(reducer=reducers.DoNothingReducer())(embeddings, targets)
        assert out["loss"]["indices"].tolist() == [i for i in range(11) if i != 7]
        euclidean = SmoothAPLoss(tau=0.02, distance=distances.LpDistance(power=2))(embeddings, targets)
        torch.testing.assert_close(euclidean, SmoothAPLoss(tau=0.01)(embeddings, targets))
        assert SmoothAPLoss()(embeddings.bfloat16(), targets).dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = SmoothAPLoss()(embeddings.float(), targets)
        assert torch.equal(inside, SmoothAPLoss()(embeddings.float(), targets))
