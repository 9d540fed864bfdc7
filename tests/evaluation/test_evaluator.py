from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from reference import plain_evaluation, plain_gallery_evaluation

from retrieval.evaluation import METRICS, evaluate


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
    # With ids turned round the copies come as 2, 1, 0: 0 and 1 find 2 (wrong), 2 finds 1 (wrong).
    assert evaluate(embeddings, labels, ks=(1,), ids=np.array([4, 3, 2, 1, 0]))["recall@1"] == 2 / 5


def test_a_lone_class_is_left_out_and_counted():
    labels = np.array([0, 0, 1, 2, 2, 3])
    figures = assert_as_plain(clustered(labels), labels, ks=(1, 5))
    assert figures["queries"] == 4
    assert figures["left_out"] == 2


def test_a_lone_item_still_stands_in_the_way_of_others():
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
    "classes that the other has not": (np.array([0, 5, 1, 1, -3]), np.array([1, 8, 8, 0, 8])),
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


def test_a_query_is_not_kept_out_of_a_gallery_that_holds_its_copy():
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
        ({"ks": (1, 10)}, r"k is 10, but a query has 9 others to find; the largest usable k is 9"),
        ({"ks": ()}, r"ks are \[\], expected different numbers from 1"),
        ({"ks": (0, 1)}, r"ks are \[0, 1\]"),
        ({"ks": (1, 1)}, r"ks are \[1, 1\]"),
        ({"labels": np.arange(10)}, "no label occurs twice"),
        ({"labels": np.zeros(9, dtype=np.int64)}, r"labels: int64 \(9,\), expected whole numbers .* of shape \(10,\)"),
        ({"labels": np.zeros(10)}, "labels: float64"),
        ({"labels": np.zeros(10, dtype=bool)}, "labels: bool"),
        ({"embeddings": 3 * EMBEDDINGS}, "embeddings: row 0 has length 3"),
        ({"ids": np.zeros(10, dtype=np.int64)}, "ids: 0 occurs twice"),
        ({"gallery": EMBEDDINGS}, "gallery and gallery_labels belong together"),
        ({"gallery": EMBEDDINGS, "gallery_labels": np.arange(9)}, r"gallery_labels: int64 \(9,\)"),
        ({"gallery": 2 * EMBEDDINGS, "gallery_labels": np.arange(10)}, "gallery: row 0 has length 2"),
        ({"gallery": EMBEDDINGS[:7], "gallery_labels": np.zeros(7, dtype=int)}, "k is 8, but a query has 7 others"),
        ({"gallery": EMBEDDINGS, "gallery_labels": np.arange(1, 11)}, "no label of the items occurs in the gallery"),
        ({"metrics": ()}, r"metrics are \[\], expected some of recall, precision"),
        ({"metrics": ("recall", "map")}, r"metrics are \['recall', 'map'\]"),
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
