from __future__ import annotations

import gc
import subprocess
import sys

import pytest
import torch
from pytorch_metric_learning.distances import DotProductSimilarity
from pytorch_metric_learning.reducers import DoNothingReducer

from retrieval.losses import RamboLoss, RecallLoss, closed_form, moments, recall_loss, score_tiles
from retrieval.losses.recall import PROJECTIONS
from retrieval.losses.weightings import WEIGHTINGS
from retrieval.solvers import two_point

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def unit(count: int, dim: int = 16, seed: int = 0) -> torch.Tensor:
    vectors = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=1)


def numbers(count: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(seed))


def with_duplicates(vectors: torch.Tensor) -> torch.Tensor:
    vectors = vectors.clone()
    vectors[-1], vectors[3], vectors[5] = vectors[0], vectors[2], vectors[0]
    return vectors


UNEQUAL = torch.tensor([0, 0, 0, 0, 0, 1, 1, 7, 2, 2, 2])  # with a lone label

# name: queries, references (None: the queries themselves), labels, labels of the references
CASES = {
    "3 classes of 4": (unit(12), None, torch.arange(3).repeat_interleave(4), None),
    "5 classes of 2, shuffled": (unit(10), None, torch.tensor([3, 1, 4, 0, 2, 2, 0, 1, 3, 4]), None),
    "unequal sizes and a lone label": (unit(11), None, UNEQUAL, None),
    "duplicates across classes": (with_duplicates(unit(11)), None, UNEQUAL, None),
    "one query": (unit(1), None, torch.tensor([3]), None),
    "negative and huge labels": (unit(6), None, torch.tensor([-1, 2**40, -1, 2**40, 2**40 + 1, 2**40 + 1]), None),
    "separate references": (unit(7), unit(13, seed=1), torch.tensor([0, 0, 1, 5, 2, 2, 9]), numbers(13, 4)),
    "one reference": (unit(3).abs(), unit(1, seed=1).abs(), torch.tensor([0, 1, 0]), torch.tensor([0])),
    "many tiles": (unit(300, seed=2), None, numbers(300, 60), None),
    "large classes": (unit(300, seed=6), None, numbers(300, 3, seed=7), None),
    "one large class among small ones": (unit(200, seed=8), None, numbers(200, 80, seed=9).clamp(min=30), None),
    "large classes of references": (unit(70, seed=3), unit(400, seed=4), numbers(70, 3), numbers(400, 3, seed=5)),
    "many tiles of references": (unit(70, seed=3), unit(400, seed=4), numbers(70, 50), numbers(400, 50, seed=5)),
}


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that a few hundred rows need many, of uneven sizes."""
    monkeypatch.setattr(score_tiles, "TILE", 64)
    monkeypatch.setattr(score_tiles, "BAND", 7)
    monkeypatch.setattr(score_tiles, "ENTRIES", 500)
    monkeypatch.setattr(moments, "COLUMNS", 6)


def both(case: str, dtype: torch.dtype, **options) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Value and gradients by the closed form and by the definition, as they come from the same embeddings, without noise."""
    options = {"noise": 0} | options
    queries, references, labels, ref_labels = CASES[case]
    inputs = [t.to(dtype).requires_grad_() for t in (queries, references) if t is not None]
    same = labels[:, None] == (labels if ref_labels is None else ref_labels)
    relevant = same if ref_labels is not None else same & ~torch.eye(len(labels), dtype=torch.bool)

    loss = RecallLoss(distance=DotProductSimilarity(normalize_embeddings=False), **options)
    assert loss._has_closed_form()
    value = (
        loss(inputs[0], labels)
        if references is None
        else loss(inputs[0], labels, ref_emb=inputs[1], ref_labels=ref_labels)
    )

    scores = inputs[0] @ inputs[-1].T
    # A product of equal vectors may differ in its last bits from place to place; on a grid they tie, as duplicates should.
    grid = {torch.float64: 1e12, torch.float32: 1e6}[dtype]
    scores = scores + ((scores.detach() * grid).round() / grid - scores.detach())
    expected = recall_loss(scores, relevant, ~same, **options)
    return [value, *torch.autograd.grad(value, inputs)], [expected, *torch.autograd.grad(expected, inputs)]


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], dtype: torch.dtype) -> None:
    for left, right in zip(found, expected, strict=True):
        assert left.dtype == dtype
        assert left.isfinite().all()
        error = (left - right).norm()
        assert error <= TOLERANCE[dtype] * max(right.norm().item(), 0.1), error


