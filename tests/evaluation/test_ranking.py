"""The same ranks by every path: counted, searched, sorted, in parts, from a file, in several processes."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from reference import plain_evaluation, plain_gallery_evaluation

from retrieval.evaluation import (
    METRICS,
    block,
    class_figures,
    counting,
    evaluate,
    exact,
    figures,
    intervals,
    merge_rankings,
    rank_queries,
    tile,
)
from retrieval.evaluation import search as find
from retrieval.evaluation.block import ranks_of_relevant
from retrieval.evaluation.metrics import map_at_r

SIZES = [1, 1, 1, 2, 2, 3, 5, 8, 13, 21, 40]


def make(kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, labels and ids of classes of all sizes."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(rng.permutation(100)[: len(SIZES)] - 50, SIZES))
    _, classes = np.unique(labels, return_inverse=True)
    vectors = rng.standard_normal((len(SIZES), 12))[classes] + rng.standard_normal((len(labels), 12))
    if kind == "copies":
        vectors = vectors[rng.integers(0, len(labels) // 4, len(labels))]
    if kind == "few directions":
        vectors = np.sign(vectors) * (np.abs(vectors) > 1.2)
        vectors[~vectors.any(axis=1), 0] = 1
    if kind == "collapsed":
        vectors = vectors[:1] + 1e-6 * vectors
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), labels, rng.permutation(1000)[: len(labels)]


KINDS = ["different", "copies", "few directions", "collapsed"]
KS = (1, 2, 7, 50)


def assert_same(ranking, expected):
    for name in ("queries", "labels", "num_relevant", "first_rank", "tied"):
        assert_array_equal(getattr(ranking, name), getattr(expected, name))
    assert list(ranking.values) == list(expected.values)
    for name, column in expected.values.items():
        assert_array_equal(ranking.values[name], column)
    assert ranking.left_out == expected.left_out


@pytest.fixture(params=KINDS)
def data(request):
    return make(request.param)


@pytest.fixture
def threads():
    """Restores the number of torch's threads after a test that changes it."""
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.fixture
def small_parts(monkeypatch):
    """Sizes so small that all work is split into many parts."""
    monkeypatch.setattr(counting, "TILE", 8)
    monkeypatch.setattr(counting, "PANEL", 24)
    monkeypatch.setattr(block, "BAND", 3)
    monkeypatch.setattr(block, "NEAR_ROWS", 5)
    monkeypatch.setattr(block, "MAX_PENDING", 10)
    monkeypatch.setattr(exact, "RESCORED_NUMBERS", 50)
    monkeypatch.setattr(exact, "EXACT_PAIRS", 300)
    monkeypatch.setattr(block, "EXACT_PAIRS", 300)


class TestAllPathsGiveTheFiguresOfCountingByHand:
    def test_items_among_themselves(self, data):
        embeddings, labels, ids = data
        found = evaluate(embeddings, labels, ks=KS, ids=ids, metrics=METRICS)
        assert found == pytest.approx(plain_evaluation(embeddings, labels, KS, ids), abs=1e-12)

    def test_in_small_parts(self, data, small_parts):
        self.test_items_among_themselves(data)

    @pytest.mark.parametrize("compared", [0, 1000])
    def test_with_all_tiles_sorted_or_none(self, data, small_parts, monkeypatch, compared):
        monkeypatch.setattr(tile, "COMPARED", compared)
        self.test_items_among_themselves(data)

    @pytest.mark.parametrize("num_threads", [1, 5])
    def test_by_any_number_of_threads(self, data, small_parts, threads, num_threads):
        torch.set_num_threads(num_threads)
        self.test_items_among_themselves(data)

    def test_in_groups_without_symmetry(self, data, small_parts, monkeypatch):
        monkeypatch.setattr(counting, "MAX_SLOTS", 100)
        self.test_items_among_themselves(data)

    def test_with_large_classes_searched_for(self, data, small_parts, monkeypatch):
        monkeypatch.setattr(counting, "SEARCH_ITEMS", 2)
        self.test_items_among_themselves(data)

    def test_with_all_classes_counted(self, data, small_parts, monkeypatch):
        monkeypatch.setattr(counting, "SEARCH_ITEMS", 1000)
        self.test_items_among_themselves(data)

    @pytest.mark.parametrize("search_items", [2, 1000])
    def test_queries_against_a_gallery(self, data, small_parts, monkeypatch, search_items):
        monkeypatch.setattr(counting, "SEARCH_ITEMS", search_items)
        embeddings, labels, ids = data
        queries, gallery = np.arange(0, 97, 3), np.arange(20, 97)
        given = embeddings[queries], labels[queries], embeddings[gallery], labels[gallery]
        found = evaluate(
            given[0],
            given[1],
            ks=KS,
            ids=ids[gallery],
            gallery=given[2],
            gallery_labels=given[3],
            metrics=METRICS,
        )
        assert found == pytest.approx(plain_gallery_evaluation(*given, KS, ids[gallery]), abs=1e-12)


