from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal
from reference import plain_neighbours

from retrieval.evaluation import Gallery, exact, search
from retrieval.evaluation.search import NEAR_TIE, search_in_blocks

# The package's `search` is the function; its constants belong to the module.
MODULE = importlib.import_module("retrieval.evaluation.search")


def unit(vectors):
    vectors = np.asarray(vectors, dtype=np.float64)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_vectors(count, dimension, seed=0):
    return unit(np.random.default_rng(seed).standard_normal((count, dimension)))


def assert_as_plain(queries, gallery, k, query_ids=None, gallery_ids=None):
    ids, scores = plain_neighbours(queries, gallery, k, query_ids, gallery_ids)
    for engine in ("faiss", "torch"):
        found = search(queries, gallery, k, query_ids=query_ids, gallery_ids=gallery_ids, engine=engine)
        assert found.ids.dtype == np.int64
        assert found.scores.dtype == np.float32
        assert_array_equal(found.ids, ids)
        np.testing.assert_allclose(found.scores, scores, atol=1e-6)
        assert found.positions.dtype == np.int64
        assert_array_equal(found.positions < 0, found.ids < 0)
        all_ids = np.arange(len(gallery)) if gallery_ids is None else np.asarray(gallery_ids)
        assert_array_equal(all_ids[found.positions][found.ids >= 0], found.ids[found.ids >= 0])


@pytest.mark.parametrize("dimension", [1, 2, 7, 64, 300])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_neighbours_are_those_of_sorting_everything(dimension, k):
    assert_as_plain(random_vectors(30, dimension, 1), random_vectors(200, dimension, 2), k)


def test_copies_come_in_the_order_of_their_ids_whatever_their_positions():
    rng = np.random.default_rng(0)
    gallery = random_vectors(40, 96)[rng.integers(0, 40, 300)]
    ids = rng.permutation(10_000)[:300]
    for k in (1, 3, 9, 50, 299, 300):
        assert_as_plain(gallery[:60], gallery, k, query_ids=ids[:60], gallery_ids=ids)


def test_the_query_is_left_out_by_its_id_and_not_by_its_position():
    gallery = np.repeat(random_vectors(1, 8), 4, axis=0)
    found = search(gallery[[2]], gallery, 3, query_ids=np.array([12]), gallery_ids=np.array([13, 11, 12, 10]))
    assert_array_equal(found.ids, [[10, 11, 13]])


def test_nothing_is_left_out_without_query_ids_or_for_an_id_that_the_gallery_lacks():
    gallery = random_vectors(20, 8)
    assert search(gallery[[3]], gallery, 1).ids[0, 0] == 3
    assert search(gallery[[3]], gallery, 1, query_ids=np.array([99])).ids[0, 0] == 3


def test_neighbours_are_padded_if_the_gallery_is_too_small():
    gallery = random_vectors(3, 8)
    found = search(gallery, gallery, 5, query_ids=np.arange(3))
    assert_array_equal(found.ids[:, 2:], -1)
    assert_array_equal(found.scores[:, 2:], -np.inf)
    assert_as_plain(gallery, gallery, 5, query_ids=np.arange(3))
    assert_as_plain(gallery, gallery, 5)


def test_a_gallery_of_one_and_a_search_without_queries_work():
    one = random_vectors(1, 8)
    assert_array_equal(search(one, one, 2, query_ids=np.array([0])).ids, [[-1, -1]])
    assert search(one[:0], one, 3).ids.shape == (0, 3)
    assert search(one[:0], one, 3).scores.shape == (0, 3)


@pytest.mark.slow
def test_thousands_of_identical_vectors_come_in_the_order_of_their_ids():
    gallery = np.repeat(random_vectors(1, 100), 5_000, axis=0)
    ids = np.random.default_rng(0).permutation(5_000)
    found = search(gallery, gallery, 4, query_ids=ids, gallery_ids=ids)
    expected = np.tile(np.arange(4), (5_000, 1))
    for own in range(4):
        expected[ids == own] = np.delete(np.arange(5), own)
    assert_array_equal(found.ids, expected)
    assert (found.scores == found.scores[0, 0]).all()


