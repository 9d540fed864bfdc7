"""What pytorch-metric-learning asks of every loss, as its own tests ask it of its losses, for the losses of this project."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from pytorch_metric_learning import distances, losses, reducers, regularizers

from retrieval.losses import RamboLoss, RecallLoss, RecallSurrogateLoss, SmoothAPLoss

LOSSES = {
    **{
        name: lambda name=name, **kwargs: RecallLoss(name, noise=0, **kwargs)
        for name in ("std", "none", "local", "softmax")
    },
    "blackbox": lambda **kwargs: RecallLoss(gradient="blackbox", noise=0, **kwargs),
    "smooth_ap": lambda **kwargs: SmoothAPLoss(tau=0.1, **kwargs),
    "recall_surrogate": lambda **kwargs: RecallSurrogateLoss(tau_rank=0.1, **kwargs),
    "rambo": lambda **kwargs: RamboLoss(lambda_=20.0, **kwargs),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"))]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
DISTANCES = [
    distances.CosineSimilarity(),
    distances.DotProductSimilarity(),
    distances.DotProductSimilarity(normalize_embeddings=False),
    distances.LpDistance(),
    distances.LpDistance(power=2),
    distances.LpDistance(p=1),
    distances.LpDistance(normalize_embeddings=False),
    distances.SNRDistance(),
]
LABELS = torch.tensor([0, 2, 0, 1, 1, 2, 0, 7, 2])
ANGLES = [0.0, 65.3, 41.7, 62.9, 19.6, 85.2, 11.1, 28.4, 53.05]  # no two at one distance from a third


@pytest.fixture(params=LOSSES)
def make(request):
    return LOSSES[request.param]


def at(angles: list[float], dtype: torch.dtype = torch.float64, device: str = "cpu") -> torch.Tensor:
    """Points of the circle at these angles."""
    radians = torch.tensor(angles, dtype=torch.float64) * math.pi / 180
    return torch.stack([radians.cos(), radians.sin()], dim=1).to(device, dtype).requires_grad_()


def all_pairs(labels: torch.Tensor, ref_labels: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    same = labels[:, None] == (labels if ref_labels is None else ref_labels)
    own = torch.eye(len(labels), dtype=torch.bool) if ref_labels is None else torch.zeros_like(same)
    return *torch.where(same & ~own), *torch.where(~same)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", DEVICES)
def test_every_dtype_and_device_gives_the_value_and_a_gradient_of_its_own_kind(make, dtype, device):
    rounded = at(ANGLES, dtype).detach().double()  # halves of some pairs of scores change places by rounding
    embeddings = rounded.to(device, dtype).requires_grad_()
    value = make()(embeddings, LABELS)  # the host moves labels to the device
    value.backward()
    assert value.device == embeddings.grad.device == embeddings.device
    assert embeddings.grad.dtype == dtype
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert embeddings.grad.isfinite().all()
    assert embeddings.grad.any()
    torch.testing.assert_close(value.cpu().double(), make()(rounded, LABELS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("angles", "labels"),
    [([], []), ([0], [0]), ([0, 40, 60], [1, 2, 3])],
    ids=["no embedding", "one embedding", "lone labels"],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_without_a_valid_pair_the_loss_is_zero_and_has_a_gradient(make, angles, labels, dtype):
    embeddings = at(angles, dtype)
    value = make()(embeddings, torch.tensor(labels, dtype=torch.long))
    value.backward()
    assert value == 0
    assert embeddings.grad.eq(0).all()
    assert embeddings.grad.shape == embeddings.shape


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "recall_surrogate"])  # which is above 0 by design
def test_of_one_label_alone_the_loss_is_zero(name):
    embeddings = at([0, 10, 20])
    value = LOSSES[name]()(embeddings, torch.zeros(3, dtype=torch.long))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    if name != "none":  # without a projection, relevant scores are raised whether or not there is an irrelevant one
        assert embeddings.grad.norm().item() == pytest.approx(0, abs=1e-12)


def test_an_indices_tuple_of_all_pairs_is_as_good_as_labels(make):
    expected_at, found_at = at(ANGLES), at(ANGLES)
    expected, found = make()(expected_at, LABELS), make()(found_at, indices_tuple=all_pairs(LABELS))
    torch.testing.assert_close(found, expected)
    for value in (expected, found):
        value.backward()
    torch.testing.assert_close(found_at.grad, expected_at.grad)
    torch.testing.assert_close(make()(found_at, LABELS, all_pairs(LABELS)), expected)


def test_triplets_are_the_pairs_they_consist_of(make):
    anchors, positives, negatives = torch.tensor([0, 0, 3]), torch.tensor([2, 6, 4]), torch.tensor([1, 3, 5])
    triplets, pairs = (anchors, positives, negatives), (anchors, positives, anchors, negatives)
    assert make()(at(ANGLES), LABELS, triplets) == make()(at(ANGLES), LABELS, pairs)


@pytest.mark.parametrize("length", [3, 4])
def test_an_empty_indices_tuple_gives_zero(make, length):
    embeddings = at(ANGLES)
    value = make()(embeddings, LABELS, (torch.empty(0, dtype=torch.long),) * length)
    value.backward()
    assert value == 0
    assert embeddings.grad.eq(0).all()


@pytest.mark.parametrize("negatives", [torch.empty(0, dtype=torch.long), torch.tensor([1])])
def test_mined_positives_without_negatives_of_their_anchor_are_allowed(make, negatives):
    pairs = torch.tensor([0]), torch.tensor([2]), 0 * negatives + 3, negatives
    assert make()(at(ANGLES), LABELS, pairs).isfinite()


def test_references_are_compared_with_and_pulled_too(make):
    queries, references = at(ANGLES), at([5, 33, 71, 88, 14])
    ref_labels = torch.tensor([0, 1, 2, 0, 9])
    value = make()(queries, LABELS, ref_emb=references, ref_labels=ref_labels)
    value.backward()
    assert queries.grad.any()
    assert references.grad.any()
    mined = make()(queries, None, all_pairs(LABELS, ref_labels), references)
    torch.testing.assert_close(mined, value)
    with torch.no_grad():
        torch.testing.assert_close(make()(queries, LABELS, ref_emb=references, ref_labels=ref_labels), value)


def test_references_that_are_the_embeddings_leave_out_no_query_itself_unless_they_are_the_same_tensor(make):
    embeddings = at(ANGLES)
    alone = make()(embeddings, LABELS)
    assert make()(embeddings, LABELS, ref_emb=embeddings, ref_labels=LABELS) == alone
    copies = make()(embeddings, LABELS, ref_emb=embeddings.clone(), ref_labels=LABELS.clone())
    assert copies != alone  # each query finds its copy first


@pytest.mark.parametrize("empty", ["queries", "references"])
def test_no_query_or_no_reference_gives_zero(make, empty):
    queries, references = at([] if empty == "queries" else ANGLES), at([] if empty == "references" else ANGLES)
    labels, ref_labels = (LABELS[: len(part)] for part in (queries, references))
    value = make()(queries, labels, ref_emb=references, ref_labels=ref_labels)
    value.backward()
    assert value == 0


class TestDistances:
    @pytest.mark.parametrize("distance", DISTANCES, ids=repr)
    def test_every_distance_of_the_host_is_taken_with_its_own_order(self, make, distance):
        embeddings = at(ANGLES)
        value = make(distance=distance)(embeddings, LABELS)
        value.backward()
        assert embeddings.grad.isfinite().all()
        matrix = distance(at(ANGLES))
        scores = matrix if distance.is_inverted else -matrix
        same = LABELS[:, None] == LABELS
        relevant = same & ~torch.eye(len(LABELS), dtype=torch.bool)
        expected = make().losses_of_queries(scores, relevant, ~same)[relevant.any(dim=1)].mean()
        torch.testing.assert_close(value, expected)

    def test_a_distance_with_parameters_is_trained_with_the_loss(self, make):
        class Weighted(distances.DotProductSimilarity):
            def __init__(self) -> None:
                super().__init__(normalize_embeddings=False)
                self.weight = torch.nn.Parameter(torch.tensor([1.0, 0.7], dtype=torch.float64))

            def compute_mat(self, query_emb, ref_emb):
                return super().compute_mat(query_emb * self.weight, ref_emb)

        loss = make(distance=Weighted())
        assert [name for name, _ in loss.named_parameters()] == ["distance.weight"]
        loss(at(ANGLES), LABELS).backward()
        assert loss.distance.weight.grad.any()

    def test_a_loss_has_no_parameters_of_its_own(self, make):
        loss = make()
        assert not list(loss.parameters())
        assert not loss.state_dict()


class TestReducersAndRegularizers:
    def test_there_is_one_sub_loss_with_an_element_for_each_query_that_counts(self, make):
        loss = make(reducer=reducers.DoNothingReducer())
        found = loss(at(ANGLES), LABELS)
        assert list(found) == loss.sub_loss_names() == ["loss"]
        assert found["loss"]["reduction_type"] == "element"
        assert torch.equal(found["loss"]["indices"], torch.where(LABELS != 7)[0])
        assert found["loss"]["losses"].shape == (8,)

    @pytest.mark.parametrize(
        "reducer",
        [
            reducers.MeanReducer(),
            reducers.SumReducer(),
            reducers.AvgNonZeroReducer(),
            reducers.ThresholdReducer(low=0.1),
            reducers.PerAnchorReducer(),
            reducers.ClassWeightedReducer(torch.linspace(1, 2, 8)),
            reducers.MultipleReducers({"loss": reducers.SumReducer()}),
        ],
        ids=lambda reducer: type(reducer).__name__,
    )
    @pytest.mark.parametrize("labels", [LABELS, torch.arange(9)], ids=["pairs", "no pair"])
    def test_every_reducer_returns_a_scalar_with_a_gradient(self, make, reducer, labels):
        embeddings = at(ANGLES)
        value = make(reducer=reducer)(embeddings, labels % 8)
        value.backward()
        assert value.shape == ()
        assert embeddings.grad.isfinite().all()

    @pytest.mark.parametrize(
        "regularizer", [regularizers.LpRegularizer(), regularizers.ZeroMeanRegularizer()], ids=repr
    )
    @pytest.mark.parametrize("labels", [LABELS, torch.arange(9)], ids=["pairs", "no pair"])
    def test_an_embedding_regularizer_is_added_with_its_weight(self, make, regularizer, labels):
        loss = make(embedding_regularizer=regularizer, embedding_reg_weight=0.3)
        assert loss.sub_loss_names() == ["loss", "embedding_reg_loss"]
        value, plain = loss(at(ANGLES), labels), make()(at(ANGLES), labels)
        added = regularizer(at(ANGLES))
        torch.testing.assert_close(value, plain + 0.3 * added)
        assert added > 0

    def test_beside_a_regularizer_the_loss_is_still_float32(self, make):
        half = at(ANGLES, torch.bfloat16)
        value = make(embedding_regularizer=regularizers.LpRegularizer())(half, LABELS)
        assert value.dtype == torch.float32
        value.backward()
        assert half.grad.dtype == torch.bfloat16

    def test_it_is_a_part_of_a_sum_of_losses(self, make):
        both = losses.MultipleLosses(
            {"ours": make(), "theirs": losses.ContrastiveLoss()}, weights={"ours": 2, "theirs": 1}
        )
        expected = 2 * make()(at(ANGLES), LABELS) + losses.ContrastiveLoss()(at(ANGLES), LABELS)
        torch.testing.assert_close(both(at(ANGLES), LABELS), expected)


class TestMistakes:
    def test_other_numbers_of_labels_and_other_shapes_are_refused(self, make):
        for embeddings, labels in ((at(ANGLES), LABELS[:-1]), (at(ANGLES), LABELS[:, None])):
            with pytest.raises(ValueError, match="labels"):
                make()(embeddings, labels)
        with pytest.raises(ValueError, match="Number of embeddings must equal number of labels"):
            make()(at(ANGLES), LABELS, ref_emb=at(ANGLES), ref_labels=LABELS[:-1])
        with pytest.raises(ValueError, match="embeddings must be a 2D tensor"):
            make()(at(ANGLES)[:, :, None], LABELS)

    def test_neither_labels_nor_pairs_are_refused(self, make):
        with pytest.raises(ValueError, match="labels and indices_tuple cannot both be None"):
            make()(at(ANGLES))
        with pytest.raises(ValueError, match="give labels and ref_labels, or an indices_tuple"):
            make()(at(ANGLES), LABELS, ref_emb=at(ANGLES))


def test_the_order_of_the_batch_does_not_matter(make):
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    embeddings, shuffled = at(ANGLES), at([ANGLES[i] for i in order])
    values = [make()(embeddings, LABELS), make()(shuffled, LABELS[order])]
    torch.testing.assert_close(*values)
    for value in values:
        value.backward()
    torch.testing.assert_close(shuffled.grad, embeddings.grad[order])


def test_calling_changes_no_input_and_repeats(make):
    loss, embeddings, labels = make(), at(ANGLES), LABELS.clone()
    wide = torch.stack([embeddings.detach(), -embeddings.detach()], dim=2)[:, :, 0]
    assert not wide.is_contiguous()
    first = loss(embeddings, labels)
    assert loss(embeddings, labels) == first == loss(wide, labels)
    assert torch.equal(embeddings, at(ANGLES))
    assert torch.equal(labels, LABELS)


def test_copies_and_pickles_compute_the_same(make):
    loss = make()
    expected = loss(at(ANGLES), LABELS)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other(at(ANGLES), LABELS) == expected