@pytest.mark.parametrize("engine", ["faiss", "torch"])
def test_ranks_are_those_among_all_neighbours_by_either_engine(data, engine):
    embeddings, labels, ids = data
    ranking = rank_queries(embeddings, labels, ks=KS, ids=ids)
    of = dict(zip(ids.tolist(), labels.tolist(), strict=True))
    found = find(embeddings, embeddings, len(ids) - 1, query_ids=ids, gallery_ids=ids, engine=engine)
    relevant = np.vectorize(of.get)(found.ids) == labels[:, None]
    ranks = ranks_of_relevant(relevant, int(ranking.num_relevant.max()))[ranking.queries]
    assert_array_equal(ranking.first_rank, ranks[:, 0])
    assert_array_equal(ranking.values["map@r"], map_at_r(ranks, ranking.num_relevant))
    assert_array_equal(ranking.values["precision@50"], (ranks <= 50).sum(1) / 50)


def threads_of_a_new_thread():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_the_number_of_threads_that_torch_uses_is_left_as_it_was(threads):
    torch.set_num_threads(3)
    embeddings, labels, _ = make("different")
    rank_queries(embeddings, labels)
    assert (torch.get_num_threads(), threads_of_a_new_thread()) == (3, 3)


def test_a_thread_that_begins_during_an_evaluation_has_all_of_torchs_threads(small_parts, threads, monkeypatch):
    torch.set_num_threads(3)
    count, seen = counting._count_tiles, []

    def look_and_count(*arguments):
        seen.append((torch.get_num_threads(), threads_of_a_new_thread()))
        return count(*arguments)

    monkeypatch.setattr(counting, "_count_tiles", look_and_count)
    embeddings, labels, _ = make("different")
    rank_queries(embeddings, labels)
    assert seen == [(1, 3)] * 3


