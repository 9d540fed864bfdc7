"""Class proxies as a second list of candidates of the recall loss."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from pytorch_metric_learning import distances, miners, reducers
from torch.nn.functional import normalize

from retrieval.losses import CrossBatchMemory, RecallLoss, class_proxies
from retrieval.losses.class_proxies import proxy_losses, proxy_losses_of_inner_products
from retrieval.losses.score_matrix import rank_as_scores
from retrieval.losses.weightings import WEIGHTINGS, soft_cut_offs
from retrieval.solvers import Identity, solve
from retrieval.training.checkpoint import load_checkpoint, save_checkpoint

DIM, CLASSES = 6, 9
LABELS = torch.tensor([0, 0, 3, 3, 3, 8, 1, 1, 8, 5, 3])  # 5 is alone, and four classes are missing
PRESENT = 5
DISTANCES = [
    distances.CosineSimilarity(),
    distances.DotProductSimilarity(normalize_embeddings=False),
    distances.LpDistance(power=2),
    distances.LpDistance(),
    distances.SNRDistance(),
]


def embeddings(dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(LABELS), DIM, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()


def make(proxies: torch.Tensor | None = None, **options) -> RecallLoss:
    torch.manual_seed(0)
    loss = RecallLoss(
        **{"noise": 0, "num_classes": CLASSES, "embedding_size": DIM, "proxy_weight": 1.0} | options
    ).double()
    if proxies is not None:
        loss.proxies.data.copy_(proxies)
    return loss


def second_list(loss: RecallLoss, inputs: torch.Tensor, labels: torch.Tensor = LABELS) -> torch.Tensor:
    """The losses of the queries among the proxies."""
    return loss.against_proxies(inputs, labels)["proxy_loss"]["losses"]


def plain_second_list(scores: torch.Tensor, labels: torch.Tensor, weight, temperature: float) -> torch.Tensor:
    """Query by query: a solver, differentiated by identity, behind the projection that takes the soft maximum off."""

    def take_soft_maximum_off(row: torch.Tensor) -> torch.Tensor:
        return row - temperature * torch.log(torch.exp(row / temperature).sum())

    losses = []
    for row, label in zip(scores, labels.tolist(), strict=True):
        ranks = solve(row, rank_as_scores, gradient=Identity(), projection=take_soft_maximum_off)
        losses.append(weight(ranks[label] - 1))
    return torch.stack(losses)


class TestValueAndGradient:
    @pytest.mark.parametrize("temperature", [0.1, 0.7])
    @pytest.mark.parametrize("weighting", [*WEIGHTINGS, "cut-offs"])
    def test_they_are_those_of_a_solver_and_an_identity_layer_on_the_matrix_of_scores(self, weighting, temperature):
        options = {"ks": [1, 3], "tau": 0.5} if weighting == "cut-offs" else {"weighting": weighting}
        weight = soft_cut_offs([1, 3], 0.5) if weighting == "cut-offs" else WEIGHTINGS[weighting]
        loss, inputs = make(proxy_temperature=temperature, **options), embeddings()
        value = second_list(loss, inputs)
        scores = normalize(inputs, dim=1) @ normalize(loss.proxies, dim=1).T
        expected = plain_second_list(scores, LABELS, weight, temperature)
        torch.testing.assert_close(value, expected)
        incoming = torch.linspace(0.2, 2, len(LABELS), dtype=torch.float64)
        found, right = (torch.autograd.grad(part, (inputs, loss.proxies), incoming) for part in (value, expected))
        torch.testing.assert_close(found, right)
        assert all(part.any() for part in found)

    def test_the_gradient_of_a_score_is_the_slope_at_the_rank_times_the_softmax_less_the_own_entry(self):
        scores = torch.tensor([[0.3, 0.9, 0.1, 0.5], [0.2, 0.1, 0.4, 0.3]], dtype=torch.float64, requires_grad=True)
        labels = torch.tensor([3, 2])
        losses, intruders = proxy_losses(scores, labels, WEIGHTINGS["sqrt"], 0.1)
        assert intruders.tolist() == [1, 0]
        torch.testing.assert_close(losses, torch.tensor([2**0.5 - 1, 0], dtype=torch.float64))
        (gradient,) = torch.autograd.grad(losses.sum(), scores)
        slopes = torch.tensor([[0.5 / 2**0.5], [0.5]], dtype=torch.float64)
        shares = (scores / 0.1).softmax(dim=1).detach()
        torch.testing.assert_close(gradient, slopes * (shares - torch.eye(4, dtype=torch.float64)[labels]))

    def test_with_linear_weights_it_is_the_temperature_times_normalised_softmax(self):
        loss, inputs = make(weighting="linear"), embeddings()
        scores = normalize(inputs, dim=1) @ normalize(loss.proxies, dim=1).T
        cross_entropy = torch.nn.functional.cross_entropy(scores / 0.1, LABELS, reduction="sum")
        expected = torch.autograd.grad(0.1 * cross_entropy, (inputs, loss.proxies))
        found = torch.autograd.grad(second_list(loss, inputs).sum(), (inputs, loss.proxies))
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("slope", [1.0, 2.0])
    def test_tiles_give_what_the_whole_matrix_gives(self, monkeypatch, dtype, slope):
        monkeypatch.setattr(class_proxies, "LEAST", 7)
        monkeypatch.setattr(class_proxies, "ENTRIES", 50)
        generator = torch.Generator().manual_seed(3)
        inputs, proxies = (
            normalize(torch.randn(n, 16, generator=generator, dtype=dtype), dim=1).requires_grad_() for n in (13, 64)
        )
        labels = torch.randint(64, (13,), generator=generator)
        labels[0] = 63  # alone in the last tile
        found = proxy_losses_of_inner_products(inputs, proxies, labels, WEIGHTINGS["log"], 0.2, slope)
        expected = proxy_losses(slope * inputs @ proxies.T - 1, labels, WEIGHTINGS["log"], 0.2)
        torch.testing.assert_close(found, expected)
        assert found[1].max() > 9
        slopes = [torch.autograd.grad(losses.sum(), (inputs, proxies)) for losses, _ in (found, expected)]
        torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)

    def test_a_tie_counts_and_equal_proxies_are_the_worst(self):
        equal = make(torch.ones(CLASSES, DIM))
        worst = (1 + torch.tensor(CLASSES - 1.0, dtype=torch.float64)).sqrt() - 1
        torch.testing.assert_close(second_list(equal, embeddings()), worst.expand(len(LABELS)))
        in_float32 = second_list(equal.float(), embeddings(torch.float32))
        torch.testing.assert_close(in_float32.double(), worst.expand(len(LABELS)))

    def test_near_its_own_proxy_a_query_has_no_loss_and_in_float32_a_gradient_that_does_not_cancel(self):
        proxies = torch.eye(CLASSES, DIM).requires_grad_()
        labels = torch.tensor([0, 1])
        losses, _ = proxy_losses_of_inner_products(proxies.detach()[:2], proxies, labels, WEIGHTINGS["sqrt"], 0.05)
        assert losses.eq(0).all()
        (gradient,) = torch.autograd.grad(losses.sum(), proxies)
        exact = 0.5 * 8 * torch.exp(torch.tensor(-20.0, dtype=torch.float64))  # 1 - softmax, rounded to 0 in float32
        assert -gradient[0, 0].item() == pytest.approx(exact.item(), rel=0.2)

    @pytest.mark.parametrize("part", ["query", "proxy"])
    def test_what_is_not_finite_shows_in_the_loss(self, part):
        loss, inputs = make(), embeddings()
        (inputs if part == "query" else loss.proxies).data[4, 2] = torch.nan
        assert second_list(loss, inputs).isnan().any()

    def test_a_second_derivative_is_refused(self):
        inputs = embeddings()
        with pytest.raises(RuntimeError, match="create_graph"):
            torch.autograd.grad(second_list(make(), inputs).sum(), inputs, create_graph=True)

    def test_only_what_needs_a_gradient_gets_one(self):
        inputs, frozen = embeddings(), make().requires_grad_(False)
        (expected,) = torch.autograd.grad(second_list(make(), inputs).sum(), inputs)
        assert torch.equal(torch.autograd.grad(second_list(frozen, inputs).sum(), inputs)[0], expected)
        loss = make()
        loss(inputs.detach(), LABELS).backward()
        assert loss.proxies.grad.any()


class TestInTheLoss:
    @pytest.mark.parametrize("projection", ["std", "none", "local", "softmax"])
    def test_it_is_added_to_the_loss_of_the_first_list(self, projection):
        loss, inputs = make(projection=projection, proxy_weight=0.3), embeddings()
        expected = RecallLoss(projection, noise=0)(inputs, LABELS) + 0.3 * second_list(make(), inputs).mean()
        torch.testing.assert_close(loss(inputs, LABELS), expected)
        found, right = (torch.autograd.grad(value, inputs)[0] for value in (loss(inputs, LABELS), expected))
        torch.testing.assert_close(found, right)

    def test_without_classes_there_is_no_parameter_and_no_second_list(self):
        loss = RecallLoss(noise=0)
        assert loss.proxies is None
        assert not list(loss.parameters())
        assert not loss.state_dict()
        assert loss.sub_loss_names() == ["loss"]

    def test_by_itself_the_weight_is_the_share_of_the_classes_in_the_batch(self):
        inputs = embeddings()
        auto, one = (second_list(make(proxy_weight=weight), inputs) for weight in ("auto", 1.0))
        torch.testing.assert_close(auto, PRESENT / CLASSES * one)
        some = slice(2, 5)
        auto, one = (second_list(make(proxy_weight=w), inputs[some], LABELS[some]) for w in ("auto", 1.0))
        torch.testing.assert_close(auto, one / CLASSES)

    def test_every_query_is_an_element_also_without_a_relevant_reference(self):
        loss = make(reducer=reducers.DoNothingReducer())
        found = loss(embeddings(), LABELS)
        assert list(found) == loss.sub_loss_names() == ["loss", "proxy_loss"]
        assert torch.equal(found["proxy_loss"]["indices"], torch.arange(len(LABELS)))
        assert found["proxy_loss"]["reduction_type"] == "element"
        alone = make()(embeddings()[:3], LABELS[[0, 2, 5]])
        torch.testing.assert_close(alone, second_list(make(), embeddings()[:3], LABELS[[0, 2, 5]]).mean())

    @pytest.mark.parametrize(
        ("reducer", "reduce"),
        [
            (reducers.SumReducer(), lambda losses: losses.sum()),
            (reducers.AvgNonZeroReducer(), lambda losses: losses[losses > 0].mean()),
            (reducers.MultipleReducers({"proxy_loss": reducers.SumReducer()}), lambda losses: losses.sum()),
        ],
        ids=["sum", "non-zero", "by name"],
    )
    def test_a_reducer_reduces_each_list(self, reducer, reduce):
        loss, inputs = make(reducer=reducer), embeddings()
        by_name = isinstance(reducer, reducers.MultipleReducers)
        first = RecallLoss(noise=0, reducer=None if by_name else reducer)(inputs, LABELS)
        torch.testing.assert_close(loss(inputs, LABELS), first + reduce(second_list(make(), inputs)))

    @pytest.mark.parametrize("distance", DISTANCES, ids=repr)
    @pytest.mark.parametrize("weighting", ["sqrt", "log"])
    def test_the_scores_are_those_of_the_distance(self, distance, weighting):
        loss, inputs = make(distance=distance, weighting=weighting), embeddings()
        value = second_list(loss, inputs)
        matrix = distance(inputs, loss.proxies)
        scores = matrix if distance.is_inverted else -matrix
        expected = plain_second_list(scores, LABELS, WEIGHTINGS[weighting], 0.1)
        torch.testing.assert_close(value, expected)
        found, right = (torch.autograd.grad(part.sum(), (inputs, loss.proxies)) for part in (value, expected))
        torch.testing.assert_close(found, right)

    def test_a_miner_and_other_gradients_change_the_first_list_only(self):
        inputs = embeddings()
        mined = miners.MultiSimilarityMiner()(inputs, LABELS)
        second = second_list(make(), inputs).mean()
        torch.testing.assert_close(make()(inputs, LABELS, mined), RecallLoss(noise=0)(inputs, LABELS, mined) + second)
        blackbox = {"gradient": "blackbox", "margin": 0.3}
        loss, expected = make(**blackbox)(inputs, LABELS), RecallLoss(noise=0, **blackbox)(inputs, LABELS) + second
        torch.testing.assert_close(loss, expected)
        found, right = (torch.autograd.grad(value, inputs)[0] for value in (loss, expected))
        torch.testing.assert_close(found, right)

    def test_references_are_no_queries_of_the_second_list(self):
        inputs, others = embeddings(), embeddings(seed=1)
        references = {"ref_emb": others, "ref_labels": LABELS}
        expected = RecallLoss(noise=0)(inputs, LABELS, **references) + second_list(make(), inputs).mean()
        torch.testing.assert_close(make()(inputs, LABELS, **references), expected)
        none = {"ref_emb": others[:0], "ref_labels": LABELS[:0]}
        torch.testing.assert_close(make()(inputs, LABELS, **none), second_list(make(), inputs).mean())

    def test_with_a_memory_the_second_list_is_of_the_batch(self):
        inputs = embeddings()
        memory = CrossBatchMemory(make(proxy_weight="auto"), DIM, 32)
        plain = CrossBatchMemory(RecallLoss(noise=0), DIM, 32)
        assert [name for name, _ in memory.named_parameters()] == ["loss.proxies"]
        for seed, some in enumerate((slice(None), slice(0, 5), slice(4, 9))):
            batch, labels = embeddings(seed=seed)[some], LABELS[some]
            second = second_list(make(proxy_weight="auto"), batch, labels).mean()
            torch.testing.assert_close(memory(batch, labels), plain(batch, labels) + second)
        entering = torch.arange(len(LABELS)) < 4
        second = second_list(make(proxy_weight="auto"), inputs[4:], LABELS[4:]).mean()
        found, first = (each(inputs, LABELS, enqueue_mask=entering) for each in (memory, plain))
        torch.testing.assert_close(found, first + second)

    def test_no_embedding_gives_zero_and_a_gradient(self):
        loss, inputs = make(), embeddings()
        empty = inputs[:0].detach().requires_grad_()
        value = loss(empty, LABELS[:0])
        value.backward()
        assert value == 0
        assert empty.grad.shape == empty.shape

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float32])
    def test_labels_of_any_dtype_name_proxies(self, dtype):
        assert torch.equal(make()(embeddings(), LABELS.to(dtype)), make()(embeddings(), LABELS))

    @pytest.mark.parametrize("distance", DISTANCES[:4:3], ids=repr)
    def test_the_mean_of_the_intruders_is_a_statistic(self, distance):
        loss = make(collect_stats=True, distance=distance, weighting="linear")
        inputs = embeddings()
        loss(inputs, LABELS)
        assert loss.proxy_intruders == second_list(loss, inputs).mean().item() > 0
        assert loss.mean_intruders > 0
        assert not hasattr(make(), "proxy_intruders")
        assert not hasattr(RecallLoss(collect_stats=True), "proxy_intruders")


class TestPrecision:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_the_loss_is_float32_at_least_and_gradients_are_of_their_own_kind(self, dtype):
        inputs, loss = embeddings(dtype), make().float()
        value = loss(inputs, LABELS)
        value.backward()
        assert value.dtype == torch.promote_types(dtype, torch.float32)
        assert inputs.grad.dtype == dtype
        assert loss.proxies.dtype == loss.proxies.grad.dtype == torch.float32
        exact = make(loss.proxies)(inputs.detach().double(), LABELS)
        torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("distance", DISTANCES[:4:3], ids=repr)
    def test_autocast_changes_nothing_forward_or_backward(self, distance):
        loss, inputs = make(distance=distance).float(), embeddings(torch.float32)
        expected = loss(inputs, LABELS)
        right = torch.autograd.grad(expected, (inputs, loss.proxies))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(inputs, LABELS)
            if isinstance(distance, distances.CosineSimilarity):
                assert torch.autograd.grad(value, (inputs, loss.proxies), retain_graph=True)[1].equal(right[1])
        assert torch.equal(value, expected)
        assert all(map(torch.equal, torch.autograd.grad(value, (inputs, loss.proxies)), right))

    def test_in_inference_mode_there_is_a_value(self):
        with torch.inference_mode():
            value = make()(embeddings().detach(), LABELS)
        assert value == make()(embeddings(), LABELS)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
    def test_the_proxies_follow_the_embeddings_to_their_device(self):
        loss = make()
        parameter = loss.proxies
        value = loss(embeddings().detach().cuda(), LABELS)
        value.backward()
        assert loss.proxies is parameter
        assert parameter.grad.device == parameter.device == value.device
        torch.testing.assert_close(value.cpu(), make()(embeddings(), LABELS))


class TestParameter:
    def test_the_state_is_one_tensor_and_copies_compute_the_same(self, tmp_path):
        loss, inputs = make(), embeddings()
        assert list(loss.state_dict()) == ["proxies"]
        assert loss.proxies.shape == (CLASSES, DIM)
        expected = loss(inputs, LABELS)
        save_checkpoint(tmp_path / "state", loss.state_dict())
        other = make(torch.zeros(CLASSES, DIM))
        other.load_state_dict(load_checkpoint(tmp_path / "state"))
        for same in (other, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
            assert same(inputs, LABELS) == expected

    def test_training_proxies_lowers_the_loss(self):
        loss, inputs = make(), embeddings()
        before = loss(inputs, LABELS).item()
        optimizer = torch.optim.Adam(loss.parameters(), lr=0.05, weight_decay=0)
        for _ in range(60):
            optimizer.zero_grad()
            loss(inputs.detach(), LABELS).backward()
            optimizer.step()
        assert loss(inputs, LABELS) < before - 0.3 * second_list(make(), inputs).mean()

    def test_proxies_can_start_as_the_means_of_their_classes(self):
        loss, inputs = make(), embeddings()
        start = loss.proxies.detach().clone()
        loss.init_proxies(3 * inputs, LABELS.to(torch.int16))
        for label in range(CLASSES):
            own = normalize(inputs.detach(), dim=1)[label == LABELS]
            expected = DIM**0.5 * normalize(own.mean(dim=0), dim=0) if len(own) else start[label]
            torch.testing.assert_close(loss.proxies.data[label], expected)
        assert loss.proxies.requires_grad
        raw = make(distance=distances.DotProductSimilarity(normalize_embeddings=False))
        raw.init_proxies(inputs, LABELS)
        torch.testing.assert_close(raw.proxies.data[3], inputs[LABELS == 3].mean(dim=0).detach())

    def test_the_text_shows_its_options(self):
        text = repr(make(proxy_weight="auto"))
        for option in ("num_classes=9", "embedding_size=6", "proxy_weight='auto'", "proxy_temperature=0.1"):
            assert text.count(option) == 1
        assert "num_classes" not in repr(RecallLoss())


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"embedding_size": None}, "num_classes is 9 and embedding_size is None; give both"),
            ({"num_classes": None}, "num_classes is None and embedding_size is 6; give both"),
            ({"num_classes": 1}, "num_classes is 1, expected at least 2"),
            ({"embedding_size": 0}, "embedding_size is 0, expected at least 1"),
            ({"proxy_weight": "all"}, "proxy_weight is 'all', expected 'auto' or a finite number"),
            ({"proxy_weight": -0.1}, "proxy_weight is -0.1, expected"),
            ({"proxy_weight": float("nan")}, "proxy_weight is nan, expected"),
            ({"proxy_temperature": 0.0}, "proxy_temperature is 0.0, expected"),
        ],
    )
    def test_options_that_cannot_be_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            make(**options)

    @pytest.mark.parametrize("label", [-1, CLASSES, 10**12, 1.5, float("nan")])
    def test_labels_that_are_no_proxy_are_refused(self, label):
        labels = LABELS.to(torch.float64 if isinstance(label, float) else torch.int64).clone()
        labels[4] = label
        for call in (make(), make().init_proxies):
            with pytest.raises(ValueError, match=rf"a label is {label}, expected 0 .. 8, the numbers of the class"):
                call(embeddings(), labels)

    def test_embeddings_and_calls_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match=r"embeddings have shape \(11, 5\), expected \(batch, 6\)"):
            make()(embeddings()[:, :5], LABELS)
        with pytest.raises(ValueError, match="class proxies need labels"):
            make()(embeddings(), indices_tuple=(torch.tensor([0]), torch.tensor([1]), torch.tensor([2])))
        with pytest.raises(ValueError, match="the loss has no proxies; give it num_classes"):
            RecallLoss().init_proxies(embeddings(), LABELS)
