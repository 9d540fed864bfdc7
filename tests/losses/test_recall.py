from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from pytorch_metric_learning.losses import MultipleLosses
from pytorch_metric_learning.regularizers import LpRegularizer
from reference import plain_recall_loss

from retrieval.losses import RecallLoss, recall_loss
from retrieval.losses.local_projection import LocalProjection
from retrieval.losses.recall import PROJECTIONS
from retrieval.losses.score_matrix import rank_as_scores
from retrieval.losses.weightings import WEIGHTINGS
from retrieval.solvers import Identity, solve, standardize, two_point

SLOPES = {
    "loglog": lambda r: 1 / ((1 + r) * (1 + math.log1p(r))),
    "log": lambda r: 1 / (1 + r),
    "sqrt": lambda r: 0.5 / math.sqrt(1 + r),
    "linear": lambda r: 1.0,
}
LABELS = {
    "3 classes of 4": [0] * 4 + [1] * 4 + [2] * 4,
    "5 classes of 2, shuffled": [3, 1, 4, 0, 2, 2, 0, 1, 3, 4],
    "unequal sizes and a lone label": [0, 0, 0, 0, 0, 1, 1, 7, 2, 2, 2],
    "one class only": [5] * 6,
}


def batch(
    labels: list[int], dim: int = 6, seed: int = 0, duplicates: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    embeddings = torch.randn(len(labels), dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if duplicates:
        embeddings[-1] = embeddings[0]
        embeddings[3] = embeddings[2]
    return torch.nn.functional.normalize(embeddings, dim=1), torch.tensor(labels)


def masks(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    same = labels[:, None] == labels[None, :]
    return same & ~torch.eye(len(labels), dtype=torch.bool), ~same


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_the_value_equals_counting_intruders_one_by_one(labels, weighting):
    embeddings, targets = batch(labels, duplicates=len(labels) > 6)
    scores = embeddings @ embeddings.T
    relevant, irrelevant = masks(targets)
    for projection in PROJECTIONS:
        # Projecting rounds, and may so break a tie of duplicates: the plain version counts on projected scores too.
        projected = PROJECTIONS[projection](scores, relevant | irrelevant)
        expected = plain_recall_loss(projected, relevant, irrelevant, weighting)
        value = recall_loss(scores, relevant, irrelevant, projection=projection, weighting=weighting, noise=0)
        assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_gradient_is_minus_the_projections_jacobian_times_the_slope_at_each_relevant_item(weighting):
    embeddings, targets = batch(LABELS["unequal sizes and a lone label"])
    relevant, irrelevant = masks(targets)
    scores = (embeddings @ embeddings.T).requires_grad_()
    (gradient,) = torch.autograd.grad(recall_loss(scores, relevant, irrelevant, weighting=weighting, noise=0), scores)

    expected = torch.zeros_like(scores)
    queries = int(relevant.any(dim=1).sum())
    for i, row in enumerate(scores.detach()):
        candidates = (relevant | irrelevant)[i]
        slopes = torch.zeros_like(row)
        for p in torch.where(relevant[i])[0]:
            intruders = int((irrelevant[i] & (row > row[p])).sum())
            slopes[p] = SLOPES[weighting](intruders) / relevant[i].sum() / queries
        jacobian = torch.autograd.functional.jacobian(standardize, row[candidates])
        expected[i, candidates] = -jacobian.T @ slopes[candidates]
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("projection", ["local", "softmax"])
def test_in_blocks_what_a_relevant_item_gains_its_rivals_lose_by_their_shares(projection):
    embeddings, targets = batch(LABELS["unequal sizes and a lone label"])
    relevant, irrelevant = masks(targets)
    scores = (embeddings @ embeddings.T).requires_grad_()
    loss = recall_loss(scores, relevant, irrelevant, projection=projection, weighting="log", reduction="none", noise=0)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)

    for i, row in enumerate(scores.detach()):
        candidates = (relevant | irrelevant)[i]
        deviations = (row - row[candidates].mean()) / row[candidates].std(correction=0)
        blocks = torch.zeros_like(row)
        for p in torch.where(relevant[i])[0].tolist():
            pull = -1 / (1 + int((irrelevant[i] & (row > row[p])).sum())) / relevant[i].sum()
            rivals = [n for n in torch.where(irrelevant[i])[0].tolist() if deviations[n] >= deviations[p] - 1]
            if projection == "softmax":
                rivals = torch.where(irrelevant[i])[0].tolist()
            weights = {n: math.exp(deviations[n] / 0.5) if projection == "softmax" else 1.0 for n in (p, *rivals)}
            for n in rivals:
                share = weights[n] / sum(weights.values())
                blocks[n] -= pull * share
                blocks[p] += pull * share
        row = row[candidates]
        jacobian = torch.autograd.functional.jacobian(standardize, row) * (row - row.mean()).norm()
        torch.testing.assert_close(gradient[i, candidates], jacobian.T @ blocks[candidates])


def test_raising_a_relevant_score_lowers_the_loss_along_the_gradient():
    embeddings, targets = batch(LABELS["3 classes of 4"], seed=4)
    relevant, irrelevant = masks(targets)
    scores = (embeddings @ embeddings.T).requires_grad_()
    for projection in PROJECTIONS:
        loss = recall_loss(scores, relevant, irrelevant, projection=projection, noise=0)
        (gradient,) = torch.autograd.grad(loss, scores)
        better = recall_loss(scores - 50 * gradient, relevant, irrelevant, projection=projection, noise=0)
        assert better < loss


def test_a_perfect_ranking_has_no_loss_and_the_worst_one_the_most():
    scores = torch.tensor([[0.9, 0.8, 0.1, 0.0]])
    relevant = torch.tensor([[True, True, False, False]])
    assert recall_loss(scores, relevant, weighting="linear", noise=0) == 0
    assert recall_loss(-scores, relevant, weighting="linear", noise=0) == 2
    assert recall_loss(-scores, relevant, weighting="log", noise=0).item() == pytest.approx(math.log(3))
    assert recall_loss(-scores, relevant, weighting="loglog", noise=0).item() == pytest.approx(
        math.log(1 + math.log(3))
    )


def test_the_loss_with_ties_is_that_of_the_worst_order_of_equal_scores():
    scores = torch.tensor([[0.9, 0.5, 0.5, 0.5, 0.1]])
    relevant = torch.tensor([[False, True, False, True, False]])
    for projection in PROJECTIONS:
        tied = recall_loss(scores, relevant, projection=projection, weighting="linear", noise=0)
        orders = [
            recall_loss(
                scores + torch.tensor([0, a, b, c, 0]), relevant, projection=projection, weighting="linear", noise=0
            )
            for a, b, c in permutations((0.0, 0.01, 0.02))
        ]
        assert tied == max(orders) == 2
        assert min(orders) == 1
        assert tied == recall_loss(scores, relevant, projection=projection, weighting="linear", margin=1e-6, noise=0)


def test_items_in_neither_mask_change_nothing_and_receive_no_gradient():
    scores = torch.tensor([[0.5, 0.7, 0.3, 9.0]], requires_grad=True)
    relevant = torch.tensor([[True, False, False, False]])
    irrelevant = torch.tensor([[False, True, True, False]])
    for projection in PROJECTIONS:
        loss = recall_loss(scores, relevant, irrelevant, projection=projection, weighting="linear", noise=0)
        (gradient,) = torch.autograd.grad(loss, scores)
        assert loss == 1
        assert gradient[0, 3] == 0


def test_queries_without_a_relevant_item_do_not_count():
    scores = torch.tensor([[0.1, 0.9], [0.3, 0.2]])
    relevant = torch.tensor([[True, False], [False, False]])
    assert recall_loss(scores, relevant, weighting="linear", noise=0) == 1
    assert recall_loss(scores, relevant, weighting="linear", reduction="none", noise=0).tolist() == [1, 0]
    assert recall_loss(scores, torch.zeros_like(relevant), noise=0) == 0


@pytest.mark.parametrize("projection", ["std", "local", "softmax"])
def test_a_flat_row_has_a_zero_gradient(projection):
    scores = torch.full((2, 5), 0.7, requires_grad=True)
    relevant = torch.tensor([[True, False, False, False, False]] * 2)
    (gradient,) = torch.autograd.grad(recall_loss(scores, relevant, projection=projection, noise=0), scores)
    assert gradient.eq(0).all()


def test_with_linear_weights_and_without_the_norm_the_softmax_projection_gives_the_gradient_of_ntxent():
    embeddings, targets = batch(LABELS["3 classes of 4"])
    embeddings.requires_grad_()
    relevant, irrelevant = masks(targets)
    unit = torch.nn.functional.normalize(embeddings, dim=1)  # as NT-Xent does
    temperature = torch.full((len(unit), 1), 0.1, dtype=unit.dtype)
    norm = torch.ones_like(temperature)
    projected = LocalProjection.apply(unit @ unit.T, relevant, irrelevant, None, temperature, norm)
    ranks = solve(projected.masked_fill(~(relevant | irrelevant), -torch.inf), rank_as_scores)
    ours = (ranks * relevant).sum(dim=1).div(relevant.sum(dim=1)).mean() / 0.1
    theirs = losses.NTXentLoss(temperature=0.1)(embeddings, targets)
    found, expected = (torch.autograd.grad(loss, embeddings)[0] for loss in (ours, theirs))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_nan_among_the_scores_shows_in_the_loss(projection):
    scores = torch.tensor([[0.1, torch.nan, 0.3]])
    assert recall_loss(scores, torch.tensor([[True, False, False]]), projection=projection, noise=0).isnan()


def test_noise_repeats_with_its_generator_and_asks_for_a_margin():
    scores = torch.tensor([[0.50001, 0.5, 0.2, -0.3]])
    relevant = torch.tensor([[True, False, False, False]])
    draws = [
        recall_loss(scores, relevant, noise=0.5, generator=torch.Generator().manual_seed(s)).item() for s in range(20)
    ]
    again = [
        recall_loss(scores, relevant, noise=0.5, generator=torch.Generator().manual_seed(s)).item() for s in range(20)
    ]
    assert draws == again
    assert min(draws) == 0
    assert max(draws) > 0


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_the_noise_counts_standard_deviations_of_the_candidates_scores(monkeypatch, projection):
    """Noise on the raw scores themselves, in their own standard deviations, gives the same ranks whatever the projection."""
    embeddings, targets = batch([i % 5 for i in range(40)])
    relevant, irrelevant = masks(targets)
    scores = embeddings @ embeddings.T
    draws = two_point(scores, 1.0, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("retrieval.losses.recall.two_point", lambda like, alpha, generator: alpha * draws)
    noisy = scores.clone()
    for query, candidates in enumerate(relevant | irrelevant):
        noisy[query] += 0.7 * scores[query, candidates].std(correction=0) * draws[query]
    for weighting in WEIGHTINGS:
        value = recall_loss(scores, relevant, irrelevant, projection=projection, weighting=weighting, noise=0.7)
        assert value.item() == pytest.approx(plain_recall_loss(noisy, relevant, irrelevant, weighting), rel=1e-12)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_noise_grows_with_the_scores_and_is_never_added_to_equal_ones(projection):
    embeddings, targets = batch([i % 5 for i in range(40)])
    relevant, irrelevant = masks(targets)
    scores = embeddings @ embeddings.T

    def value(scores: torch.Tensor) -> float:
        source = torch.Generator().manual_seed(0)
        given = {"projection": projection, "noise": 0.5, "generator": source, "weighting": "linear"}
        return recall_loss(scores, relevant, irrelevant, **given).item()

    assert value(1000 * scores) == value(scores) == value(scores / 1000)
    assert value(torch.full_like(scores, 0.1)) == pytest.approx(32)  # all that are irrelevant


def test_the_order_of_the_references_does_not_matter():
    embeddings, targets = batch(LABELS["unequal sizes and a lone label"], duplicates=True)
    relevant, irrelevant = masks(targets)
    scores = embeddings @ embeddings.T
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(1))
    shuffled = recall_loss(scores[:, order], relevant[:, order], irrelevant[:, order], projection="none", noise=0)
    assert shuffled == recall_loss(scores, relevant, irrelevant, projection="none", noise=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projection": "sdt"}, "projection is 'sdt', expected one of none, mean, norm, std, local, softmax"),
        ({"weighting": "cubic"}, "expected one of loglog, log, sqrt, linear"),
        ({"reduction": "sum"}, "expected one of mean, none"),
        ({"relevant": torch.zeros(2, 3)}, "expected torch.bool"),
        ({"relevant": torch.zeros(2, 2, dtype=torch.bool)}, r"expected torch.bool of the scores' \(2, 3\)"),
        ({"irrelevant": torch.ones(2, 3, dtype=torch.bool), "relevant": torch.ones(2, 3, dtype=torch.bool)}, "overlap"),
        ({"scores": torch.zeros(3)}, "num_queries, num_references"),
        ({"temperature": 0}, "temperature is 0, expected at least 1e-06"),
        ({"margin": -0.1}, "margin is -0.1, expected at least 0"),
        ({"noise": float("nan")}, "noise is nan, expected at least 0"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"scores": torch.zeros(2, 3), "relevant": torch.tensor([[True, False, False]] * 2)} | change
    with pytest.raises(ValueError, match=message):
        recall_loss(**arguments)


class TestRecallLoss:
    def test_it_equals_the_function_on_cosine_similarities(self):
        embeddings, targets = batch(LABELS["5 classes of 2, shuffled"])
        relevant, irrelevant = masks(targets)
        expected = recall_loss(embeddings @ embeddings.T, relevant, irrelevant, noise=0)
        torch.testing.assert_close(RecallLoss(noise=0)(embeddings * 3, targets), expected)

    def test_own_entries_are_no_candidates_and_separate_references_are(self):
        embeddings, targets = batch(LABELS["3 classes of 4"])
        same = targets[:, None] == targets[None, :]
        expected = recall_loss(embeddings @ embeddings.T, same, noise=0)
        separate = RecallLoss(noise=0)(embeddings, targets, ref_emb=embeddings.clone(), ref_labels=targets)
        torch.testing.assert_close(separate, expected)
        assert separate != RecallLoss(noise=0)(embeddings, targets)

    def test_mined_pairs_and_triplets_are_the_candidates(self):
        embeddings, targets = batch(LABELS["3 classes of 4"])
        anchors, positives, negatives = torch.tensor([0, 0, 5]), torch.tensor([1, 1, 6]), torch.tensor([4, 8, 1])
        relevant, irrelevant = torch.zeros(2, 12, 12, dtype=torch.bool)
        relevant[anchors, positives] = True
        irrelevant[anchors, negatives] = True
        expected = recall_loss(embeddings @ embeddings.T, relevant, irrelevant, noise=0)
        loss = RecallLoss(noise=0)
        assert torch.equal(loss(embeddings, targets, (anchors, positives, negatives)), expected)
        assert torch.equal(loss(embeddings, None, (anchors, positives, anchors, negatives)), expected)
        mined = miners.MultiSimilarityMiner()(embeddings, targets)
        assert loss(embeddings, targets, mined).isfinite()

    def test_no_pair_at_all_gives_a_zero_that_can_be_differentiated(self):
        embeddings, _ = batch([0, 1, 2])
        embeddings.requires_grad_()
        loss = RecallLoss(noise=0)(embeddings, torch.tensor([0, 1, 2]))
        loss.backward()
        assert loss == 0
        assert embeddings.grad.eq(0).all()

    @pytest.mark.parametrize(
        "reducer",
        [
            reducers.MeanReducer(),
            reducers.SumReducer(),
            reducers.AvgNonZeroReducer(),
            reducers.ThresholdReducer(low=0.1),
            reducers.DoNothingReducer(),
        ],
    )
    def test_every_reducer_takes_it(self, reducer):
        embeddings, targets = batch(LABELS["unequal sizes and a lone label"])
        out = RecallLoss(reducer=reducer, noise=0)(embeddings, targets)
        if isinstance(reducer, reducers.DoNothingReducer):
            assert out["loss"]["indices"].tolist() == [i for i in range(11) if i != 7]  # without the lone label
        else:
            assert out.isfinite()

    def test_regularizers_and_sums_of_losses_take_it(self):
        embeddings, targets = batch(LABELS["3 classes of 4"])
        plain = RecallLoss(noise=0)(embeddings, targets)
        assert RecallLoss(embedding_regularizer=LpRegularizer(), noise=0)(embeddings, targets) > plain
        both = MultipleLosses([RecallLoss(noise=0), losses.ContrastiveLoss()], weights=[1, 0.5])(embeddings, targets)
        torch.testing.assert_close(both, plain + 0.5 * losses.ContrastiveLoss()(embeddings, targets))

    def test_euclidean_distance_ranks_unit_vectors_like_the_cosine(self):
        embeddings, targets = batch(LABELS["3 classes of 4"])
        euclidean = RecallLoss(distance=distances.LpDistance(power=2), noise=0)(embeddings, targets)
        torch.testing.assert_close(euclidean, RecallLoss(noise=0)(embeddings, targets))

    def test_the_rule_of_identity_means_the_same_as_its_word(self, caplog):
        embeddings, targets = batch(LABELS["3 classes of 4"])
        by_rule = RecallLoss("local", gradient=Identity(), noise=0)(embeddings, targets)
        torch.testing.assert_close(by_rule, RecallLoss("local", noise=0)(embeddings, targets), rtol=0, atol=0)
        assert not caplog.records  # of a closed form that is not there

    def test_it_computes_in_float32_under_autocast_and_from_half_precision(self):
        embeddings, targets = batch([i // 2 for i in range(64)], dim=16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = RecallLoss(noise=0)(embeddings.float(), targets)
        torch.testing.assert_close(inside, RecallLoss(noise=0)(embeddings.float(), targets), rtol=0, atol=0)
        half = RecallLoss(noise=0)(embeddings.bfloat16(), targets)
        assert half.dtype == torch.float32

    def test_noise_is_for_training_only(self):
        embeddings, targets = batch(LABELS["3 classes of 4"])
        loss = RecallLoss(noise=1.0, generator=torch.Generator().manual_seed(0))
        assert loss(embeddings, targets) != RecallLoss(noise=0)(embeddings, targets)
        assert loss.eval()(embeddings, targets) == RecallLoss(noise=0)(embeddings, targets)

    def test_wrong_words_are_refused_at_once(self):
        with pytest.raises(ValueError, match="projection is 'x'"):
            RecallLoss("x")
        with pytest.raises(ValueError, match="weighting is 'x'"):
            RecallLoss(weighting="x")
        with pytest.raises(ValueError, match="noise is -1"):
            RecallLoss(noise=-1)

    def test_gradient_descent_on_free_embeddings_reaches_a_perfect_ranking(self):
        embeddings, targets = batch([i // 4 for i in range(40)], dim=16)
        free = embeddings.clone().requires_grad_()
        optimizer = torch.optim.Adam([free], lr=0.02)
        for _ in range(300):
            optimizer.zero_grad()
            RecallLoss(noise=0)(free, targets).backward()
            optimizer.step()
        assert RecallLoss(weighting="linear", noise=0)(free, targets) < 0.05
        assert RecallLoss(weighting="linear", noise=0)(embeddings, targets) > 5