def test_an_error_in_a_thread_ends_all_of_them_and_is_raised(small_parts, threads, monkeypatch):
    torch.set_num_threads(3)
    added = []

    def fail_once(self, *tile):
        added.append(tile)
        if len(added) == 1:
            raise MemoryError("no room for a tile")

    monkeypatch.setattr(block.Block, "add", fail_once)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2000, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with pytest.raises(MemoryError, match="no room for a tile"):
        rank_queries(vectors.astype(np.float32), np.arange(2000) // 2)
    assert len(added) < 250 * 250
    assert (torch.get_num_threads(), threads_of_a_new_thread()) == (3, 3)


def test_a_file_gives_the_same_ranking_as_memory(data, small_parts, tmp_path):
    embeddings, labels, ids = data
    np.save(tmp_path / "vectors.npy", embeddings)
    for mode in ("r", "c"):
        on_disk = np.load(tmp_path / "vectors.npy", mmap_mode=mode)
        for metrics in (METRICS, ("recall",)):
            expected = rank_queries(embeddings, labels, ks=KS, ids=ids, metrics=metrics)
            assert_same(rank_queries(on_disk, labels, ks=KS, ids=ids, metrics=metrics), expected)
        expected = rank_queries(embeddings[::2], labels[::2], ks=KS, gallery=embeddings, gallery_labels=labels)
        found = rank_queries(on_disk[:][::2], labels[::2], ks=KS, gallery=on_disk, gallery_labels=labels)
        assert_same(found, expected)


def test_a_file_is_not_read_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "PANEL", 512)
    largest = []
    read = exact.Items.__getitem__

    def watched(self, rows):
        found = read(self, rows)
        largest.append(len(found))
        return found

    monkeypatch.setattr(exact.Items, "__getitem__", watched)
    labels = np.arange(3_000) // 3
    vectors = np.random.default_rng(0).standard_normal((3_000, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(tmp_path / "vectors.npy", vectors.astype(np.float32))
    rank_queries(np.load(tmp_path / "vectors.npy", mmap_mode="r"), labels, metrics=("recall",))
    assert max(largest) <= 512 or max(largest) <= exact.RESCORED_NUMBERS // 4
    assert exact.Items(np.load(tmp_path / "vectors.npy", mmap_mode="r")).on_disk


@pytest.mark.parametrize("shards", [2, 3, 120])
def test_merged_shards_equal_the_whole_ranking(data, shards):
    embeddings, labels, ids = data
    whole = rank_queries(embeddings, labels, ks=KS, ids=ids)
    parts = [rank_queries(embeddings, labels, ks=KS, ids=ids, shard=(i, shards)) for i in range(shards)]
    assert_same(merge_rankings(parts), whole)
    whole = rank_queries(embeddings[:30], labels[:30], ks=KS, gallery=embeddings, gallery_labels=labels)
    parts = [
        rank_queries(embeddings[:30], labels[:30], ks=KS, gallery=embeddings, gallery_labels=labels, shard=(i, shards))
        for i in range(shards)
    ]
    assert_same(merge_rankings(parts), whole)


def shard_of_copies(index: int):
    embeddings, labels, ids = make("copies")
    return rank_queries(embeddings, labels, ks=KS, ids=ids, shard=(index, 2))


@pytest.mark.slow
def test_two_processes_together_return_the_ranking_of_one():
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        parts = list(processes.map(shard_of_copies, range(2)))
    embeddings, labels, ids = make("copies")
    assert_same(merge_rankings(parts), rank_queries(embeddings, labels, ks=KS, ids=ids))


def test_a_shard_beyond_the_last_is_refused():
    embeddings, labels, _ = make("different")
    with pytest.raises(ValueError, match=r"shard is \(2, 2\), expected \(i, n\) with i from 0 to n - 1"):
        rank_queries(embeddings, labels, shard=(2, 2))


def test_queries_are_positions_in_the_embeddings():
    embeddings, labels, ids = make("different")
    ranking = rank_queries(embeddings, labels, ids=ids)
    sizes = dict(zip(*np.unique(labels, return_counts=True), strict=True))
    assert_array_equal(ranking.queries, [i for i, label in enumerate(labels) if sizes[label] > 1])
    assert_array_equal(ranking.labels, labels[ranking.queries])
    assert_array_equal(ranking.num_relevant, [sizes[label] - 1 for label in ranking.labels])
    assert ranking.left_out == 3
    assert_array_equal(ranking.values["mrr"], 1 / ranking.first_rank)


def test_a_query_whose_nearest_relevant_item_ties_with_an_irrelevant_one_is_counted():
    axes = np.eye(4, dtype=np.float32)
    embeddings = axes[[0, 0, 0, 1, 1, 2]]
    labels = np.array([7, 7, 8, 8, 8, 9])
    # 0 and 1 find each other, and the copy of another class; 2 finds all of its class at score 0, tied with the item 5;
    # 3 and 4 find each other first.
    ranking = rank_queries(embeddings, labels, ks=(1,))
    assert_array_equal(ranking.tied, [True, True, True, False, False])
    assert evaluate(embeddings, labels, ks=(1,))["ties"] == 3


@pytest.fixture(scope="module")
def ranking():
    embeddings, labels, ids = make("different")
    return rank_queries(embeddings, labels, ks=KS, ids=ids)


class TestSummaries:
    def test_classes_are_averaged_each_for_itself(self, ranking):
        found = class_figures(ranking)
        assert found.queries.tolist() == [np.sum(ranking.labels == label) for label in found.labels]
        assert len(found.labels) == len(SIZES) - 3
        for name, means in found.values.items():
            for label, mean in zip(found.labels, means, strict=True):
                assert mean == pytest.approx(ranking.values[name][ranking.labels == label].mean())

    def test_macro_figures_weigh_every_class_alike(self, ranking):
        found = figures(ranking, macro=True)
        for name, means in class_figures(ranking).values.items():
            assert found[f"macro {name}"] == pytest.approx(means.mean())
            assert found[name] == pytest.approx(np.average(means, weights=class_figures(ranking).queries))

    def test_intervals_hold_the_figure_and_depend_on_nothing_but_the_seed(self, ranking):
        found = intervals(ranking, seed=3)
        for name, (low, high) in found.items():
            assert low <= ranking.values[name].mean() <= high
        assert found == intervals(ranking, seed=3)
        assert found != intervals(ranking, seed=4)
        named = figures(ranking, interval_seed=3)
        assert (named["recall@1 low"], named["recall@1 high"]) == found["recall@1"]

    def test_intervals_are_as_wide_as_theory_says(self, ranking):
        values = ranking.values["mrr"]
        low, high = intervals(ranking, resamples=4000)["mrr"]
        assert high - low == pytest.approx(2 * 1.96 * values.std() / len(values) ** 0.5, rel=0.1)

    def test_a_wider_level_gives_wider_intervals(self, ranking):
        narrow, wide = (intervals(ranking, level=level)["map@r"] for level in (0.5, 0.99))
        assert wide[0] < narrow[0] < narrow[1] < wide[1]

    def test_keys_come_in_one_order(self, ranking):
        assert list(figures(ranking))[-6:] == ["map@r", "r_precision", "mrr", "queries", "left_out", "ties"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sparse", [0, 4, 10**9])
def test_a_sample_of_the_queries_has_the_values_that_it_has_among_all(monkeypatch, kind, sparse):
    monkeypatch.setattr(block, "SPARSE", sparse)
    vectors, labels, ids = make(kind)
    everything = rank_queries(vectors, labels, ids=ids)
    sample = np.random.default_rng(3).choice(len(labels), 12, replace=False)
    found = rank_queries(vectors, labels, ids=ids, sample=sample)
    rows = np.isin(everything.queries, sample)
    assert_array_equal(found.queries, everything.queries[rows])
    assert_array_equal(found.first_rank, everything.first_rank[rows])
    assert_array_equal(found.tied, everything.tied[rows])
    for name, values in found.values.items():
        assert_array_equal(values, everything.values[name][rows])