def test_ties_between_different_vectors_that_run_past_k_come_in_the_order_of_their_ids():
    axes = np.eye(400, dtype=np.float32)
    ids = np.random.default_rng(0).permutation(400)
    assert_as_plain(axes[:50], axes, 6, query_ids=ids[:50], gallery_ids=ids)
    signed = np.concatenate([axes, -axes])
    assert_as_plain(signed[350:450], signed, 30)


def test_a_score_that_rounds_to_minus_zero_ties_with_zero():
    gallery = np.array([[0, -1e-25, 1], [0, 1e-25, 1], [0, -1e-25, 1], [0, 0, 1]], dtype=np.float32)
    query = np.array([[1, 1e-25, 0]], dtype=np.float32)
    assert_array_equal(search(query, gallery, 4).ids, [[0, 1, 2, 3]])


@pytest.mark.parametrize("spread", [1e-8, 1e-7, 1e-6, 1e-5])
def test_a_collapsed_gallery_is_ranked_by_its_exact_scores(spread):
    noise = np.random.default_rng(0).standard_normal((400, 64))
    gallery = unit(random_vectors(1, 64) + spread * noise)
    assert_as_plain(gallery[:40], gallery, 10, query_ids=np.arange(40))


def test_the_order_does_not_depend_on_k_or_on_the_other_queries():
    rng = np.random.default_rng(0)
    gallery = random_vectors(700, 128)[rng.integers(0, 700, 1_500)]
    whole = search(gallery, gallery, 60, query_ids=np.arange(1_500))
    for k in (1, 2, 17):
        found = search(gallery, gallery, k, query_ids=np.arange(1_500))
        assert_array_equal(found.ids, whole.ids[:, :k])
    for rows in (slice(0, 1), slice(7, 30), slice(700, 1_500)):
        found = search(gallery[rows], gallery, 60, query_ids=np.arange(1_500)[rows])
        assert_array_equal(found.ids, whole.ids[rows])


def test_blocks_together_are_the_whole_search(monkeypatch):
    monkeypatch.setattr(MODULE, "BLAS_THRESHOLD", 1)
    monkeypatch.setattr(MODULE, "MAX_PAIRS", 500)
    monkeypatch.setattr(exact, "RESCORED_NUMBERS", 100)
    gallery = np.concatenate([random_vectors(90, 16), np.repeat(random_vectors(1, 16, 5), 60, axis=0)])
    blocks = list(search_in_blocks(gallery, gallery, 7, query_ids=np.arange(150)))
    assert len(blocks) > 3
    ids, _ = plain_neighbours(gallery, gallery, 7, np.arange(150))
    assert_array_equal(np.concatenate([block.ids for block in blocks]), ids)


def test_torch_searches_in_parts(monkeypatch):
    monkeypatch.setattr(MODULE, "TORCH_ROWS", 7)
    monkeypatch.setattr(MODULE, "TORCH_COLUMNS", 5)
    gallery = random_vectors(40, 16)[np.random.default_rng(0).integers(0, 40, 120)]
    assert_as_plain(gallery[:20], gallery, 9, query_ids=np.arange(20))


@pytest.mark.parametrize("reason", ["faiss is missing", "macOS", "a file"])
def test_faiss_is_not_loaded_where_it_is_missing_or_unsafe_or_would_copy_a_file(reason, monkeypatch, tmp_path):
    gallery = random_vectors(50, 8)
    expected = search(gallery, gallery, 3)
    if reason == "faiss is missing":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    elif reason == "macOS":
        monkeypatch.setattr(sys, "platform", "darwin")
    else:
        np.save(tmp_path / "gallery.npy", gallery)
        gallery = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it fails
    assert_array_equal(search(gallery, gallery, 3).ids, expected.ids)


