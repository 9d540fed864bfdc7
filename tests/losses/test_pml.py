"""RecallLoss among the parts of pytorch-metric-learning: trainers, miners, reducers, regularizers, distances, statistics."""

from __future__ import annotations

import logging

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers, samplers, trainers

from retrieval.losses import RecallLoss, SmoothAPLoss, recall_loss
from retrieval.losses.recall import PROJECTIONS
from retrieval.solvers import Blackbox

LABELS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 7, 2, 2, 2, 3, 3])  # unequal sizes and a lone label


def batch(dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    """Embeddings of any length for `LABELS`, those of a class nearer to each other than to the others, mostly."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(8, 5, generator=generator, dtype=dtype)
    return 3 * (centers[LABELS] + torch.randn(len(LABELS), 5, generator=generator, dtype=dtype))


def unit(embeddings: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(embeddings, dim=1)


def masks() -> tuple[torch.Tensor, torch.Tensor]:
    same = LABELS[:, None] == LABELS
    return same & ~torch.eye(len(LABELS), dtype=torch.bool), ~same


def value_and_gradient(
    loss: torch.nn.Module, embeddings: torch.Tensor, *arguments
) -> tuple[torch.Tensor, torch.Tensor]:
    embeddings = embeddings.clone().requires_grad_()
    value = loss(embeddings, *arguments)
    return value, torch.autograd.grad(value, embeddings)[0]


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning")
@pytest.mark.parametrize(
    ("projection", "miner"), [("std", None), ("local", None), ("std", miners.MultiSimilarityMiner(epsilon=0.5))]
)
def test_the_hosts_trainer_trains_with_it(projection, miner):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(8)
    images = torch.randn(8, 12, generator=generator)[labels] + 1.2 * torch.randn(64, 12, generator=generator)
    trunk = torch.nn.Linear(12, 6)
    torch.nn.init.orthogonal_(trunk.weight, generator=generator)
    before = RecallLoss(weighting="linear", noise=0)(trunk(images), labels).item()
    trainer = trainers.MetricLossOnly(
        models={"trunk": trunk},
        optimizers={"trunk_optimizer": torch.optim.Adam(trunk.parameters(), lr=0.02)},
        batch_size=32,
        loss_funcs={"metric_loss": RecallLoss(projection, noise=0)},
        mining_funcs={} if miner is None else {"tuple_miner": miner},
        dataset=list(zip(images, labels.tolist(), strict=True)),
        sampler=samplers.MPerClassSampler(labels, m=4, batch_size=32, length_before_new_iter=64),
        dataloader_num_workers=0,
        iterations_per_epoch=30,
    )
    trainer.train(num_epochs=1)
    assert RecallLoss(weighting="linear", noise=0)(trunk(images), labels) < 0.7 * before


@pytest.mark.parametrize(
    "miner",
    [
        miners.MultiSimilarityMiner(),
        miners.PairMarginMiner(pos_margin=0.2, neg_margin=0.8),
        miners.TripletMarginMiner(margin=0.3),
        miners.BatchHardMiner(),
    ],
    ids=lambda miner: type(miner).__name__,
)
def test_exactly_what_a_miner_finds_are_the_candidates(miner):
    embeddings = batch()
    found = miner(embeddings, LABELS)
    negative_anchors = found[2] if len(found) == 4 else found[0]
    relevant, irrelevant = torch.zeros(2, len(LABELS), len(LABELS), dtype=torch.bool)
    for anchor, item in zip(found[0].tolist(), found[1].tolist(), strict=True):
        relevant[anchor, item] = True
    for anchor, item in zip(negative_anchors.tolist(), found[-1].tolist(), strict=True):
        irrelevant[anchor, item] = True
    assert relevant.any()
    assert irrelevant.any()

    value, gradient = value_and_gradient(RecallLoss(weighting="log", noise=0), embeddings, LABELS, found)
    inputs = embeddings.clone().requires_grad_()
    expected = recall_loss(unit(inputs) @ unit(inputs).T, relevant, irrelevant, weighting="log", noise=0)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, inputs)[0])


class TestReducers:
    """Every reducer that takes losses of elements, against its meaning on the losses of the queries."""

    per_query = recall_loss(unit(batch()) @ unit(batch()).T, *masks(), reduction="none", noise=0)[LABELS != 7]
    weights = torch.linspace(0.5, 2, 8, dtype=torch.float64)

    @pytest.mark.parametrize(
        ("reducer", "expected"),
        [
            (reducers.MeanReducer(), per_query.mean()),
            (reducers.SumReducer(), per_query.sum()),
            (reducers.AvgNonZeroReducer(), per_query[per_query > 0].mean()),
            (reducers.ThresholdReducer(low=0.5, high=0.9), per_query[(per_query > 0.5) & (per_query < 0.9)].mean()),
            (reducers.PerAnchorReducer(), per_query.mean()),
            (reducers.ClassWeightedReducer(weights), (per_query * weights[LABELS[LABELS != 7]]).mean()),
            (reducers.MultipleReducers({"loss": reducers.SumReducer()}), per_query.sum()),
        ],
        ids=lambda reducer: type(reducer).__name__,
    )
    @pytest.mark.parametrize("gradient", ["identity", Blackbox(30.0)], ids=["closed form", "definition"])
    def test_a_reducer_gets_one_loss_a_query_with_its_label(self, reducer, expected, gradient):
        value, slopes = value_and_gradient(RecallLoss(reducer=reducer, gradient=gradient, noise=0), batch(), LABELS)
        torch.testing.assert_close(value, expected)
        assert slopes.any()

    def test_without_reduction_the_losses_come_with_the_places_of_their_queries(self):
        out = RecallLoss(reducer=reducers.DoNothingReducer(), noise=0)(batch(), LABELS)["loss"]
        torch.testing.assert_close(out["losses"], self.per_query)
        assert torch.equal(out["indices"], torch.where(LABELS != 7)[0])
        assert out["reduction_type"] == "element"


def test_regularizers_and_sums_of_losses_add_their_values_and_gradients():
    value, gradient = value_and_gradient(RecallLoss(noise=0), batch(), LABELS)
    regularized = RecallLoss(
        embedding_regularizer=regularizers.LpRegularizer(power=2), embedding_reg_weight=0.1, noise=0
    )
    total, slopes = value_and_gradient(regularized, batch(), LABELS)
    torch.testing.assert_close(total, value + 0.1 * batch().square().sum(dim=1).mean())
    torch.testing.assert_close(slopes, gradient + 0.1 * 2 * batch() / len(LABELS))

    other = losses.ContrastiveLoss()
    both = losses.MultipleLosses([RecallLoss(noise=0), other], weights=[1, 0.5])
    for total, part, also in zip(
        value_and_gradient(both, batch(), LABELS),
        (value, gradient),
        value_and_gradient(other, batch(), LABELS),
        strict=True,
    ):
        torch.testing.assert_close(total, part + 0.5 * also)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("definition", [False, True], ids=["closed form", "definition"])
def test_the_statistics_are_those_of_plain_counting(projection, definition):
    loss = RecallLoss(projection, noise=0.3, margin=0.1, collect_stats=True)
    pairs = None
    if definition:
        relevant, irrelevant = masks()
        pairs = (*torch.where(relevant), *torch.where(irrelevant))
    loss(batch(), LABELS, pairs)

    scores = (unit(batch()) @ unit(batch()).T).tolist()
    intruders, spreads = [], []
    for i, row in enumerate(scores):
        others = [j for j in range(len(row)) if j != i]
        wrong = [row[j] for j in others if LABELS[j] != LABELS[i]]
        counts = [sum(w > row[p] for w in wrong) for p in others if LABELS[p] == LABELS[i]]
        intruders += [counts] if counts else []
        spreads.append(torch.tensor([row[j] for j in others], dtype=torch.float64).std(correction=0).item())
    everyone = [count for counts in intruders for count in counts]
    assert loss.perfect_queries == pytest.approx(sum(sum(counts) == 0 for counts in intruders) / len(intruders))
    assert loss.mean_intruders == pytest.approx(sum(everyone) / len(everyone))
    assert loss.score_spread == pytest.approx(sum(spreads) / len(spreads))
    assert 0 < loss.perfect_queries < 1


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("definition", [False, True], ids=["closed form", "definition"])
@pytest.mark.parametrize("size", [1, 3])
def test_without_a_pair_there_is_nothing_to_count(projection, definition, size):
    distance = distances.LpDistance() if definition else distances.CosineSimilarity()
    loss = RecallLoss(projection, collect_stats=True, distance=distance, noise=0)
    assert loss(batch()[:size], torch.arange(size)) == 0
    assert (loss.perfect_queries, loss.mean_intruders) == (0, 0)
    assert loss.score_spread >= 0
    assert (loss.score_spread > 0) == (size > 1)


def test_collapsed_embeddings_show_in_the_spread():
    loss = RecallLoss(collect_stats=True, noise=0)
    loss(torch.ones(len(LABELS), 5) + 1e-4 * batch(torch.float32), LABELS)
    assert loss.score_spread < 1e-3


def test_statistics_are_not_collected_unasked():
    loss = RecallLoss(noise=0)
    loss(batch(), LABELS)
    assert not hasattr(loss, "perfect_queries")


@pytest.mark.parametrize(
    "distance", [distances.SNRDistance(), distances.LpDistance(p=1), distances.LpDistance(power=1)], ids=repr
)
def test_a_distance_without_a_closed_form_takes_the_definition_and_says_so_once(distance, caplog):
    loss = RecallLoss(distance=distance, noise=0)
    with caplog.at_level(logging.WARNING):
        values = [value_and_gradient(loss, batch(), LABELS) for _ in range(3)]
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"RecallLoss: no closed form with distance {type(distance).__name__}; computing the whole matrix of scores"
    ]

    embeddings = batch().requires_grad_()
    expected = recall_loss(-distance(embeddings), *masks(), noise=0)
    torch.testing.assert_close(values[-1][0], expected)
    torch.testing.assert_close(values[-1][1], torch.autograd.grad(expected, embeddings)[0])


@pytest.mark.parametrize(("projection", "twice"), [("std", 1), ("local", 2), ("softmax", 2)])
def test_the_squared_distance_of_unit_vectors_is_twice_the_cosine_which_std_undoes(projection, twice, caplog):
    squared = RecallLoss(projection, distance=distances.LpDistance(power=2), noise=0)
    value, gradient = value_and_gradient(squared, batch(), LABELS)
    of_cosine, slopes = value_and_gradient(RecallLoss(projection, noise=0), batch(), LABELS)
    torch.testing.assert_close(value, of_cosine, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient, twice * slopes, rtol=1e-12, atol=1e-14)
    squared.collect_stats = True
    cosine = RecallLoss(projection, collect_stats=True, noise=0)
    for loss in (squared, cosine):
        loss(batch(), LABELS)
    assert squared.score_spread == pytest.approx(2 * cosine.score_spread)
    assert squared.mean_intruders == cosine.mean_intruders
    collapsed = torch.nn.functional.normalize(torch.ones(len(LABELS), 64) + 1e-6 * torch.rand(64), dim=1)
    most = value_and_gradient(RecallLoss(projection, noise=0), torch.ones_like(collapsed), LABELS)[0]
    assert value_and_gradient(squared, collapsed, LABELS)[0] == most  # where rounded distances are in any order
    assert not caplog.records

    # And it is what the definition makes of the distances themselves.
    embeddings = batch().requires_grad_()
    expected = recall_loss(-distances.LpDistance(power=2)(embeddings), *masks(), projection=projection, noise=0)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, embeddings)[0])


@pytest.mark.parametrize("gradient", ["identity", "blackbox"], ids=["closed form", "definition"])
def test_autocast_changes_nothing_but_the_embeddings(gradient):
    loss, layer = RecallLoss(gradient=gradient, noise=0), torch.nn.Linear(5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(batch(torch.float32)).detach().requires_grad_()
        value = loss(half, LABELS)
    assert half.dtype == torch.bfloat16
    assert value.dtype == torch.float32
    expected, slopes = value_and_gradient(loss, half.detach().float(), LABELS)
    assert torch.equal(value, expected)
    (gradient,) = torch.autograd.grad(value, half)
    assert (gradient - slopes).norm() < 0.01 * slopes.norm()  # rounded to bfloat16, once or for each side of the scores


@pytest.mark.parametrize("projection", ["none", "std", "local", "softmax"])
def test_a_backward_pass_inside_autocast_gives_the_same_gradient(projection):
    value, gradient = value_and_gradient(RecallLoss(projection, noise=0), batch(torch.float32), LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, slopes = value_and_gradient(RecallLoss(projection, noise=0), batch(torch.float32), LABELS)
    assert torch.equal(inside, value)
    assert torch.equal(slopes, gradient)


@pytest.mark.parametrize("distance", [distances.CosineSimilarity, distances.DotProductSimilarity])
def test_a_distance_that_collects_statistics_records_the_norms(distance):
    closed, defined = (
        RecallLoss(gradient=g, distance=distance(collect_stats=True), noise=0) for g in ("identity", "blackbox")
    )
    names = ["initial_avg_query_norm", "initial_avg_ref_norm", "final_avg_query_norm", "final_avg_ref_norm"]
    other = 2 * batch(torch.float32, seed=1)[:9]
    for references in ({}, {"ref_emb": other, "ref_labels": LABELS[:9]}):
        for loss in (closed, defined):
            loss(batch(torch.float32), LABELS, **references)
        found, expected = ([getattr(loss.distance, name) for name in names] for loss in (closed, defined))
        assert found == pytest.approx(expected)
        assert min(found) > 0


def test_two_views_of_images_are_classes_of_two():
    first, second = batch(), batch(seed=1)
    labels = torch.arange(len(first))
    value = RecallLoss(noise=0)(torch.cat([first, second]), labels.repeat(2))
    queries = unit(torch.cat([first, second]))
    relevant = torch.eye(len(first), dtype=torch.bool).repeat(2, 2)
    expected = recall_loss(
        queries @ queries.T, relevant & ~torch.eye(2 * len(first), dtype=torch.bool), ~relevant, noise=0
    )
    torch.testing.assert_close(value, expected)
    with pytest.raises(Exception, match="SelfSupervisedLoss not supported for RecallLoss"):
        losses.SelfSupervisedLoss(RecallLoss(noise=0))


def test_the_text_of_a_loss_shows_its_options():
    class Special(RecallLoss):
        def __init__(self, extra: int = 3, **kwargs) -> None:
            super().__init__(**kwargs)
            self.extra = extra

    text = repr(Special(margin=0.1, gradient=Blackbox(0.2)))
    for option in ("extra=3", "projection='std'", "margin=0.1", "gradient=Blackbox(lambda_=0.2)", "weighting='sqrt'"):
        assert option in text
    assert "ks" not in text
    assert "tau=0.02" in repr(SmoothAPLoss(tau=0.02))