@pytest.mark.parametrize("columns", [3, 5, 128])
def test_symmetric_products_and_quadratic_forms_are_those_of_the_whole_matrix(monkeypatch, columns):
    monkeypatch.setattr(moments, "COLUMNS", columns)
    rows, weights = unit(20, dim=10), unit(20, dim=1, seed=1)
    found = moments.symmetric_product(rows, weights * rows)
    torch.testing.assert_close(found, rows.T @ (weights * rows))
    expected = ((rows @ found) * rows).sum(dim=1)
    torch.testing.assert_close(moments.quadratic_forms(rows, found), expected)


@pytest.mark.usefixtures("small_tiles")
class TestAgreementWithTheDefinition:
    @pytest.mark.parametrize("dtype", TOLERANCE)
    @pytest.mark.parametrize("projection", PROJECTIONS)
    @pytest.mark.parametrize("case", CASES)
    def test_value_and_gradients_agree_for_every_projection(self, case, projection, dtype):
        assert_close(*both(case, dtype, projection=projection, weighting="log"), dtype)

    @pytest.mark.parametrize("projection", ["std", "local", "softmax"])
    @pytest.mark.parametrize("weighting", WEIGHTINGS)
    def test_value_and_gradients_agree_for_every_weighting(self, weighting, projection):
        assert_close(
            *both("unequal sizes and a lone label", torch.float64, projection=projection, weighting=weighting),
            torch.float64,
        )

    @pytest.mark.parametrize("case", ["3 classes of 4", "separate references", "many tiles"])
    @pytest.mark.parametrize(
        "options",
        [
            {"ks": (1, 2, 4, 8)},
            {"ks": (3,), "tau": 0.5},
            {"margin": 0.05},
            {"projection": "local", "local_margin": 0.0},
            {"projection": "local", "local_margin": 3.0, "margin": 0.02},
            {"projection": "softmax", "temperature": 0.01, "margin": 0.02},
            {"projection": "softmax", "temperature": 5.0},
        ],
        ids=str,
    )
    def test_value_and_gradients_agree_for_every_option(self, case, options):
        assert_close(*both(case, torch.float64, **options), torch.float64)

    @pytest.mark.parametrize("case", ["many tiles", "large classes", "one large class among small ones"])
    @pytest.mark.parametrize("projection", ["std", "local", "softmax"])
    def test_the_default_tiles_give_the_same(self, monkeypatch, projection, case):
        small, _ = both(case, torch.float64, projection=projection)
        monkeypatch.undo()
        large, _ = both(case, torch.float64, projection=projection)
        assert_close(small, large, torch.float64)

    @pytest.mark.parametrize("share", [0.0, 100.0], ids=["never mirrored", "always mirrored"])
    @pytest.mark.parametrize("case", ["many tiles", "large classes"])
    @pytest.mark.parametrize("projection", ["std", "local", "softmax"])
    def test_mirrored_tiles_give_the_same(self, monkeypatch, projection, case, share):
        monkeypatch.setattr(score_tiles, "SHARE", share)
        assert_close(*both(case, torch.float64, projection=projection), torch.float64)

    @pytest.mark.parametrize("case", ["many tiles", "large classes", "many tiles of references"])
    @pytest.mark.parametrize("projection", ["std", "local", "softmax"])
    def test_three_threads_give_the_same(self, projection, case):
        number = torch.get_num_threads()
        torch.set_num_threads(3)
        try:
            assert_close(*both(case, torch.float64, projection=projection), torch.float64)
            with torch.inference_mode():
                assert RecallLoss(projection, noise=0)(CASES["many tiles"][0], CASES["many tiles"][2]) > 0
            assert torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(number)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_own_copies_among_separate_references_are_no_candidates(projection):
    references = with_duplicates(unit(300, seed=2)).requires_grad_()
    ref_labels, own = numbers(300, 60), torch.randperm(300, generator=torch.Generator().manual_seed(3))[:70]
    queries, labels = references.detach()[own].requires_grad_(), ref_labels[own]
    distance = DotProductSimilarity(normalize_embeddings=False)
    settings = RecallLoss(projection, weighting="log", distance=distance, noise=0)._settings()
    value = closed_form.closed_form(queries, references, labels, ref_labels, settings, own).losses

    same = labels[:, None] == ref_labels
    scores = queries @ references.T
    scores = scores + ((scores.detach() * 1e12).round() / 1e12 - scores.detach())
    relevant = same.scatter(1, own[:, None], False)
    expected = recall_loss(scores, relevant, ~same, projection=projection, weighting="log", reduction="none", noise=0)
    found, right = (
        [loss, *torch.autograd.grad(loss.sum(), (queries, references), retain_graph=True)] for loss in (value, expected)
    )
    assert_close(found, right, torch.float64)


