from __future__ import annotations

import inspect

import pytest
import torch
from pytorch_metric_learning import losses, miners
from torch.nn.functional import normalize

from retrieval.config.losses import LOSSES, MINERS, build_loss
from retrieval.config.schema import LossConfig, LossTerm
from retrieval.defaults import NOISE
from retrieval.errors import ConfigError
from retrieval.losses import RamboLoss, RecallLoss, recall_loss
from retrieval.losses.memory import CrossBatchMemory
from retrieval.solvers import Blackbox

LABELS = torch.tensor([0, 0, 0, 3, 3, 3, 5, 5, 1, 1, 1, 1])
REQUIRED = {"ranked_list": {"margin": 0.4, "Tn": 1}}


def build(**words) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_loss(LossConfig(**words), num_classes=6, embedding_dim=16)


def embeddings() -> torch.Tensor:
    return normalize(torch.randn(len(LABELS), 16, generator=torch.Generator().manual_seed(1)), dim=1).requires_grad_()


def mistakes(**words) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build(**words)
    return caught.value.mistakes


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_gives_a_finite_value_and_gradient_for_classes_of_any_size(name):
    loss, inputs = build(name=name, options=REQUIRED.get(name, {})), embeddings()
    loss(inputs, LABELS).backward()
    assert inputs.grad.isfinite().all()
    assert inputs.grad.norm() > 0


@pytest.mark.parametrize("name", MINERS)
def test_every_miner_works_before_a_loss(name):
    loss, inputs = build(name="contrastive", miner=name), embeddings()
    loss(inputs, LABELS).backward()
    assert inputs.grad.isfinite().all()


def test_the_options_of_the_recall_loss_reach_it():
    words = {
        "projection": "norm",
        "weighting": "sqrt",
        "ks": [1, 2],
        "tau": 0.5,
        "noise": 0.1,
        "margin": 0.2,
        "local_margin": 2.0,
        "temperature": 0.7,
    }
    loss = build(**words)
    assert type(loss) is RecallLoss
    assert {word: getattr(loss, word) for word in words} == words
    assert loss.gradient == "identity"
    assert build(gradient="blackbox", blackbox_lambda=0.2).gradient == Blackbox(0.2)
    assert build(options={"noise": 0.3}).noise == 0.3


def test_proxies_are_made_for_the_training_classes_where_they_are_asked_for():
    loss = build(proxies=True, proxy_weight=0.3, proxy_temperature=0.2)
    assert loss.proxies.shape == (6, 16)
    assert (loss.proxy_weight, loss.proxy_temperature) == (0.3, 0.2)
    inputs = embeddings()
    loss(inputs, LABELS).backward()
    assert inputs.grad.any()
    assert loss.proxies.grad.any()
    assert build(proxies=True).proxy_weight == "auto"
    assert build().proxies is None
    assert build(proxies=True, memory=32).loss.proxies.shape == (6, 16)
    both = build(terms=[LossTerm(), LossTerm(proxies=True)])
    assert [part.proxies is not None for part in both.losses] == [False, True]
    assert mistakes(options={"num_classes": 7})[0].startswith("loss: recall has no option 'num_classes'")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"proxy_weight": 0.5}, "proxy_weight is set, but there are no class proxies; set proxies=true, too"),
        ({"name": "triplet", "proxies": True}, "proxies: options of the loss 'recall', not of 'triplet'"),
        ({"proxies": True, "proxy_weight": "all"}, "proxy_weight"),
    ],
)
def test_options_of_proxies_without_proxies_are_mistakes(words, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**words)


def test_the_noise_of_the_recall_loss_is_on_and_the_same_wherever_it_is_not_given():
    functions = (RecallLoss, recall_loss)
    assert {inspect.signature(function).parameters["noise"].default for function in functions} == {NOISE}
    assert build().noise == RecallLoss().noise == NOISE > 0


def test_options_reach_a_loss_and_its_miner():
    assert build(name="rambo", options={"margin": 0.5, "lambda_": 1.0}).margin == 0.5
    assert type(build(name="rambo")) is RamboLoss
    loss = build(name="triplet", options={"margin": 0.3}, miner="multi_similarity", miner_options={"epsilon": 0.2})
    inputs = embeddings()
    pairs = miners.MultiSimilarityMiner(epsilon=0.2)(inputs, LABELS)
    assert torch.equal(loss(inputs, LABELS), losses.TripletMarginLoss(margin=0.3)(inputs, LABELS, pairs))


def test_classes_and_dimension_are_filled_in_and_proxies_are_parameters():
    loss = build(name="proxy_anchor", options={"alpha": 16})
    assert [tuple(parameter.shape) for parameter in loss.parameters()] == [(6, 16)]
    assert len(list(build(name="sub_center_arcface", options={"sub_centers": 2}).parameters())) == 1