def test_blocks_stay_above_the_size_below_which_faiss_leaves_blas(monkeypatch):
    monkeypatch.setattr(MODULE, "MAX_PAIRS", 1_000)
    gallery = random_vectors(10_000, 32)
    sizes = [len(block.ids) for block in search_in_blocks(gallery, gallery[:50], 5)]
    assert sizes == [5_000, 5_000]
    assert min(sizes) * 32 >= 128_000


@st.composite
def few_directions(draw):
    """Unit vectors of few different directions, so that all kinds of ties occur, and ids in any order."""
    grid = draw(hnp.arrays(np.int8, st.tuples(st.integers(1, 25), st.integers(1, 4)), elements=st.integers(-2, 2)))
    grid[~grid.any(axis=1), 0] = 1
    ids = draw(st.permutations(range(0, 3 * len(grid), 3)))
    return unit(grid), np.array(ids)


@settings(deadline=None, max_examples=150)
@given(few_directions(), st.integers(1, 30), st.booleans())
def test_any_gallery_is_ranked_by_score_then_id(drawn, k, leave_out):
    gallery, ids = drawn
    assert_as_plain(gallery, gallery, k, query_ids=ids if leave_out else None, gallery_ids=ids)


@settings(deadline=None, max_examples=25)
@given(few_directions(), st.integers(1, 12))
def test_any_gallery_of_many_copies_is_ranked_by_score_then_id(drawn, k):
    directions, _ = drawn
    rng = np.random.default_rng(0)
    gallery = directions[rng.integers(0, len(directions), 120)]
    assert_as_plain(gallery[:20], gallery, k, query_ids=np.arange(20))


def test_scores_that_faiss_gets_wrong_by_less_than_a_near_tie_do_not_change_the_order(monkeypatch):
    import faiss

    class Inexact(faiss.IndexFlatIP):
        def search(self, queries, k):
            scores, positions = super().search(queries, self.ntotal)
            noise = np.random.default_rng(0).uniform(-NEAR_TIE, NEAR_TIE, scores.shape) * 0.45
            scores = scores + noise.astype(np.float32)
            order = np.argsort(-scores, axis=1)[:, :k]
            return np.take_along_axis(scores, order, axis=1), np.take_along_axis(positions, order, axis=1)

    monkeypatch.setattr(faiss, "IndexFlatIP", Inexact)
    rng = np.random.default_rng(1)
    gallery = unit(random_vectors(30, 24)[rng.integers(0, 30, 500)] + 1e-6 * rng.standard_normal((500, 24)))
    ids, _ = plain_neighbours(gallery[:50], gallery, 20, np.arange(50))
    assert_array_equal(search(gallery[:50], gallery, 20, query_ids=np.arange(50)).ids, ids)