@pytest.mark.parametrize("memory", [False, True], ids=["one batch", "own copies"])
def test_a_query_far_from_all_others_is_measured_without_its_own_entry(memory):
    labels = torch.arange(12) % 4
    close = torch.nn.functional.normalize(unit(1) + 0.01 * unit(11, seed=1), dim=1)
    queries = torch.cat([unit(1, seed=2), close]).requires_grad_()
    references, own = (queries.detach().clone(), torch.arange(12)) if memory else (None, None)
    settings = RecallLoss(distance=DotProductSimilarity(normalize_embeddings=False), noise=0)._settings()
    value = closed_form.closed_form(queries, references, labels, labels, settings, own).losses

    same = labels[:, None] == labels
    scores = queries @ (queries if references is None else references).T
    expected = recall_loss(scores, same & ~torch.eye(12, dtype=torch.bool), ~same, reduction="none", noise=0)
    found, right = ([loss, *torch.autograd.grad(loss.sum(), queries)] for loss in (value, expected))
    assert_close(found, right, torch.float64)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("projection", ["std", "local", "softmax"])
def test_collapsed_embeddings_and_flat_rows_have_a_finite_value_and_no_gradient(projection, dtype):
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 3])
    collapsed = unit(1).to(dtype).expand(9, -1).clone()
    flat_but_for_one = collapsed.clone()
    flat_but_for_one[0] = unit(1, seed=5)[0].to(dtype)
    for embeddings in (collapsed, flat_but_for_one):
        embeddings.requires_grad_()
        loss = RecallLoss(projection, noise=0)(embeddings, labels)
        (gradient,) = torch.autograd.grad(loss, embeddings)
        assert gradient.isfinite().all()
        assert gradient.norm() < (1e3 if projection == "std" else 10)
    assert loss >= 0
    collapsed_loss = RecallLoss(projection, noise=0)(collapsed, labels)
    assert torch.autograd.grad(collapsed_loss, collapsed)[0].eq(0).all()