def test_a_weighted_sum_is_the_sum_of_its_terms_times_their_weights():
    terms = [LossTerm(weight=2.0, noise=0.0), LossTerm(name="contrastive", weight=0.5, options={"neg_margin": 0.7})]
    inputs = embeddings()
    expected = 2 * RecallLoss(noise=0)(inputs, LABELS) + 0.5 * losses.ContrastiveLoss(neg_margin=0.7)(inputs, LABELS)
    assert build(terms=terms)(inputs, LABELS).item() == pytest.approx(expected.item(), rel=1e-6)
    assert build(weight=3.0, noise=0.0)(inputs, LABELS).item() == pytest.approx(
        3 * RecallLoss(noise=0)(inputs, LABELS).item(), rel=1e-6
    )


def test_a_memory_wraps_the_loss_and_its_miner():
    loss = build(name="contrastive", miner="pair_margin", memory=64)
    assert type(loss) is CrossBatchMemory
    assert loss.memory_size == 64
    assert isinstance(loss.miner, miners.PairMarginMiner)
    assert type(build(memory=32).loss) is RecallLoss


def test_unknown_names_and_options_are_named_with_the_nearest_ones():
    assert "did you mean triplet" in mistakes(name="tripelt")[0]
    assert "did you mean multi_similarity" in mistakes(name="triplet", miner="multi_similarty")[0]
    assert mistakes(name="triplet", options={"margn": 1}) == [
        "loss: triplet has no option 'margn'; known are margin, swap, smooth_loss, triplets_per_anchor; did you mean margin?"
    ]
    assert (
        "loss: pair_margin has no option 'x'"
        in mistakes(name="triplet", miner="pair_margin", miner_options={"x": 1})[0]
    )
    assert "has no option 'embedding_size'" in mistakes(name="proxy_anchor", options={"embedding_size": 3})[0]
    assert "has no option 'distance'" in mistakes(name="triplet", options={"distance": 3})[0]


def test_missing_options_and_refused_values_are_mistakes():
    assert mistakes(name="ranked_list") == ["loss: ranked_list needs the option margin and Tn; set it under options"]
    assert mistakes(projection="local", gradient="blackbox")[0].startswith("loss.projection 'local'")
    assert mistakes(name="smooth_ap", options={"tau": -1})[0].startswith("loss.options.tau is -1")
    assert mistakes(name="proxy_anchor", memory=64)[0].startswith("loss: proxy_anchor cannot use a memory")


def test_the_mistakes_of_all_terms_come_at_once():
    found = mistakes(terms=[LossTerm(name="x"), LossTerm(), LossTerm(name="triplet", options={"y": 1})])
    assert [line.split(":")[0] for line in found] == ["loss.terms.0", "loss.terms.2"]


OWN = """
from torch import nn

from retrieval.losses import RecallLoss


class Plain(nn.Module):
    def forward(self, embeddings, labels):
        return embeddings.sum()


class WithPairs(nn.Module):
    def forward(self, embeddings, labels, indices_tuple=None):
        return embeddings.sum()


class Alone(nn.Module):
    def forward(self, embeddings):
        return embeddings.sum()


class Recall(RecallLoss):
    def __init__(self, extra=1, **kwargs):
        super().__init__(**kwargs)


class WithProxies(RecallLoss):
    def __init__(self, num_classes=None, **kwargs):
        super().__init__(num_classes=num_classes, embedding_size=16, **kwargs)
"""


@pytest.fixture
def own(tmp_path) -> str:
    """A file of losses that take different arguments."""
    (tmp_path / "own_losses.py").write_text(OWN)
    return f"{tmp_path}/own_losses.py"


def test_an_own_loss_that_takes_no_pairs_is_refused_with_a_miner_before_training(own):
    plain, expected = (
        f"{own}:Plain",
        "is called with (embeddings, labels, indices_tuple) beside a miner, a weight or other",
    )
    for words in ({"miner": "multi_similarity"}, {"weight": 2.0}):
        (mistake,) = mistakes(name=plain, **words)
        assert mistake.startswith(f"loss: {plain} has forward(embeddings, labels), but {expected}")
    (mistake,) = mistakes(terms=[LossTerm(), LossTerm(name=plain)])
    assert mistake.startswith(f"loss.terms.1: {plain} has forward(embeddings, labels), but {expected}")


def test_own_losses_that_can_be_called_are_accepted_and_work(own):
    inputs = embeddings()
    for words in (
        {"name": f"{own}:Plain"},
        {"name": f"{own}:WithPairs", "miner": "multi_similarity"},
        {"terms": [LossTerm(), LossTerm(name=f"{own}:WithPairs")]},
    ):
        assert build(**words)(inputs, LABELS).isfinite()


def test_an_own_recall_loss_has_proxies_only_if_its_constructor_takes_the_number_of_classes(own):
    for name in ("retrieval.losses:RecallLoss", f"{own}:Recall"):
        assert build(name=name).proxies is None
    assert build(name=f"{own}:WithProxies").proxies.shape == (6, 16)


def test_own_losses_and_miners_that_cannot_be_called_at_all_are_refused(own):
    expected = (
        f"loss: {own}:Alone has forward(embeddings), but is called with (embeddings, labels); change its parameters"
    )
    assert mistakes(name=f"{own}:Alone") == [expected]
    assert mistakes(name="triplet", miner=f"{own}:Alone") == [expected]
