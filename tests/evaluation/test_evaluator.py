from __future__ import annotations

import doctest
import subprocess
import sys
import tracemalloc
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from reference import plain_evaluation, plain_gallery_evaluation

from retrieval.evaluation import METRICS, evaluate, evaluator, rank_queries


def clustered(labels, dimension=8, spread=0.7, seed=0):
    """Unit vectors around one centre a label."""
    rng = np.random.default_rng(seed)
    _, classes = np.unique(labels, return_inverse=True)
    vectors = rng.standard_normal((classes.max() + 1, dimension))[classes]
    vectors += spread * rng.standard_normal(vectors.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def assert_as_plain(embeddings, labels, ks, ids=None):
    figures = evaluate(embeddings, labels, ks=ks, ids=ids, metrics=METRICS)
    expected = plain_evaluation(embeddings, labels, ks, ids)
    assert figures == pytest.approx(expected, abs=1e-12)
    assert list(figures) == list(expected)
    nearest = evaluate(embeddings, labels, ks=ks, ids=ids, metrics=("mrr", "recall"))
    assert nearest == {name: figures[name] for name in nearest}
    return figures


LABELS = {
    "3 classes x 4": np.repeat([5, 1, 3], 4),
    "5 classes x 2": np.tile(np.arange(5), 2),
    "unequal sizes": np.random.default_rng(3).permutation(np.repeat(np.arange(7), [2, 3, 11, 1, 5, 1, 20])),
    "one class": np.zeros(6, dtype=np.int64),
    "negative labels": np.array([-1, -1, -7, -7, 0]),
    "small integers": np.repeat(np.arange(4), 3).astype(np.uint8),
}


@pytest.mark.parametrize("name", LABELS)
def test_figures_are_those_of_counting_by_hand(name):
    labels = LABELS[name]
    assert_as_plain(clustered(labels), labels, ks=(1, 2, 3))


@pytest.mark.parametrize("name", LABELS)
def test_figures_are_those_of_counting_by_hand_with_many_copies(name):
    labels = LABELS[name]
    rng = np.random.default_rng(0)
    embeddings = clustered(labels)[rng.integers(0, max(2, len(labels) // 3), len(labels))]
    ids = rng.permutation(1000)[: len(labels)]
    assert_as_plain(embeddings, labels, ks=(1, 3, len(labels) - 1), ids=ids)


def test_a_copy_of_another_class_with_a_smaller_id_comes_first():
    embeddings = np.repeat(np.eye(2, dtype=np.float32), [3, 2], axis=0)
    labels = np.array([7, 7, 8, 8, 8])
    # Query 0 finds 1 (right); 1 finds 0 (right); 2 finds 0 (wrong); 3 and 4 find each other.
    assert evaluate(embeddings, labels, ks=(1,))["recall@1"] == 4 / 5
    # With reversed ids the copies are ranked 2, 1, 0: 0 and 1 find 2 (wrong), 2 finds 1 (wrong).
    assert evaluate(embeddings, labels, ks=(1,), ids=np.array([4, 3, 2, 1, 0]))["recall@1"] == 2 / 5


def test_a_lone_class_is_left_out_and_counted():
    labels = np.array([0, 0, 1, 2, 2, 3])
    figures = assert_as_plain(clustered(labels), labels, ks=(1, 5))
    assert figures["queries"] == 4
    assert figures["left_out"] == 2


def test_a_lone_item_is_still_irrelevant_to_others():
    embeddings = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8]], dtype=np.float32)
    figures = evaluate(embeddings, np.array([0, 1, 0]), ks=(1, 2))
    assert figures == {
        "recall@1": 0,
        "recall@2": 1,
        "map@r": 0,
        "r_precision": 0,
        "queries": 2,
        "left_out": 1,
        "ties": 0,
    }


def test_labels_beyond_float32_are_told_apart():
    labels = np.repeat(2**24 + np.arange(6), 2) + 2**60
    assert len(np.unique(labels.astype(np.float32))) == 1
    assert_as_plain(clustered(labels, spread=2), labels, ks=(1, 2))
    assert evaluate(clustered(labels, spread=2), labels, ks=(1,))["recall@1"] < 1


def test_figures_agree_with_pytorch_metric_learning_where_nothing_ties():
    labels = np.random.default_rng(1).integers(0, 12, 150)
    embeddings = clustered(labels, dimension=16, spread=1.5)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision_at_r", "r_precision"), k="max_bin_count"
    )
    theirs = calculator.get_accuracy(embeddings, labels)
    ours = evaluate(embeddings, labels, ks=(1,))
    assert 0.2 < ours["recall@1"] < 0.95
    assert ours["recall@1"] == pytest.approx(theirs["precision_at_1"], abs=1e-7)
    assert ours["map@r"] == pytest.approx(theirs["mean_average_precision_at_r"], abs=1e-7)
    assert ours["r_precision"] == pytest.approx(theirs["r_precision"], abs=1e-7)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_labels_and_ties_give_the_figures_of_counting_by_hand(data):
    labels = np.array(data.draw(st.lists(st.integers(0, 5), min_size=2, max_size=24)))
    labels[1] = labels[0]  # at least one query
    directions = clustered(np.arange(6), dimension=3)
    embeddings = directions[data.draw(st.lists(st.integers(0, 5), min_size=len(labels), max_size=len(labels)))]
    ids = np.array(data.draw(st.permutations(range(len(labels)))))
    ks = data.draw(st.lists(st.integers(1, len(labels) - 1), min_size=1, max_size=4, unique=True))
    assert_as_plain(embeddings, labels, ks, ids)