GALLERY = random_vectors(10, 4)
NOT_FINITE = GALLERY.copy()
NOT_FINITE[6, 2] = np.nan
HUGE = GALLERY.copy()
HUGE[2, 0] = 3e38


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": GALLERY.astype(np.float64)}, r"queries: float64 \(10, 4\), expected a float32 NumPy array"),
        ({"queries": GALLERY.tolist()}, "queries: list, expected a float32"),
        ({"queries": GALLERY[0]}, r"queries: float32 \(4,\)"),
        ({"gallery": GALLERY[:, :0]}, r"gallery: float32 \(10, 0\)"),
        ({"gallery": GALLERY[:, :3] * 0 + np.float32(3**-0.5)}, "queries have 4 dimensions and the gallery 3"),
        ({"gallery": GALLERY[:0]}, "gallery has no vectors"),
        ({"gallery": 2 * GALLERY}, r"gallery: row 0 has length 2 \(10 of 10 rows are at fault\).* normalise them"),
        ({"queries": 0 * GALLERY}, "queries: row 0 has length 0"),
        ({"queries": NOT_FINITE}, r"queries: row 6 has length nan \(1 of 10"),
        ({"gallery": HUGE}, r"gallery: row 2 has length inf"),
        ({"k": 0}, "k is 0, expected at least 1"),
        ({"k": 2.0}, "k is 2.0, expected a whole number"),
        ({"k": True}, "k is True, expected a whole number"),
        ({"engine": "annoy"}, "engine is 'annoy', expected auto, faiss or torch"),
        ({"query_ids": np.arange(9)}, r"query_ids: int64 \(9,\), expected whole numbers"),
        ({"gallery_ids": np.arange(10.0)}, "gallery_ids: float64"),
        ({"gallery_ids": np.arange(10, dtype=np.uint64)}, "gallery_ids: uint64"),
        ({"gallery_ids": np.array([*range(9), 3])}, "gallery_ids: 3 occurs twice"),
        ({"gallery_ids": np.arange(10) - 1}, "gallery_ids: -1 is negative"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        search(**{"queries": GALLERY, "gallery": GALLERY, "k": 2} | arguments)


def test_wrong_arguments_are_found_before_the_first_block_is_asked_for():
    with pytest.raises(ValueError, match="k is 0"):
        search_in_blocks(GALLERY, GALLERY, 0)


def test_the_arrays_given_are_left_as_they_are():
    gallery = np.repeat(random_vectors(20, 8), 5, axis=0)
    copy = gallery.copy()
    gallery.setflags(write=False)
    search(gallery, gallery, 3, query_ids=np.arange(100))
    assert_array_equal(gallery, copy)


def test_arrays_that_are_not_contiguous_are_searched_alike():
    wide = random_vectors(50, 16)
    gallery = np.asfortranarray(wide)
    assert_array_equal(search(gallery[::2], gallery, 5).ids, search(wide[::2], wide, 5).ids)


def test_wrong_arguments_are_refused_without_assertions():
    program = """
import numpy as np
from retrieval.evaluation import Gallery, exact, search
queries, gallery = np.eye(5, dtype=np.float32), np.eye(4, dtype=np.float32)
for queries in (queries, queries[:, :4].astype(np.float64), np.full((2, 4), np.nan, dtype=np.float32)):
    try:
        search(queries, gallery, 2)
    except ValueError as error:
        print("refused")
"""
    run = subprocess.run([sys.executable, "-O", "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert run.stdout.split() == ["refused"] * 3


def test_importing_evaluation_does_not_load_faiss_or_torch():
    program = "import sys, retrieval.evaluation; print('faiss' in sys.modules, 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert run.stdout.split() == ["False", "False"]


def test_the_neighbours_of_a_single_query_are_found():
    assert_as_plain(np.array([[1.0]], dtype=np.float32), np.array([[1.0], [-1.0]], dtype=np.float32), 2)


def assert_equal(found, expected):
    assert_array_equal(found.ids, expected.ids)
    assert_array_equal(found.scores, expected.scores)
    assert_array_equal(found.positions, expected.positions)


class TestGallery:
    @pytest.mark.parametrize("engine", ["faiss", "torch"])
    def test_it_finds_in_many_calls_what_one_search_finds(self, engine):
        vectors = random_vectors(60, 24)[np.random.default_rng(0).integers(0, 60, 200)]
        ids = np.random.default_rng(1).permutation(1_000)[:200]
        gallery = Gallery(vectors, ids=ids, engine=engine)
        assert len(gallery) == 200
        for k in (1, 7, 200, 250):
            whole = search(vectors[:40], vectors, k, query_ids=ids[:40], gallery_ids=ids, engine=engine)
            for row in range(40):
                found = gallery.search(vectors[[row]], k, query_ids=ids[[row]])
                assert_array_equal(found.ids[0], whole.ids[row])
                assert_array_equal(found.positions[0], whole.positions[row])

    @pytest.mark.parametrize("engine", ["faiss", "torch"])
    def test_four_threads_find_what_one_finds(self, engine):
        # Copies, so that the threads also meet in the search through all items.
        vectors = np.concatenate([random_vectors(900, 32), np.repeat(random_vectors(3, 32, 5), 40, axis=0)])
        queries = np.concatenate([random_vectors(150, 32, 7), vectors[-50:]])

        def search_all(gallery):
            return [gallery.search(queries[[i]], 6) for i in range(200)]

        expected = search_all(Gallery(vectors, engine=engine))
        for _ in range(3):
            gallery = Gallery(vectors, engine=engine)  # a new one, so that the threads meet in the first search
            with ThreadPoolExecutor(4) as pool:
                runs = pool.map(search_all, [gallery] * 4)
                for run in runs:
                    for found, right in zip(run, expected, strict=True):
                        assert_array_equal(found.ids, right.ids)
                        assert_array_equal(found.positions, right.positions)
                        np.testing.assert_allclose(found.scores, right.scores, atol=1e-6)

    def test_distinct_vectors_are_computed_once(self, monkeypatch):
        calls = []
        unique = np.unique
        monkeypatch.setattr(np, "unique", lambda *a, **b: calls.append(1) or unique(*a, **b))
        vectors = np.repeat(random_vectors(2, 8), 50, axis=0)
        gallery = Gallery(vectors)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: gallery.search(vectors[[i]], 3), range(40)))
        assert len(calls) == 1

    def test_blocks_together_are_the_whole_search(self, monkeypatch):
        monkeypatch.setattr(MODULE, "BLAS_THRESHOLD", 1)
        monkeypatch.setattr(MODULE, "MAX_PAIRS", 500)
        vectors = random_vectors(150, 16)
        blocks = list(Gallery(vectors).search_in_blocks(vectors, 7, query_ids=np.arange(150)))
        assert len(blocks) > 3
        ids, _ = plain_neighbours(vectors, vectors, 7, np.arange(150))
        assert_array_equal(np.concatenate([block.ids for block in blocks]), ids)
        assert_array_equal(Gallery(vectors).search(vectors, 7, query_ids=np.arange(150)).ids, ids)

    def test_a_file_and_a_read_only_array_are_searched_by_torch_without_warnings(self, tmp_path):
        vectors = random_vectors(50, 8)
        expected = Gallery(vectors, engine="torch").search(vectors, 3)
        np.save(tmp_path / "vectors.npy", vectors)
        for mode in ("r", "c"):
            on_disk = np.load(tmp_path / "vectors.npy", mmap_mode=mode)
            assert_equal(Gallery(on_disk).search(on_disk, 3), expected)
        vectors.setflags(write=False)
        assert_equal(Gallery(vectors, engine="torch").search(vectors, 3), expected)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"vectors": 2 * GALLERY}, "vectors: row 0 has length 2"),
            ({"vectors": GALLERY[:0]}, "the gallery has no vectors"),
            ({"ids": np.zeros(10, dtype=int)}, "ids: 0 occurs twice"),
            ({"engine": "annoy"}, "engine is 'annoy'"),
        ],
    )
    def test_a_wrong_argument_is_named_with_its_value(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Gallery(**{"vectors": GALLERY} | arguments)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"queries": GALLERY[:, :3] * 0 + np.float32(3**-0.5)}, "queries have 3 dimensions and the gallery 4"),
            ({"queries": 2 * GALLERY}, "queries: row 0 has length 2"),
            ({"k": 0}, "k is 0, expected at least 1"),
            ({"query_ids": np.arange(9)}, r"query_ids: int64 \(9,\)"),
        ],
    )
    def test_a_wrong_argument_of_a_search_is_named_with_its_value(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Gallery(GALLERY).search(**{"queries": GALLERY, "k": 2} | arguments)

    def test_the_example_of_the_docstring_is_right(self):
        assert doctest.testmod(MODULE) == (0, 5)