COLLAPSED = {
    "equal": lambda dtype: unit(1).to(dtype).expand(9, -1).clone(),
    "equal but for rounding": lambda dtype: unit(1).to(dtype) * (1 + torch.finfo(dtype).eps * numbers(9, 2)[:, None]),
    "zero": lambda dtype: torch.zeros(9, 16, dtype=dtype),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("collapsed", COLLAPSED)
@pytest.mark.parametrize("gradient", ["identity", "blackbox"], ids=["closed form", "definition"])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_collapsed_embeddings_have_the_largest_loss_that_there_is(projection, gradient, collapsed, dtype):
    if gradient == "blackbox" and projection in ("local", "softmax"):
        gradient = "identity"
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 3])
    embeddings = COLLAPSED[collapsed](dtype)
    loss = RecallLoss(projection, weighting="linear", gradient=gradient, collect_stats=True, noise=0)
    if gradient == "identity" or collapsed == "zero":  # products of equal rows may differ in their last bits
        assert loss(embeddings, labels) == pytest.approx((6 * 7 + 3 * 6) / 9)
        assert (loss.perfect_queries, loss.mean_intruders) == (0, pytest.approx((6 * 7 + 3 * 2 * 6) / 12))
    scores = torch.ones(9, 9, dtype=dtype)
    relevant = (labels[:, None] == labels) & ~torch.eye(9, dtype=torch.bool)
    defined = recall_loss(
        scores,
        relevant,
        labels[:, None] != labels,
        projection=projection,
        weighting="linear",
        gradient=gradient,
        noise=0,
    )
    assert defined == pytest.approx((6 * 7 + 3 * 6) / 9)
    assert loss(unit(9), labels) < defined


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_copy_in_another_class_is_one_intruder_of_its_queries(projection):
    embeddings, labels = torch.eye(8, dtype=torch.float64)[[0, 0, 0, 1, 2, 2]], torch.tensor([0, 0, 1, 1, 2, 2])
    out = RecallLoss(projection, weighting="linear", reducer=DoNothingReducer(), noise=0)(embeddings, labels)["loss"][
        "losses"
    ]
    # The third is a copy of the first two, and its own relevant item scores as low as the two of the last class.
    assert out.tolist() == [1, 1, 4, 4, 0, 0]


def test_one_class_only_has_no_loss_and_no_gradient():
    embeddings = unit(6).requires_grad_()
    for projection in PROJECTIONS:
        loss = RecallLoss(projection, noise=0)(embeddings, torch.zeros(6, dtype=torch.long))
        assert loss == 0
        if projection in ("mean", "std", "local", "softmax"):
            torch.testing.assert_close(torch.autograd.grad(loss, embeddings)[0], torch.zeros_like(embeddings))


def test_a_nan_or_infinite_embedding_shows_in_the_loss():
    for wrong in (torch.nan, torch.inf):
        embeddings = unit(8)
        embeddings[3, 0] = wrong
        labels = torch.arange(4).repeat_interleave(2)
        for projection in PROJECTIONS:
            assert not RecallLoss(projection, noise=0)(embeddings, labels).isfinite()
        assert not RecallLoss(noise=0)(unit(8), labels, ref_emb=embeddings, ref_labels=labels).isfinite()


def test_noise_repeats_with_its_generator_and_moves_the_loss_as_in_the_definition():
    embeddings, labels = unit(400, dim=8), numbers(400, 100)
    same = labels[:, None] == labels
    relevant = same & ~torch.eye(400, dtype=torch.bool)
    for projection in ("none", "std"):

        def value(seed: int, projection: str = projection) -> float:
            return RecallLoss(projection, noise=0.1, generator=torch.Generator().manual_seed(seed))(
                embeddings, labels
            ).item()

        assert value(1) == value(1)
        assert value(1) != value(2)
        generator = torch.Generator().manual_seed(0)
        defined = [
            recall_loss(
                embeddings @ embeddings.T, relevant, ~same, projection=projection, noise=0.1, generator=generator
            ).item()
            for _ in range(10)
        ]
        mean, spread = sum(defined) / 10, max(defined) - min(defined)
        assert abs(sum(value(seed) for seed in range(10)) / 10 - mean) < spread