GALLERIES = {
    "as many of each": (np.repeat(np.arange(3), 4), np.repeat(np.arange(3), 4)),
    "unequal, and in another order": (np.array([2, 0, 0, 9, 2]), np.array([0, 2, 2, 7, 2, 9, 9, 9, 0])),
    "classes that only one side has": (np.array([0, 5, 1, 1, -3]), np.array([1, 8, 8, 0, 8])),
    "a single query": (np.array([4]), np.array([3, 4, 3, 4, 4])),
}


@pytest.mark.parametrize("name", GALLERIES)
@pytest.mark.parametrize("copies", [False, True])
def test_a_gallery_gives_the_figures_of_counting_by_hand(name, copies):
    labels, gallery_labels = GALLERIES[name]
    rng = np.random.default_rng(0)
    both = clustered(np.concatenate([labels, gallery_labels]), spread=1)
    if copies:
        both = both[rng.integers(0, len(both) // 3, len(both))]
    embeddings, gallery = both[: len(labels)], both[len(labels) :]
    for ids in (None, rng.permutation(100)[: len(gallery)]):
        figures = evaluate(
            embeddings, labels, ks=(1, 3), ids=ids, gallery=gallery, gallery_labels=gallery_labels, metrics=METRICS
        )
        expected = plain_gallery_evaluation(embeddings, labels, gallery, gallery_labels, (1, 3), ids)
        assert figures == pytest.approx(expected, abs=1e-12)


def test_a_copy_of_a_query_in_the_gallery_is_ranked():
    embeddings = np.eye(3, dtype=np.float32)
    labels = np.arange(3)
    assert evaluate(embeddings, labels, ks=(1, 3), gallery=embeddings, gallery_labels=labels)["recall@1"] == 1


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_query_and_gallery_labels_give_the_figures_of_counting_by_hand(data):
    labels, gallery_labels = (np.array(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=12))) for _ in "ab")
    gallery_labels[0] = labels[0]  # at least one query
    directions = clustered(np.arange(4), dimension=3)
    embeddings, gallery = (
        directions[data.draw(st.lists(st.integers(0, 3), min_size=len(part), max_size=len(part)))]
        for part in (labels, gallery_labels)
    )
    ks = data.draw(st.lists(st.integers(1, len(gallery)), min_size=1, max_size=4, unique=True))
    figures = evaluate(embeddings, labels, ks=ks, gallery=gallery, gallery_labels=gallery_labels, metrics=METRICS)
    expected = plain_gallery_evaluation(embeddings, labels, gallery, gallery_labels, ks)
    assert figures == pytest.approx(expected, abs=1e-12)