@pytest.mark.parametrize("options", [{}, {"margin": 0.03}], ids=str)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_with_the_same_noise_value_and_gradients_are_those_of_the_definition(monkeypatch, projection, options):
    labels = torch.arange(24) // 4  # sorted and in one tile, so that noise comes for slots, and then for all scores
    draws = two_point(unit(24, dim=24), 1.0, generator=torch.Generator().manual_seed(0))
    of_slots = draws.view(24, 6, 4)[torch.arange(24), labels]
    drawn = {(24, 24): draws, (24, 4): of_slots}
    for module in ("score_tiles", "recall"):
        monkeypatch.setattr(
            f"retrieval.losses.{module}.two_point", lambda like, alpha, generator: alpha * drawn[tuple(like.shape)]
        )
    monkeypatch.setitem(CASES, "sorted", (unit(24), None, labels, None))
    without = both("sorted", torch.float64, projection=projection, **options)[0]
    found, expected = both("sorted", torch.float64, projection=projection, noise=0.5, **options)
    assert_close(found, expected, torch.float64)
    assert found[0] != without[0]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("case", ["many tiles", "large classes", "many tiles of references"])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_the_spread_in_which_noise_is_measured_is_that_of_the_candidates(projection, case):
    queries, references, labels, ref_labels = CASES[case]
    own = references is None
    settings = RecallLoss(projection, noise=0.5)._settings()
    (labels, order), (ref_labels, ref_order) = labels.sort(), (labels if own else ref_labels).sort()
    given = queries[order], None if own else references[ref_order], labels, ref_labels
    tiles = score_tiles.Scores(*given, torch.arange(len(labels)) if own else None, settings)
    scores = given[0] @ (given[0] if own else given[1]).T
    candidates = ~torch.eye(*scores.shape, dtype=torch.bool) if own else torch.ones_like(scores, dtype=torch.bool)
    expected = torch.stack([row[here].std(correction=0) for row, here in zip(scores, candidates, strict=True)])
    torch.testing.assert_close(tiles.noise, 0.5 * expected)


@pytest.mark.usefixtures("small_tiles")
def test_noise_does_not_depend_on_the_number_of_threads_and_leaves_no_trace_in_evaluation():
    embeddings, _, labels, _ = CASES["many tiles"]
    number = torch.get_num_threads()

    def value(threads: int, loss: RecallLoss) -> torch.Tensor:
        torch.set_num_threads(threads)
        torch.manual_seed(3)
        return loss(embeddings, labels)

    try:
        for projection in ("std", "local", "softmax"):
            loss = RecallLoss(projection, noise=0.5)
            assert value(1, loss) == value(3, loss) != RecallLoss(projection, noise=0)(embeddings, labels)
    finally:
        torch.set_num_threads(number)
    state = torch.get_rng_state()
    assert loss.eval()(embeddings, labels) == RecallLoss("softmax", noise=0)(embeddings, labels)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_second_backward_pass_gives_the_same_and_a_second_derivative_is_an_error():
    embeddings, labels = unit(12).requires_grad_(), torch.arange(3).repeat_interleave(4)
    for projection in ("std", "local"):
        loss = RecallLoss(projection, noise=0)(embeddings, labels)
        first, second = (torch.autograd.grad(loss, embeddings, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second)
        with pytest.raises(RuntimeError, match="differentiated once only"):
            torch.autograd.grad(loss, embeddings, create_graph=True)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_inference_mode_and_no_grad_give_the_value(projection):
    embeddings, labels = unit(12).requires_grad_(), torch.arange(3).repeat_interleave(4)
    expected = RecallLoss(projection, noise=0)(embeddings, labels)
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            assert RecallLoss(projection, noise=0)(embeddings, labels) == expected


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_loss_kept_after_its_backward_pass_keeps_no_tensor_alive(projection):
    embeddings, labels = unit(24).requires_grad_(), torch.arange(6).repeat_interleave(4)

    def tensors() -> int:
        gc.collect()
        return sum(type(item) is torch.Tensor for item in gc.get_objects())

    gc.collect()
    gc.freeze()  # what there is already is not looked at
    try:
        for loss in (RecallLoss(projection, noise=0), RamboLoss()):
            loss(embeddings, labels).backward()
            before = tensors()
            kept = [loss(embeddings, labels) for _ in range(5)]
            for value in kept:
                value.backward()
            assert tensors() <= before + len(kept)
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int32),
        *(torch.float16, torch.bfloat16, torch.float64),
    ],
)
def test_labels_are_of_any_dtype_also_of_two(dtype):
    embeddings, labels = unit(12), numbers(12, 2)
    expected = RecallLoss(noise=0)(embeddings, labels)
    apart = RecallLoss(noise=0)(embeddings, labels, ref_emb=unit(9, seed=1), ref_labels=labels[:9])
    for loss in (RecallLoss(noise=0), RecallLoss(gradient="blackbox", noise=0)):
        torch.testing.assert_close(loss(embeddings, labels.to(dtype)), expected)
        for ref_labels in (labels[:9], labels[:9].to(dtype)):
            value = loss(embeddings, labels.to(dtype), ref_emb=unit(9, seed=1), ref_labels=ref_labels)
            torch.testing.assert_close(value, apart)


def test_whole_labels_do_not_meet_fractions():
    labels, fractions = torch.tensor([0, 0, 1, 1]), torch.tensor([0.5, 0.0, 1.5, 1.0])
    found, expected = (
        loss(unit(4), labels, ref_emb=unit(4, seed=1), ref_labels=fractions)
        for loss in (RecallLoss(noise=0), RecallLoss(gradient="blackbox", noise=0))
    )
    torch.testing.assert_close(found, expected)


def test_weights_of_the_reducer_reach_the_gradient():
    embeddings, labels = unit(12).requires_grad_(), torch.arange(3).repeat_interleave(4)
    same = labels[:, None] == labels
    relevant, weights = same & ~torch.eye(12, dtype=torch.bool), torch.rand(12, dtype=torch.float64)
    settings = RecallLoss("local", distance=DotProductSimilarity(normalize_embeddings=False), noise=0)._settings()
    found = closed_form.closed_form(embeddings, None, labels, labels, settings)
    (gradient,) = torch.autograd.grad((found.losses * weights).sum(), embeddings)
    losses = recall_loss(embeddings @ embeddings.T, relevant, ~same, projection="local", reduction="none", noise=0)
    (expected,) = torch.autograd.grad((losses * weights).sum(), embeddings)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")
def test_memory_stays_far_below_the_matrix_of_scores():
    code = (
        "import re, torch\n"
        "from pathlib import Path\n"
        "from retrieval.losses import RecallLoss\n"
        "def peak():\n"  # getrusage also counts what the parent had when it started this process
        "    return int(re.search(r'VmHWM:\\s*(\\d+) kB', Path('/proc/self/status').read_text())[1]) / 1024\n"
        "z, y = torch.randn(12288, 32, requires_grad=True), torch.arange(12288) // 4\n"
        "RecallLoss()(z[:256], y[:256]).backward()\n"
        "RecallLoss()(z[:256], y[:256] // 16).backward()\n"
        "before = peak()\n"
        "RecallLoss()(z[:4096], torch.arange(4096) // 1024).backward()\n"
        "print(peak() - before)\n"
        "RecallLoss('local')(z, y).backward()\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    large_classes, many_rows = map(float, done.stdout.split())
    assert 0 < large_classes < 48  # MiB; the matrix alone takes 64, and floats for all relevant pairs 16 each
    assert many_rows < 150  # the matrix alone takes 576


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_a_gpu_gives_the_value_and_the_gradient_of_the_processor(projection):
    embeddings, labels = unit(300, seed=2).float(), numbers(300, 60)
    found = []
    for device in ("cpu", "cuda"):
        inputs = embeddings.to(device).requires_grad_()
        value = RecallLoss(projection, weighting="log", noise=0)(inputs, labels.to(device))
        found.append([value.cpu(), torch.autograd.grad(value, inputs)[0].cpu()])
    assert_close(found[1], found[0], torch.float32)