EMBEDDINGS = clustered(np.arange(10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ks": (1, 10)}, r"k is 10, but a query has 9 others in the gallery; the largest usable k is 9"),
        ({"ks": ()}, r"ks are \[\], expected different whole numbers from 1"),
        ({"ks": (0, 1)}, r"ks are \[0, 1\]"),
        ({"ks": (1, 1)}, r"ks are \[1, 1\]"),
        ({"ks": (1, 2.0)}, r"ks are \[1, 2.0\]"),
        ({"ks": (True,)}, r"ks are \[True\]"),
        ({"ks": 5}, "ks are 5, expected different whole numbers from 1"),
        ({"ks": "12"}, "ks are '12'"),
        ({"labels": np.arange(10)}, "no label occurs twice"),
        ({"labels": np.zeros(9)}, "labels: 9 labels, but embeddings has 10 rows; give one label for each row"),
        ({"labels": 3}, "labels: int, expected a list"),
        ({"labels": [*"aabbccdd", None, None]}, r"labels: the label at position 8 is missing \(None\)"),
        ({"embeddings": 0 * EMBEDDINGS}, r"embeddings: row 0 is zero and has no direction \(10 of 10 rows\)"),
        ({"embeddings": EMBEDDINGS * np.nan}, r"embeddings: row 0 holds NaN or infinity \(10 of 10 rows\)"),
        ({"ids": np.zeros(10, dtype=np.int64)}, "ids: 0 occurs twice"),
        ({"ids": np.arange(10.0)}, "ids: float64"),
        ({"ids": range(9)}, r"ids: int64 \(9,\), expected whole numbers"),
        ({"gallery": EMBEDDINGS}, "gallery and gallery_labels belong together"),
        ({"gallery_labels": np.arange(9)}, "gallery and gallery_labels belong together"),
        ({"gallery": EMBEDDINGS, "gallery_labels": np.arange(9)}, "gallery_labels: 9 labels, but gallery has 10 rows"),
        ({"gallery": EMBEDDINGS[:, 0], "gallery_labels": np.arange(10)}, r"gallery: shape \(10,\)"),
        (
            {"gallery": EMBEDDINGS, "gallery_labels": [*range(9), float("nan")]},
            "gallery_labels: .* position 9 is missing",
        ),
        ({"gallery": EMBEDDINGS[:7], "gallery_labels": np.zeros(7, dtype=int)}, "k is 8, but a query has 7 others"),
        ({"gallery": EMBEDDINGS, "gallery_labels": np.arange(1, 11)}, "no label of the items occurs in the gallery"),
        ({"metrics": ()}, r"metrics are \[\], expected some of recall, precision"),
        ({"metrics": ("recall", "map")}, r"metrics are \['recall', 'map'\]"),
        ({"metrics": "recall"}, "metrics are 'recall', expected some of recall, precision"),
        (
            {"gallery": np.eye(10, dtype=np.float32), "gallery_labels": np.zeros(10, dtype=int)},
            "queries have 8 dimensions and the gallery 10",
        ),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(arguments, message):
    good = {"embeddings": EMBEDDINGS, "labels": np.zeros(10, dtype=np.int64)}
    with pytest.raises(ValueError, match=message):
        evaluate(**good | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": np.zeros(9, dtype=np.int64)}, r"labels: int64 \(9,\), expected whole numbers .* of shape \(10,\)"),
        ({"labels": np.zeros(10)}, "labels: float64"),
        ({"labels": np.zeros(10, dtype=bool)}, "labels: bool"),
        ({"embeddings": 3 * EMBEDDINGS}, "embeddings: row 0 has length 3"),
        ({"embeddings": EMBEDDINGS.astype(np.float64)}, "embeddings: float64"),
        ({"gallery": EMBEDDINGS, "gallery_labels": np.arange(9)}, r"gallery_labels: int64 \(9,\)"),
        ({"gallery": 2 * EMBEDDINGS, "gallery_labels": np.arange(10)}, "gallery: row 0 has length 2"),
    ],
)
def test_rank_queries_takes_only_unit_vectors_and_whole_numbers(arguments, message):
    good = {"embeddings": EMBEDDINGS, "labels": np.zeros(10, dtype=np.int64)}
    with pytest.raises(ValueError, match=message):
        rank_queries(**good | arguments)


SOME_LABELS = np.repeat(np.arange(4), 3)
RAW = clustered(SOME_LABELS, spread=1) * np.float32(2) ** np.arange(-6, 6, dtype=np.float32)[:, None]
FIGURES = evaluate(
    clustered(SOME_LABELS, spread=1), SOME_LABELS, ks=(1, 2), metrics=METRICS, macro=True, interval_seed=3
)
EMBEDDING_TYPES = {
    "float32": RAW,
    "float64": RAW.astype(np.float64),
    "a list of lists": RAW.tolist(),
    "a tensor": torch.from_numpy(RAW),
    "a tensor that requires a gradient": torch.from_numpy(RAW).double().requires_grad_(),
    "a list of tensors": [torch.from_numpy(row).requires_grad_() for row in RAW],
    "columns": np.asfortranarray(RAW),
    "1e-30": RAW * np.float32(2**-100),
    "1e30": RAW * np.float32(2**100),
    "subnormal squares in float64": RAW.astype(np.float64) * 2.0**-1000,
    "overflowing squares in float64": RAW.astype(np.float64) * 2.0**1000,
}


@pytest.mark.parametrize("kind", EMBEDDING_TYPES)
def test_raw_embeddings_of_any_type_have_the_figures_of_their_unit_vectors(kind):
    assert 0.2 < FIGURES["recall@1"] < 1
    for labels in (SOME_LABELS, SOME_LABELS.tolist()):
        found = evaluate(EMBEDDING_TYPES[kind], labels, ks=(1, 2), metrics=METRICS, macro=True, interval_seed=3)
        assert found == FIGURES


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int16, torch.uint8])
def test_narrow_types_have_the_figures_of_their_values_in_float64(dtype):
    values = (torch.from_numpy(clustered(SOME_LABELS, spread=1)) * 40 + 60).to(dtype)
    assert evaluate(values, SOME_LABELS, ks=(1,)) == evaluate(values.double().numpy(), SOME_LABELS, ks=(1,))


NAMES = np.array(["b", "a", "d", "c"])
LABEL_TYPES = {
    "strings": NAMES[SOME_LABELS].tolist(),
    "a string array": NAMES[SOME_LABELS],
    "an object array": NAMES[SOME_LABELS].astype(object),
    "tuples": [(name, 1) for name in NAMES[SOME_LABELS]],
    "floats": SOME_LABELS / 3,
    "a tuple": tuple(SOME_LABELS.tolist()),
    "a deque": deque(SOME_LABELS.tolist()),
    "a tensor": torch.from_numpy(SOME_LABELS),
    "tensors without dimensions": list(torch.from_numpy(SOME_LABELS)),
    "days": np.datetime64("2020-01-01") + SOME_LABELS,
    "nanoseconds": np.datetime64("2020-01-01", "ns") + SOME_LABELS,
    "types that cannot be sorted": np.array(["a", None, 2, ()], dtype=object)[
        np.where(SOME_LABELS == 1, 0, SOME_LABELS)
    ],
}


@pytest.mark.parametrize("kind", LABEL_TYPES)
def test_labels_of_any_type_have_the_figures_of_their_numbers(kind):
    labels = LABEL_TYPES[kind]
    numbers = SOME_LABELS if "cannot" not in kind else np.where(SOME_LABELS == 1, 0, SOME_LABELS)
    embeddings = clustered(SOME_LABELS, spread=1)
    assert evaluate(embeddings, labels, ks=(1, 2)) == evaluate(embeddings, numbers, ks=(1, 2))
    found = evaluate(
        embeddings[:5],
        labels[:5] if kind != "a deque" else list(labels)[:5],
        ks=(1,),
        gallery=embeddings,
        gallery_labels=labels,
    )
    assert found == evaluate(embeddings[:5], numbers[:5], ks=(1,), gallery=embeddings, gallery_labels=numbers)


def test_query_and_gallery_labels_of_different_types_are_compared_as_python_does():
    axes = np.eye(3, dtype=np.float32)
    for labels, gallery_labels in (
        ([1, 2, 3], np.array([1.0, 2.0, 3.0])),
        (np.array(["x", "y", "z"]), ["x", "y", "z"]),
        (torch.tensor([0, 1, 2]), [False, True, 2]),
    ):
        assert evaluate(axes, labels, ks=(1,), gallery=axes, gallery_labels=gallery_labels)["recall@1"] == 1
    with pytest.raises(ValueError, match="no label of the items occurs in the gallery"):
        evaluate(axes, [1, 2, 3], ks=(1,), gallery=axes, gallery_labels=["1", "2", "3"])


@pytest.mark.parametrize("convert", [list, tuple, np.array, torch.tensor])
def test_ids_of_any_type_decide_ties(convert):
    embeddings = np.repeat(np.eye(2), [3, 2], axis=0)
    assert evaluate(embeddings, [7, 7, 8, 8, 8], ks=(1,), ids=convert([4, 3, 2, 1, 0]))["recall@1"] == 2 / 5


def test_copies_of_a_raw_vector_tie():
    rng = np.random.default_rng(0)
    raw = rng.standard_normal((1, 77)).repeat(2_001, axis=0)
    figures = evaluate(raw, np.arange(2_001) // 2, ks=(1,), metrics=["recall"])
    assert figures["ties"] == figures["queries"] == 2_000


def test_a_file_of_raw_vectors_has_the_figures_of_memory(tmp_path):
    np.save(tmp_path / "raw.npy", RAW)
    on_disk = np.load(tmp_path / "raw.npy", mmap_mode="r")
    assert evaluate(on_disk, SOME_LABELS, ks=(1, 2), metrics=METRICS, macro=True, interval_seed=3) == FIGURES


def test_the_example_of_the_docstring_is_right():
    assert doctest.testmod(evaluator) == (0, 3)


def test_checking_arrays_does_not_import_torch():
    program = """
import sys
import numpy as np
from retrieval.evaluation import evaluate, number_labels, unit_vectors
unit_vectors("x", [[1, 2]]), number_labels(["a", "b"])
try:
    evaluate(np.eye(3), ["a", "b", "c"], ks=(1,))
except ValueError:
    print("torch" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert run.stdout.split() == ["False"]


@pytest.mark.slow
def test_memory_stays_bounded_however_many_neighbours_are_needed():
    labels = np.arange(10_000) // 4
    embeddings = clustered(labels, dimension=256)
    tracemalloc.start()
    evaluate(embeddings, labels, ks=(1, 2_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    ids_and_scores_of_all = 10_000 * 2_000 * 12
    assert peak < ids_and_scores_of_all * 3 / 4
