from __future__ import annotations

import hashlib
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from index import bundles
from model.networks import DIMENSION, PREPARE, draw_folder, mean_color, own_model, pixels_of, timm_model
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from torch.utils.data import Dataset

import retrieval
from retrieval import evaluation
from retrieval.data import ImageSet
from retrieval.errors import ConfigError, DatasetError, IndexFormatError, RetrievalError
from retrieval.index import Hit, Index, reranking
from retrieval.model import Model

CLASSES, OF_EACH = 4, 3
COUNT = CLASSES * OF_EACH


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("images") / "photos", CLASSES, OF_EACH)


@pytest.fixture(scope="module")
def paths(photos) -> list[str]:
    return sorted(path.relative_to(photos).as_posix() for path in photos.glob("*/*.png"))


@pytest.fixture(scope="module")
def expected(photos, paths) -> np.ndarray:
    """The vectors of all images, in the order of their paths."""
    return timm_model().encode([photos / path for path in paths])


@pytest.fixture
def index(photos) -> Index:
    return Index.build(timm_model(), photos)


@pytest.fixture
def folder(photos, tmp_path) -> Path:
    Index.build(timm_model(), photos, tmp_path / "index")
    return tmp_path / "index"


def random_vectors(count, dimension=6, seed=0):
    """Vectors of any length, in clumps."""
    random = np.random.default_rng(seed)
    return 5 * random.normal(size=(10, dimension))[np.arange(count) % 10] + random.normal(size=(count, dimension))


def unit(vectors) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def slow_search(index: Index, query: np.ndarray, k: int) -> list[int]:
    """The ids of the k nearest items, by a full sort."""
    scores = index.vectors.astype(np.float64) @ unit(query)
    return [int(index.ids[i]) for i in sorted(range(len(index)), key=lambda i: (-scores[i], index.ids[i]))[:k]]


def ids_of(hits) -> list[int]:
    return [hit.id for hit in hits]


def assert_hits(index: Index, hits: list[Hit], query: np.ndarray, k: int) -> None:
    assert ids_of(hits) == slow_search(index, query, k)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    position = {int(id_): i for i, id_ in enumerate(index.ids)}
    for hit in hits:
        i = position[hit.id]
        assert hit.score == pytest.approx(float(index.vectors[i] @ unit(query)), abs=1e-5)
        assert (hit.label, hit.class_name, hit.path) == (index.labels[i], index.classes[i], index.paths[i])


# Building


def assert_is_of_the_photos(index: Index, paths, expected) -> None:
    assert len(index) == COUNT
    assert list(index.paths) == paths
    assert list(index.classes) == [path.split("/")[0] for path in paths]
    assert index.labels.tolist() == [i // OF_EACH for i in range(COUNT)]
    assert index.ids.tolist() == list(range(COUNT))
    assert_allclose(index.vectors, expected, atol=1e-6)
    assert index.vectors.dtype == np.float32


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_index_is_built_of_a_folder(photos, paths, expected, tmp_path, on_disk):
    out = tmp_path / "index" if on_disk else None
    index = Index.build(timm_model(), photos, out)
    assert_is_of_the_photos(index, paths, expected)
    assert index.root == photos
    assert index.folder == out
    if on_disk:
        assert_is_of_the_photos(Index.open(out), paths, expected)
        assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_an_index_is_built_by_the_path_of_its_model(photos, paths, expected, tmp_path):
    timm_model().save(tmp_path / "model")
    assert_is_of_the_photos(Index.build(tmp_path / "model", str(photos)), paths, expected)
    Index.build(timm_model(), photos, tmp_path / "index")
    assert_is_of_the_photos(Index.build(str(tmp_path / "index"), photos), paths, expected)


def test_an_index_is_built_of_a_csv_list(photos, paths, expected):
    (photos / "list.csv").write_text(
        "path,label\n" + "".join(f"{path},label {i % 2}\n" for i, path in enumerate(paths))
    )
    try:
        index = Index.build(timm_model(), photos / "list.csv")
    finally:
        (photos / "list.csv").unlink()
    assert list(index.paths) == paths
    assert list(index.classes) == [f"label {i % 2}" for i in range(COUNT)]
    assert_allclose(index.vectors, expected, atol=1e-6)


@pytest.mark.parametrize("kind", [str, Path])
def test_an_index_is_built_of_a_list_of_files_and_folders(photos, paths, expected, kind):
    files = [kind(photos / path) for path in paths]
    assert_is_of_the_photos(Index.build(timm_model(), files), paths, expected)
    assert_is_of_the_photos(Index.build(timm_model(), iter(files)), paths, expected)
    folders = [kind(photos / f"class {i}") for i in range(CLASSES)]
    assert_is_of_the_photos(Index.build(timm_model(), folders), paths, expected)


def test_an_index_is_built_of_an_image_set(photos, paths, expected, tmp_path):
    images = ImageSet.from_pairs(photos, [(path, path.split("/")[0]) for path in paths])
    assert_is_of_the_photos(Index.build(timm_model(), images), paths, expected)
    assert_is_of_the_photos(Index.build(timm_model(), images, tmp_path / "index"), paths, expected)


class Photos(Dataset):
    """A data set of (image, label) without files."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return Image.fromarray(pixels_of(index)), f"label {index // 2}"


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_index_is_built_of_a_data_set_of_torch(tmp_path, on_disk):
    index = Index.build(timm_model(), Photos(), tmp_path / "index" if on_disk else None, thumbnails=True)
    assert list(index.classes) == ["label 0", "label 0", "label 1", "label 1", "label 2", "label 2"]
    assert_allclose(index.vectors, timm_model().encode([pixels_of(i) for i in range(6)]), atol=1e-6)
    assert index.search(pixels_of(3), k=1)[0].id == 3
    assert len(index._bundle.thumbnails) == 6


@pytest.mark.slow
def test_an_index_holds_a_network_of_the_user_as_onnx(photos, paths, tmp_path):
    model = own_model()
    built = Index.build(model, photos, tmp_path / "index")
    assert (tmp_path / "index" / "model.onnx").is_file()
    index = Index.open(tmp_path / "index")
    assert_allclose(index.vectors, model.encode([photos / path for path in paths]), atol=1e-5)
    assert_allclose(index.model.encode(pixels_of(5)), model.encode(pixels_of(5)), atol=1e-4)
    query = photos / paths[4]
    assert ids_of(index.search(query)) == ids_of(built.search(query)) == slow_search(index, model.encode(query), 10)


def test_an_index_of_a_function_holds_no_model_and_says_so(photos, paths, tmp_path, caplog):
    model = Model(mean_color)
    built = Index.build(model, photos, tmp_path / "index")
    assert "will hold no model: this model is a function" in caplog.text
    assert "open it with Index.open(" in caplog.text
    assert built.search(photos / paths[7], k=1)[0].id == 7
    index = Index.open(tmp_path / "index")
    with pytest.raises(IndexFormatError, match="holds vectors without a model, so images cannot be searched in it"):
        index.search(photos / paths[7])
    assert index.search(index.vectors[7], k=1)[0].id == 7
    again = Index.open(tmp_path / "index", model=model)
    assert again.model is model
    assert again.search(photos / paths[7], k=1)[0].id == 7
    caplog.clear()
    index = Index.build(model, photos)
    assert index.search(pixels_of(0), k=1)[0].id == 0
    assert caplog.text == ""
    index.save(tmp_path / "saved")
    assert "saved: will hold no model: this model is a function" in caplog.text
    assert index.search(pixels_of(0), k=1)[0].id == 0


def test_a_model_that_did_not_make_an_index_is_refused(photos, tmp_path, caplog):
    Index.build(Model(mean_color), photos, tmp_path / "index")
    with pytest.raises(IndexFormatError, match="holds vectors of 12 numbers, the model makes 8; give the model"):
        Index.open(tmp_path / "index", model=timm_model())

    def other(images):
        return mean_color(images)[:, ::-1] ** 2

    with pytest.raises(IndexFormatError, match=r"'class 0/0\.png' has another vector by the given model"):
        Index.open(tmp_path / "index", model=Model(other))
    caplog.clear()
    moved = shutil.copytree(tmp_path / "index", tmp_path / "moved")
    Index.from_vectors(Index.open(moved).vectors, range(COUNT), moved, root=tmp_path / "gone", overwrite=True)
    Index.open(moved, model=Model(other))
    assert "none of its images can be read" in caplog.text
    assert "so the model was not checked" in caplog.text


def test_an_index_that_exists_is_replaced_only_on_request(folder, photos):
    for call in (
        lambda **options: Index.build(timm_model(1), photos, folder, **options),
        lambda **options: Index.from_vectors(np.eye(3), "abc", folder, **options),
        lambda **options: Index.from_vectors(np.eye(3), "abc").save(folder, **options),
        lambda **options: Index.open(folder).merge(out=folder, **options),
    ):
        before = (folder / "manifest.json").read_bytes()
        with pytest.raises(RetrievalError, match="exists already"):
            call()
        assert (folder / "manifest.json").read_bytes() == before
        call(overwrite=True)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(RetrievalError, match=r"holds 'thesis\.tex'"):
        Index.build(timm_model(), photos, folder, overwrite=True)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ("nowhere", DatasetError, "nowhere: is no folder"),
        ("nowhere.csv", DatasetError, "nowhere.csv"),
        (["nowhere.png"], DatasetError, "nowhere.png: does not exist"),
        ([], ConfigError, "there are no images; give folders or image files"),
        (None, ConfigError, "the images are of type NoneType; give paths, or a Dataset"),
        (7, ConfigError, "the images are of type int; give paths, or a Dataset"),
        (
            [np.zeros((4, 4, 3), dtype=np.uint8)],
            ConfigError,
            "the images are of type ndarray; give paths, or a Dataset",
        ),
        ([Image.new("RGB", (4, 4))], ConfigError, "the images are of type Image; give paths, or a Dataset"),
        ({"train": "a"}, ValueError, "the data set is of type dict"),
    ],
)
def test_images_that_cannot_be_indexed_are_named(tmp_path, monkeypatch, images, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        Index.build(timm_model(), images, "index")
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# Vectors


class Color:
    def __init__(self, name):
        self.name = name

    def __str__(self):
        return self.name


RED, BLUE = Color("red"), Color("blue")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["cat", "dog", "cat"], ["cat", "dog", "cat"]),
        ((7, 3, 7), ["7", "3", "7"]),
        (np.array([7, 3, 7]), ["7", "3", "7"]),
        (np.array(["cat", "dog", "cat"]), ["cat", "dog", "cat"]),
        (torch.tensor([7, 3, 7]), ["7", "3", "7"]),
        ([torch.tensor(7), torch.tensor(3), torch.tensor(7)], ["7", "3", "7"]),
        ([np.int64(7), np.int64(3), np.int64(7)], ["7", "3", "7"]),
        ([0.5, 1.5, 0.5], ["0.5", "1.5", "0.5"]),
        ([True, False, True], ["True", "False", "True"]),
        ([("a", 1), ("b", 2), ("a", 1)], ["('a', 1)", "('b', 2)", "('a', 1)"]),
        ((label for label in "aba"), ["a", "b", "a"]),
        ([RED, BLUE, RED], ["red", "blue", "red"]),
    ],
)
def test_labels_of_any_type_become_classes(labels, names):
    index = Index.from_vectors(np.eye(3), labels)
    assert list(index.classes) == names
    assert index.labels[0] == index.labels[2] != index.labels[1]
    assert index.evaluate(ks=(1,))["queries"] == 2


@pytest.mark.parametrize(
    "convert",
    [
        lambda vectors: vectors,
        lambda vectors: vectors.astype(np.float16),
        lambda vectors: vectors.astype(">f4"),
        lambda vectors: np.asfortranarray(vectors),
        lambda vectors: torch.from_numpy(vectors).requires_grad_(),
        lambda vectors: torch.from_numpy(vectors).bfloat16(),
        lambda vectors: vectors.tolist(),
        lambda vectors: list(torch.from_numpy(vectors)),
    ],
)
def test_vectors_of_any_type_become_float32_of_length_1(convert):
    vectors = random_vectors(9)
    index = Index.from_vectors(convert(vectors), range(9))
    assert index.vectors.dtype == np.float32
    assert_allclose(np.linalg.norm(index.vectors, axis=1), 1, atol=1e-6)
    assert_allclose(index.vectors, unit(vectors), atol=2e-2)


def test_an_index_of_vectors_has_the_ids_paths_root_and_model_that_it_is_given(photos, paths, expected, tmp_path):
    ids = [100 - i for i in range(COUNT)]
    for out in (None, tmp_path / "index"):
        index = Index.from_vectors(
            expected, [0] * COUNT, out, ids=ids, paths=paths, root=photos, model=timm_model(), kind="exact"
        )
        assert index.ids.tolist() == ids
        assert list(index.paths) == paths
        assert index.root == photos
        assert index.search(photos / paths[3], k=1)[0].id == 97
    index = Index.open(tmp_path / "index")
    assert index.search(photos / paths[3], k=1)[0].path == paths[3]
    plain = Index.from_vectors(expected, [0] * COUNT, ids=torch.tensor(ids))
    assert list(plain.paths) == [str(id_) for id_ in ids]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.eye(3), "ab"), {}, "3 vectors and 2 labels; give one label for each vector"),
        ((np.zeros((3, 2)), "abc"), {}, "row 0 is zero"),
        ((np.full((3, 2), np.nan), "abc"), {}, "row 0 holds NaN"),
        ((np.eye(3)[0], "a"), {}, "reshape a single vector"),
        ((np.zeros((0, 3)), ""), {}, "is empty"),
        ((np.eye(2), [1, "1"]), {}, "two different labels have the same text"),
        ((np.eye(2), ["a", None]), {}, "label at position 1 is missing"),
        ((np.eye(2), ["a", ["b"]]), {}, "label at position 1 is not hashable"),
        ((np.eye(2), "ab"), {"ids": [1, 1]}, "1 occurs twice"),
        ((np.eye(2), "ab"), {"ids": [1, -1]}, "-1 is negative"),
        ((np.eye(2), "ab"), {"ids": [1]}, "expected whole numbers"),
        ((np.eye(2), "ab"), {"ids": [0.5, 1.5]}, "expected whole numbers"),
        ((np.eye(2), "ab"), {"paths": ["a"]}, "2 vectors, 1 paths"),
        ((np.eye(2), "ab"), {"paths": ["a", "../b"]}, "nor stays below the root"),
        ((np.eye(2), ["a", "b\n"]), {}, "holds a control character"),
        ((np.eye(2), "ab"), {"kind": "LSH"}, "type 'LSH' is not allowed"),
        ((np.eye(2), "ab"), {"kind": "IVF4,Flat"}, "needs at least 156 vectors"),
        ((np.eye(2), "ab"), {"model": timm_model()}, "the model makes vectors of 8 numbers, these have 2"),
    ],
)
def test_vectors_that_do_not_fit_are_named_and_nothing_is_written(tmp_path, arguments, options, message):
    with pytest.raises((ValueError, RetrievalError)) as caught:
        Index.from_vectors(*arguments, tmp_path / "index", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# Searching


def test_a_query_may_have_any_form(index, photos, paths, expected):
    file = photos / paths[4]
    pixels = np.asarray(Image.open(file))
    forms = {
        "path": file,
        "str": str(file),
        "PIL image": Image.open(file),
        "array": pixels,
        "uint8 tensor": torch.from_numpy(pixels.copy()).permute(2, 0, 1),
        "prepared tensor": PREPARE(Image.open(file).convert("RGB")),
        "vector": index.vectors[4],
        "float64 vector": 7 * index.vectors[4].astype(np.float64),
        "tensor vector": torch.from_numpy(index.vectors[4].copy()),
        "bfloat16 vector": torch.from_numpy(index.vectors[4].copy()).double(),
        "list of numbers": index.vectors[4].tolist(),
        "list of NumPy numbers": list(index.vectors[4]),
        "list of NumPy integers": list((10_000 * index.vectors[4]).astype(np.int64)),
    }
    for name, query in forms.items():
        hits = index.search(query, k=5)
        assert isinstance(hits[0], Hit), name
        assert ids_of(hits) == slow_search(index, expected[4], 5), name
        assert hits[0].score == pytest.approx(1, abs=1e-4)
    assert_hits(index, index.search(file), expected[4], 10)
    (only,) = index.search([file], k=5)
    assert_hits(index, only, expected[4], 5)


def test_several_queries_may_have_any_form(index, photos, paths, expected):
    files = [photos / path for path in paths]
    rows = [row.copy() for row in index.vectors]
    tensors = [torch.from_numpy(row) for row in rows]
    forms = {
        "paths": files,
        "tuple of str": tuple(map(str, files)),
        "generator": (file for file in files),
        "mixed images": [files[0], Image.open(files[1]), *map(np.asarray, map(Image.open, files[2:]))],
        "prepared batch": torch.stack([PREPARE(Image.open(file).convert("RGB")) for file in files]),
        "matrix": index.vectors,
        "integer matrix": (1000 * index.vectors).astype(np.int64),
        "tensor": torch.stack(tensors),
        "tensor with gradient": torch.stack(tensors).requires_grad_(),
        "bfloat16 tensor": torch.stack(tensors).bfloat16(),
        "list of vectors": rows,
        "tuple of vectors": tuple(rows),
        "list of tensors": tensors,
        "list of tensors with gradient": [tensor.clone().requires_grad_() for tensor in tensors],
        "list of lists": index.vectors.tolist(),
    }
    for name, queries in forms.items():
        found = index.search(queries, k=1)
        assert [ids_of(hits) for hits in found] == [[i] for i in range(COUNT)], name
    for hits, query in zip(index.search(files, k=7), expected, strict=True):
        assert_hits(index, hits, query, 7)


def test_a_k_beyond_the_index_finds_all_items(index):
    hits = index.search(index.vectors[0], k=1000)
    assert sorted(ids_of(hits)) == list(range(COUNT))
    assert [len(hits) for hits in index.search(index.vectors, k=1000, qe=2)] == [COUNT] * COUNT


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        (np.ones(5), {}, "queries have 5 dimensions and the index in memory 8; use one model for both"),
        (np.ones(5), {"qe": 2}, "queries have 5 dimensions and the index in memory 8"),
        (np.ones((2, 9)), {}, "queries have 9 dimensions"),
        (np.zeros(8), {}, "queries: row 0 is zero"),
        (np.full(8, np.nan), {}, "queries: row 0 holds NaN"),
        ([[1.0, 2.0], [1.0]], {}, "queries: lists of unequal lengths"),
        (np.array(3.0), {}, "expected (number, dimension)"),
        (np.zeros((0, 8)), {}, "is empty"),
        (np.ones((2, 3, 4)), {}, "array of float64 (2, 3, 4)"),
        ([], {}, "there is no query to search for; give at least one"),
        (None, {}, "the images are of type NoneType"),
        ("missing.png", {}, "missing.png: cannot be read as an image"),
        (np.ones(8), {"k": 0}, "k is 0, expected at least 1"),
        (np.ones(8), {"k": -3}, "k is -3, expected at least 1"),
        (np.ones(8), {"k": 2.5}, "k is 2.5, expected a whole number"),
        (np.ones(8), {"k": True}, "k is True, expected a whole number"),
        (np.ones(8), {"qe": -1}, "k is -1"),
        (np.ones(8), {"qe": 1, "alpha": -1}, "alpha -1"),
        (np.ones(8), {"rerank": -1}, "k1 is -1"),
    ],
)
def test_queries_that_do_not_fit_are_named_in_one_line(index, queries, options, message):
    with pytest.raises((ValueError, RetrievalError)) as caught:
        index.search(queries, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_approximate_index_finds_neighbours_and_can_be_searched_exactly(tmp_path):
    vectors = random_vectors(400)
    Index.from_vectors(vectors, np.arange(400) % 10, tmp_path / "index", kind="ivf")
    for index in (Index.open(tmp_path / "index"), Index.from_vectors(vectors, np.arange(400) % 10, kind="ivf")):
        assert index.describe()["type"].startswith("IVF")
        queries = random_vectors(20, seed=1)
        for hits, query in zip(index.search(queries, k=5, exact=True), queries, strict=True):
            assert_hits(index, hits, query, 5)
        right = [
            len(set(ids_of(hits)) & set(slow_search(index, query, 5)))
            for hits, query in zip(index.search(queries, k=5), queries, strict=True)
        ]
        assert sum(right) > 60
        with pytest.raises(ValueError, match="queries have 5 dimensions"):
            index.search(np.ones(5))


def test_expansion_augmentation_and_reranking_are_those_of_the_functions():
    index = Index.from_vectors(random_vectors(40), np.arange(40) % 10)
    queries = unit(random_vectors(6, seed=1)).astype(np.float32)
    gallery = index.vectors
    own = np.arange(40)
    expanded = reranking.expand(queries, gallery, 3, alpha=2.0)
    augmented = reranking.expand(gallery, gallery, 4, alpha=3.0, own=own)
    cases = {
        (("qe", 3), ("alpha", 2.0)): expanded @ gallery.T,
        (("dba", 4),): queries @ augmented.T,
        (("rerank", 5),): np.zeros((6, 40)),
    }
    for positions, scores in reranking.rerank(queries, gallery, 5):
        np.put_along_axis(cases[(("rerank", 5),)], positions, scores, axis=1)
    for options, scores in cases.items():
        for hits, row in zip(index.search(queries, k=8, **dict(options)), scores, strict=True):
            assert_allclose([hit.score for hit in hits], np.sort(row)[::-1][:8], atol=1e-5)
            assert_allclose([row[hit.id] for hit in hits], [hit.score for hit in hits], atol=1e-5)
    assert ids_of(index.search(queries[0], qe=2, dba=2, rerank=4)) != ids_of(index.search(queries[0]))


def test_a_hit_is_written_with_the_name_of_its_class():
    hit = Index.from_vectors(np.eye(3), ["cat", "dog", "owl"], ids=[7, 8, 9]).search([0, 1.0, 0], k=1)[0]
    assert hit.to_dict() == {"rank": 1, "score": 1.0, "id": 8, "label": 1, "class": "dog", "path": "8"}


# A query that nothing is similar to


def labelled_clumps(classes=30, of_each=4, seed=0):
    """Unit vectors of classes that can be told apart, and their labels."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, 12))
    labels = np.arange(classes * of_each) % classes
    return unit(centres[labels] + 0.3 * random.normal(size=(len(labels), 12))).astype(np.float32), labels


@pytest.mark.slow
def test_an_index_is_calibrated_so_that_at_most_one_in_a_hundred_queries_of_an_absent_class_has_a_hit():
    vectors, labels = labelled_clumps(50, 8)
    found = Index.from_vectors(vectors, labels).calibration
    accepted = []
    for label in np.unique(labels):
        others = Index.from_vectors(vectors[labels != label], labels[labels != label])
        accepted += [bool(hits) for hits in others.search(vectors[labels == label], min_score=found.threshold)]
    assert 0 < np.mean(accepted) <= 0.01
    assert (found.false_accept_rate, found.queries, found.calibrated_on) == (0.01, 400, "all images")
    right = [
        any(labels[hit.id] == labels[i] for hit in hits if hit.id != i)
        for i, hits in enumerate(Index.from_vectors(vectors, labels).search(vectors, k=400, min_score=found.threshold))
    ]
    assert found.right_accept_rate == np.mean(right)


def test_a_threshold_that_rests_on_few_queries_or_accepts_few_known_ones_says_so():
    vectors, labels = labelled_clumps(50, 2)
    at_bound = Index.from_vectors(vectors, labels).calibration
    assert (at_bound.queries, at_bound.right_accept_rate >= 0.5) == (100, True)
    assert at_bound.cautions == []
    few = Index.from_vectors(vectors[:-1], labels[:-1])
    (caution,) = few.calibration.cautions
    assert caution.startswith(
        "min-score auto rests on 99 queries, too few to show a rate of 1 %: it may accept up to 3.0 %"
    )
    assert few.describe()["calibration"]["cautions"] == [caution]
    noise = np.random.default_rng(0).normal(size=(400, 4))
    (caution,) = Index.from_vectors(noise, np.arange(400) % 20).calibration.cautions
    share = Index.from_vectors(noise, np.arange(400) % 20).calibration.right_accept_rate
    assert caution.startswith(f"min-score auto accepts only {100 * share:.1f} % of queries of known classes")
    lone = Index.from_vectors(noise, np.arange(400)).calibration
    assert (lone.right_accept_rate, lone.cautions) == (None, [])


def test_hits_below_min_score_are_dropped_and_the_answer_can_be_no_hit():
    vectors, labels = labelled_clumps()
    index = Index.from_vectors(vectors, labels)
    query = unit(np.random.default_rng(7).normal(size=12))
    every = index.search(query, k=20)
    limit = every[4].score
    assert index.search(query, k=20, min_score=limit) == every[:5]
    assert index.search(query, k=20, min_score=np.float32(1.5)) == []
    assert [len(hits) for hits in index.search([query, vectors[0]], k=1, min_score=0.999)] == [0, 1]
    assert index.search(vectors[0], k=3, min_score="auto") == [
        hit for hit in index.search(vectors[0], k=3) if hit.score >= index.calibration.threshold
    ]
    assert index.search(query, min_score="auto") == []
    assert [hit.score >= 0.4 for hit in index.search(query, k=5, rerank=5, min_score=0.4)].count(False) == 0


@pytest.mark.parametrize(
    ("min_score", "options", "message"),
    [
        ("high", {}, "min_score is 'high', expected a finite number or 'auto'"),
        (True, {}, "min_score is True, expected a finite number or 'auto'"),
        (float("nan"), {}, "min_score is nan, expected a finite number"),
        ([0.5], {}, r"min_score is \[0.5\], expected a finite number"),
        ("auto", {"rerank": 3}, "min_score auto is for plain scores; give a number with qe, dba and rerank"),
    ],
)
def test_a_min_score_that_is_none_is_named(index, min_score, options, message):
    with pytest.raises((ValueError, ConfigError), match=message):
        index.search(index.vectors[0], min_score=min_score, **options)


def test_auto_without_a_threshold_says_how_to_get_one(folder, tmp_path):
    bundles.rewrite(folder)  # as an earlier version wrote it
    index = Index.open(folder)
    assert index.calibration is None
    with pytest.raises(
        ConfigError, match=r"an earlier version made it; give a number, or .* `retrieval index merge .* --out NEW`"
    ):
        index.search(index.vectors[0], min_score="auto")
    copy = index.merge(out=tmp_path / "copy")
    assert copy.search(index.vectors[0], min_score="auto")[0].id == 0
    one = Index.from_vectors(np.eye(3), ["a", "a", "a"])
    assert one.calibration is None
    assert one.describe()["calibration"] is None
    with pytest.raises(
        ConfigError, match="has no threshold for min_score auto, because it has a single class; give a number"
    ):
        one.search([1.0, 0.0, 0.0], min_score="auto")


def test_the_threshold_is_found_again_when_items_are_added_removed_or_merged(folder, photos, tmp_path):
    def expected(index):
        return Index.from_vectors(index.vectors, index.classes, ids=index.ids).calibration

    index = Index.open(folder)
    first = index.calibration
    assert first == expected(index)
    index.add(draw_folder(tmp_path / "more", 6, 2))
    assert index.calibration == expected(index) != first
    index.remove(classes=["class 1"])
    assert index.calibration == expected(index) == Index.open(folder).calibration
    merged = index.merge(Index.build(timm_model(), draw_folder(tmp_path / "others", 2, 3)))
    assert merged.calibration == expected(merged)


def test_the_threshold_is_calibrated_on_images_that_were_not_trained_on_where_there_are_such(photos, tmp_path):
    unseen = range(COUNT - OF_EACH, COUNT)
    index = Index.build(timm_model(), photos, tmp_path / "index", unseen=unseen)
    found = index.calibration
    assert (found.queries, found.calibrated_on) == (OF_EACH, "images that the model was not trained on")
    other = evaluation.best_scores(index.vectors, index.labels, np.array(unseen)).wrong.max()
    assert other < found.threshold == pytest.approx(other + 1e-5, abs=1e-6)
    index.add(draw_folder(tmp_path / "more", 1, 2))
    index.remove(ids=[COUNT - 1])
    assert index.calibration.queries == OF_EACH - 1  # still those, without the one that was removed
    index.remove(ids=list(unseen)[:-1])
    assert (index.calibration.queries, index.calibration.calibrated_on) == (len(index), "all images")


# Measuring


def test_the_figures_are_those_of_evaluate():
    vectors, labels = random_vectors(30), np.arange(30) % 10
    index = Index.from_vectors(vectors, labels, ids=np.random.default_rng(0).permutation(30))
    figures = index.evaluate(ks=(1, 3), macro=True, interval_seed=0)
    assert figures == evaluation.evaluate(vectors, labels, ks=(1, 3), ids=index.ids, macro=True, interval_seed=0)
    assert index.evaluate()["recall@8"] >= index.evaluate()["recall@1"]
    assert "not_in_gallery" not in figures
    others = random_vectors(20, seed=3)
    queries = Index.from_vectors(others, np.arange(20) % 10)
    found = index.evaluate(ks=(1, 3), queries=queries)
    plain = retrieval.evaluate(
        others, np.arange(20) % 10, ks=(1, 3), ids=index.ids, gallery=vectors, gallery_labels=labels
    )
    assert found == plain
    rows = index.evaluate_classes(ks=(1,))
    assert {row["class"] for row in rows} == set(map(str, range(10)))
    assert [row["recall@1"] for row in rows] == sorted(row["recall@1"] for row in rows)
    rankings = index.evaluate_rankings(ks=(1,), qe=2, dba=2, rerank=3)
    assert rankings["plain"]["recall@1"] == index.evaluate(ks=(1,))["recall@1"]
    assert len(rankings) == 5
    with pytest.raises(ConfigError, match="the index in memory: cannot be measured"):
        index.evaluate(ks=(30,))


def test_queries_alone_in_their_class_are_told_from_those_whose_class_the_gallery_lacks():
    index = Index.from_vectors(np.eye(5), ["a", "a", "b", "b", "alone"])
    queries = Index.from_vectors(np.eye(5)[:4], ["a", "alone", "new", "newer"])
    own, against = index.evaluate(ks=(1,)), index.evaluate(ks=(1,), queries=queries)
    assert (own["queries"], own["left_out"], "not_in_gallery" in own) == (4, 1, False)
    assert (against["queries"], against["left_out"], against["not_in_gallery"]) == (2, 2, 2)
    for name, figures in index.evaluate_rankings(ks=(1,), queries=queries, qe=1).items():
        assert (name, figures["left_out"], figures["not_in_gallery"]) == (name, 2, 2)


def test_two_indexes_of_the_same_images_are_compared():
    labels = np.arange(30) % 10
    paths = [f"{i}.png" for i in range(30)]
    first = Index.from_vectors(random_vectors(30), labels, paths=paths)
    order = np.random.default_rng(1).permutation(30)
    second = Index.from_vectors(random_vectors(30, seed=5)[order], labels[order], paths=[paths[i] for i in order])
    found = first.compare(second, first)
    assert found["queries"] == 30
    assert found["first"]["recall@1"] == first.evaluate(ks=(1,))["recall@1"]
    assert found["others"][0]["recall@1"]["value"] == second.evaluate(ks=(1,))["recall@1"]
    assert found["others"][1]["map@r"]["difference"] == 0
    assert found["others"][1]["map@r"]["p"] == 1


# Editing


@pytest.mark.parametrize("on_disk", [False, True])
def test_images_are_added_and_found(photos, tmp_path, on_disk):
    root = shutil.copytree(photos, tmp_path / "photos")
    index = Index.build(timm_model(), root, tmp_path / "index" if on_disk else None, thumbnails=True)
    (root / "new").mkdir()
    for i in range(3):
        Image.fromarray(pixels_of(900 + i)).save(root / "new" / f"{i}.png")
    assert index.add(root / "new") == 3
    assert len(index) == COUNT + 3
    assert index.classes[-3:] == ("new",) * 3
    assert index.ids[-3:].tolist() == [COUNT, COUNT + 1, COUNT + 2]
    assert index.search(pixels_of(901), k=1)[0].path == "new/1.png"
    assert index.add([root / "new" / "0.png"]) == 0
    Image.fromarray(pixels_of(950)).save(root / "loose.png")
    assert index.add(str(root / "loose.png"), class_name="class 2") == 1
    assert index.classes[-1] == "class 2"
    assert index.labels[-1] == index.labels[2 * OF_EACH]
    assert len(index._bundle.thumbnails) == COUNT + 4
    if on_disk:
        again = Index.open(tmp_path / "index")
        assert list(again.paths) == list(index.paths)
        assert_array_equal(again.vectors, index.vectors)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "photos"]


def test_an_image_set_is_added_with_its_own_classes(folder, photos, paths, tmp_path):
    index = Index.open(folder)
    index.remove(ids=[0, 1])
    assert index.add(ImageSet.from_pairs(photos, [(paths[0], "new"), (paths[1], "class 1")])) == 2
    assert index.classes[-2:] == ("new", "class 1")
    assert index.paths[-2:] == tuple(paths[:2])
    assert index.search(photos / paths[0], k=1)[0].class_name == "new"
    elsewhere = draw_folder(tmp_path / "elsewhere", 1)
    assert index.add(ImageSet.from_pairs(elsewhere, [("class 0/1.png", "newer")])) == 1
    assert (index.classes[-1], index.paths[-1]) == ("newer", (elsewhere / "class 0" / "1.png").as_posix())


def test_the_class_of_an_added_image_is_the_folder_it_was_given_by_and_every_path_resolves(
    folder, photos, paths, tmp_path
):
    index = Index.open(folder)
    draw_folder(tmp_path / "delivery", 2, 1)  # a folder of class folders
    (tmp_path / "delivery" / "class 0").rename(tmp_path / "delivery" / "lamp")
    (tmp_path / "delivery" / "class 1").rename(tmp_path / "delivery" / "chair")
    shutil.copytree(tmp_path / "delivery" / "lamp", tmp_path / "table")  # a folder with images in it
    shutil.copytree(tmp_path / "delivery" / "lamp", tmp_path / "deep" / "sofa")  # a file of a folder
    assert index.add([tmp_path / "delivery", tmp_path / "table", tmp_path / "deep" / "sofa" / "0.png"]) == 4
    assert index.classes[COUNT:] == ("chair", "lamp", "table", "sofa")
    assert list(index.paths[:COUNT]) == paths
    assert index.root == photos
    for opened in (index, Index.open(folder)):
        assert all((opened.root / path).is_file() for path in opened.paths)
    alike = index.search(tmp_path / "table" / "0.png", k=4)
    assert {hit.class_name for hit in alike} == {"class 0", "lamp", "table", "sofa"}  # four copies of one image


def test_a_folder_inside_the_root_is_added_with_paths_from_the_root(photos, tmp_path, monkeypatch):
    root = shutil.copytree(photos, tmp_path / "photos")
    index = Index.build(timm_model(), root, tmp_path / "index")
    shutil.copytree(root / "class 0", root / "new" / "lamp")
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root / "new")
    assert index.add(["lamp/0.png"]) == 1
    assert index.add(tmp_path / "link" / "new" / "lamp" / "1.png") == 1
    assert index.paths[-2:] == ("new/lamp/0.png", "new/lamp/1.png")
    assert index.classes[-2:] == ("lamp", "lamp")


def test_images_that_are_held_are_counted_and_the_others_are_added(folder, photos, tmp_path, caplog):
    caplog.set_level("INFO", "retrieval")
    index = Index.open(folder)
    draw_folder(tmp_path / "more", 1, 2)
    assert index.add([tmp_path / "more", tmp_path / "more" / "class 0", tmp_path / "more" / "class 0" / "1.png"]) == 2
    count, text = len(index), (folder / "manifest.json").read_bytes()
    for again in (tmp_path / "more", tmp_path / "more" / "class 0" / "1.png", photos / "class 1"):
        assert index.add(again) == 0
    assert (folder / "manifest.json").read_bytes() == text
    Image.fromarray(pixels_of(901)).save(tmp_path / "more" / "class 0" / "2.png")
    assert index.add(tmp_path / "more") == 1
    assert f"{folder}: holds 2 of 3 images already, which are not added again" in caplog.messages
    assert len(index) == len(Index.open(folder)) == count + 1
    assert index.search(pixels_of(901), k=1)[0].path == (tmp_path / "more" / "class 0" / "2.png").as_posix()


def test_a_held_path_with_another_class_or_content_is_refused(folder, photos, tmp_path):
    index = Index.open(folder)
    draw_folder(tmp_path / "more", 1, 2)
    index.add(tmp_path / "more")
    with pytest.raises(IndexFormatError, match=r"0\.png' already, as class 'class 0' and not 'other'; remove it first"):
        index.add(tmp_path / "more", class_name="other")
    Image.fromarray(pixels_of(902)).save(tmp_path / "more" / "class 0" / "1.png")
    with pytest.raises(IndexFormatError, match=r"1\.png' already, with another content; remove it first"):
        index.add(tmp_path / "more")


def test_a_class_that_looks_like_one_of_the_index_is_refused(folder, photos, tmp_path):
    index = Index.open(folder)
    draw_folder(tmp_path / "more", 1, 1)
    with pytest.raises(DatasetError, match="look alike but are written"):
        index.add(tmp_path / "more", class_name="class\u00a00")
    (tmp_path / "more" / "class 0").rename(tmp_path / "more" / "class\u200b 0")
    with pytest.raises(DatasetError, match="look alike"):
        index.merge(Index.build(index.model, tmp_path / "more"))
    with pytest.raises(DatasetError, match="look alike"):
        Index.from_vectors(np.eye(2), ["caf\u00e9", "cafe\u0301"])


def test_images_from_elsewhere_stay_in_an_index_that_is_edited_merged_and_exported(folder, tmp_path):
    index = Index.open(folder)
    index.add(draw_folder(tmp_path / "more", 1, 2))
    new = index.paths[-2:]
    index.remove(ids=[0])
    assert index.paths[-2:] == new
    merged = index.merge(Index.build(timm_model(), draw_folder(tmp_path / "others", 1, 1)))
    assert all((merged.root / path).is_file() for path in merged.paths)
    exported = index.export(tmp_path / "files")
    assert Index.from_files(exported.vectors, exported.table).paths == index.paths


def test_images_are_added_to_an_index_of_a_function(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "photos")
    Index.build(Model(mean_color), root, tmp_path / "index")
    index = Index.open(tmp_path / "index", model=Model(mean_color))
    (root / "new").mkdir()
    Image.fromarray(pixels_of(900)).save(root / "new" / "0.png")
    assert index.add(root / "new") == 1
    assert index.search(pixels_of(900), k=1)[0].path == "new/0.png"
    assert Index.open(tmp_path / "index", model=Model(mean_color)).search(pixels_of(900), k=1)[0].path == "new/0.png"


def test_what_cannot_be_added_is_named(folder, photos):
    index = Index.open(folder)
    for images, options, message in (
        ([], {}, "there are no images; give folders or image files"),
        (photos / "missing.png", {}, "does not exist"),
        ([pixels_of(0)], {}, "the images are of type ndarray; give paths"),
        (None, {}, "the images are of type NoneType; give paths"),
        (photos, {"class_name": " "}, "the name of the class is empty"),
        (photos, {"class_name": "a\tb"}, "holds a control character"),
    ):
        with pytest.raises(RetrievalError, match=message):
            index.add(images, **options)
    vectors = Index.from_vectors(np.eye(3), "abc")
    with pytest.raises(IndexFormatError, match="holds vectors without a model"):
        vectors.add(photos / "class 0" / "0.png", class_name="a", root=photos)


@pytest.mark.parametrize("on_disk", [False, True])
def test_items_are_removed_by_path_id_or_class(photos, paths, tmp_path, on_disk):
    index = Index.build(timm_model(), photos, tmp_path / "index" if on_disk else None)
    model = index.model
    assert index.remove(paths[:1], ids=[5], classes=["class 3"]) == 2 + OF_EACH
    kept = [i for i in range(COUNT) if i not in (0, 5, *range(3 * OF_EACH, COUNT))]
    assert index.ids.tolist() == kept
    assert list(index.paths) == [paths[i] for i in kept]
    assert set(ids_of(index.search(photos / paths[0], k=99))) == set(kept)
    assert index.model is model
    for options, message in (
        ({"paths": ["class 1/0.pgn"]}, r"has no path 'class 1/0.pgn'; did you mean 'class 1/0.png'"),
        ({"ids": [5]}, "has no id 5"),
        ({"classes": ["class 3"]}, "has no class 'class 3'"),
        ({}, "nothing to remove"),
        ({"ids": kept}, "nothing would be left"),
    ):
        with pytest.raises(RetrievalError, match=message):
            index.remove(**options)
    assert index.ids.tolist() == kept
    if on_disk:
        assert Index.open(tmp_path / "index").ids.tolist() == kept


def test_merged_indexes_hold_the_items_of_all(photos, tmp_path):
    one = Index.build(timm_model(), [photos / "class 0", photos / "class 1"])
    two = Index.build(timm_model(), [photos / "class 2", photos / "class 3"], tmp_path / "two")
    both = one.merge(tmp_path / "two", out=tmp_path / "both")
    for index in (both, one.merge(two), Index.open(tmp_path / "both")):
        assert len(index) == COUNT
        assert sorted(set(index.classes)) == [f"class {i}" for i in range(CLASSES)]
        assert index.search(photos / "class 3" / "1.png", k=1)[0].path == "class 3/1.png"
    other = Index.build(timm_model(1), photos / "class 0")
    with pytest.raises(IndexFormatError, match="only vectors of one model can be compared"):
        one.merge(other)
    functions = [Index.build(Model(mean_color), [photos / f"class {i}"]) for i in range(2)]
    assert functions[0].merge(functions[1]).search(photos / "class 1" / "0.png", k=1)[0].path == "class 1/0.png"


def test_an_index_that_is_saved_is_the_same(index, photos, paths, expected, tmp_path):
    index.save(tmp_path / "index")
    assert index.folder == tmp_path / "index"
    again = Index.open(tmp_path / "index")
    assert_is_of_the_photos(again, paths, expected)
    assert_array_equal(again.model.encode(pixels_of(3)), timm_model().encode(pixels_of(3)))
    index.remove(ids=[0])
    assert len(Index.open(tmp_path / "index")) == COUNT - 1


def test_an_index_comes_back_from_the_files_that_it_exports(index, tmp_path):
    written = index.export(tmp_path / "files")
    assert written.count == COUNT
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == ["labels.csv", "vectors.npy"]
    for out in (None, tmp_path / "index"):
        again = Index.from_files(written.vectors, written.table, out)
        assert_array_equal(again.vectors, index.vectors)
        assert_array_equal(again.ids, index.ids)
        assert again.classes == index.classes
        assert again.paths == index.paths
        assert again.evaluate(ks=(1,)) == index.evaluate(ks=(1,))
    with pytest.raises(RetrievalError, match="exists already"):
        index.export(tmp_path / "files")
    with pytest.raises(DatasetError, match=r"missing\.npy: cannot be read"):
        Index.from_files(tmp_path / "missing.npy", written.table)


def test_an_index_says_what_it_is(folder):
    index = Index.open(folder)
    assert repr(index) == f"Index({str(folder)!r}, 12 vectors of 8 numbers)"
    facts = index.describe()
    assert {key: facts[key] for key in ("index", "count", "dimension", "classes", "type")} == {
        "index": str(folder),
        "count": COUNT,
        "dimension": DIMENSION,
        "classes": CLASSES,
        "type": "exact",
    }
    assert facts["model"] == Index.open(folder).describe()["model"]
    assert index.manifest["split"] == "images"
    assert repr(Index.from_vectors(np.eye(2), "ab")) == "Index('the index in memory', 2 vectors of 2 numbers)"


def test_hits_are_drawn_as_a_picture_and_as_a_page(index, photos, paths, tmp_path):
    query = photos / paths[0]
    index.draw(query, index.search(query, k=3), tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.format == "PNG"
    queries = [query, pixels_of(4)]
    index.write_page(queries, index.search(queries, k=2), tmp_path / "two.html")
    page = (tmp_path / "two.html").read_text()
    assert page.count("<section>") == 2
    assert page.count("<li>") == 4
    with pytest.raises(RetrievalError, match="exists already"):
        index.draw(query, index.search(query), tmp_path / "one.png")


# Several threads, and other programs


def test_an_index_stays_as_it_was_read_until_it_is_reloaded(folder, photos, paths):
    index = Index.open(folder)
    assert index.reload() is False
    Index.open(folder).remove(ids=[3])
    assert len(index) == COUNT
    assert index.search(photos / paths[3], k=1)[0].id == 3
    model = index.model
    assert index.reload() is True
    assert index.reload() is False
    assert len(index) == COUNT - 1
    assert index.model is model
    assert index.search(photos / paths[3], k=1)[0].id != 3
    (folder / "vectors.npy").write_bytes(b"damaged")
    assert index.reload() is False  # the manifest is the same
    (folder / "manifest.json").unlink()
    with pytest.raises(IndexFormatError, match=r"has no manifest\.json"):
        index.reload()
    assert len(index) == COUNT - 1
    assert Index.from_vectors(np.eye(2), "ab").reload() is False


def test_an_index_that_is_reloaded_has_the_model_of_the_new_folder(folder, photos, paths):
    index = Index.open(folder)
    assert index.search(photos / paths[3], k=1)[0].id == 3
    Index.build(timm_model(1), photos, folder, overwrite=True)
    assert index.reload() is True
    assert_array_equal(index.model.encode(pixels_of(0)), timm_model(1).encode(pixels_of(0)))
    assert index.search(photos / paths[3], k=1)[0].score == pytest.approx(1, abs=1e-4)


def test_a_model_that_was_given_is_checked_again_when_the_index_is_reloaded(photos, tmp_path):
    Index.build(Model(mean_color), photos, tmp_path / "index")
    index = Index.open(tmp_path / "index", model=Model(mean_color))
    Index.open(tmp_path / "index").remove(ids=[0])
    assert index.reload() is True
    Index.build(Model(lambda images: mean_color(images) ** 3), photos, tmp_path / "index", overwrite=True)
    with pytest.raises(IndexFormatError, match="has another vector by the given model"):
        index.reload()
    assert len(index) == COUNT - 1


@pytest.mark.slow
def test_answers_of_four_threads_belong_to_one_generation_while_the_folder_is_replaced(tmp_path, photos, paths):
    """Odd and even generations have other models, ids and classes, so that a mixture of two would be seen."""
    folder = tmp_path / "index"
    models = [timm_model(0), timm_model(1)]
    files = [photos / path for path in paths]
    vectors = [model.encode(files) for model in models]

    def replace(generation: int) -> None:
        odd = generation % 2
        Index.from_vectors(
            vectors[odd],
            [f"generation {generation}"] * COUNT,
            folder,
            ids=np.arange(COUNT) + 1000 * generation,
            model=models[odd],
            overwrite=True,
        )

    replace(0)
    index = Index.open(folder)
    stop = threading.Event()
    errors: list[str] = []
    answers: list[int] = []
    latest: dict[int, int] = {}  # by thread
    query = Image.open(files[5]).convert("RGB")

    def search() -> None:
        while not stop.is_set():
            hits = index.search(query, k=COUNT)
            (generation,) = {hit.class_name for hit in hits}
            number = int(generation.split()[1])
            if {hit.id for hit in hits} != set(range(1000 * number, 1000 * number + COUNT)):
                errors.append(f"ids of another generation than {number}")
            if hits[0].id != 1000 * number + 5 or abs(hits[0].score - 1) > 1e-4:
                errors.append(f"the query was embedded by the model of another generation than {number}")
            answers.append(number)
            latest[threading.get_ident()] = number

    with ThreadPoolExecutor(4) as pool:
        threads = [pool.submit(search) for _ in range(4)]
        try:
            for generation in range(1, 13):
                before = len(answers)
                replace(generation)
                while len(answers) < before + 8 and not any(thread.done() for thread in threads):
                    stop.wait(0.001)
                for thread in threads:
                    assert not thread.done() or thread.result()
                assert set(answers[before:]) == {generation - 1}  # not reloaded yet
                assert index.reload() is True
                assert index._bundle.class_names[0] == f"generation {generation}"
                while [*latest.values()].count(generation) < 4 and not any(thread.done() for thread in threads):
                    stop.wait(0.001)
        finally:
            stop.set()
        for thread in threads:
            thread.result()
    assert errors == []


def test_many_first_searches_at_once_build_one_model_and_one_gallery(folder, photos, paths, monkeypatch):
    built = []
    load = Model.of
    monkeypatch.setattr(Model, "of", classmethod(lambda cls, loaded: built.append(1) or load(loaded)))
    index = Index.open(folder)
    start = threading.Barrier(4)

    def search(number):
        start.wait()
        return index.search(photos / paths[number], k=1)[0].id

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(search, range(4))) == [0, 1, 2, 3]
    assert built == [1]


# Bundles that were written before the index was a class


def write_old_bundle(folder: Path, model: Model, vectors: np.ndarray, root: Path, paths: list[str]) -> None:
    """Writes every file by hand, as the version of November 2026 did."""
    folder.mkdir()
    np.save(folder / "vectors.npy", vectors)
    rows = "".join(f"{i},{i // OF_EACH},{path.split('/')[0]},{path}\n" for i, path in enumerate(paths))
    (folder / "items.csv").write_text(f"id,label,class,path\n{rows}")
    stored = model.stored()
    description = {
        "backbone": "test_resnet",
        "embedding_dim": DIMENSION,
        "image_size": 32,
        "pooling": None,
        "layer_norm": False,
        "preprocessing": {
            "resize": 36,
            "size": 32,
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.25, 0.3],
            "interpolation": "bilinear",
        },
    }
    (folder / "model.json").write_text(json.dumps(description, indent=2))
    (folder / "model.safetensors").write_bytes(stored.weights)
    files = {}
    for name in ("vectors.npy", "items.csv", "model.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {
        "format": "retrieval index",
        "version": 2,
        "created": "2026-11-28T19:56:20+00:00",
        "versions": {"retrieval": "0.1.0", "numpy": "2.4.6"},
        "metric": "inner_product",
        "normalised": True,
        "dimension": DIMENSION,
        "count": COUNT,
        "num_classes": CLASSES,
        "images_root": str(root),
        "split": "test",
        "source": {"dataset": "glyphs", "checkpoint": "last", "step": 480},
        "type": "exact",
        "approximate": {},
        "files": files,
    }
    checksum = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest | {"checksum": checksum}, indent=2) + "\n")


def test_a_bundle_of_an_earlier_version_is_searched_measured_and_changed(tmp_path, photos, paths, expected):
    root = shutil.copytree(photos, tmp_path / "photos")
    write_old_bundle(tmp_path / "index", timm_model(), expected, root, paths)
    index = Index.open(tmp_path / "index")
    assert_is_of_the_photos(index, paths, expected)
    assert index.search(photos / paths[7], k=1)[0].path == paths[7]
    assert index.model.source == {"dataset": "glyphs", "checkpoint": "last", "step": 480}
    assert index.evaluate(ks=(1,)) == evaluation.evaluate(expected, np.arange(COUNT) // OF_EACH, ks=(1,))
    assert_array_equal(Model.load(tmp_path / "index").encode(pixels_of(2)), timm_model().encode(pixels_of(2)))
    (root / "new").mkdir()
    Image.fromarray(pixels_of(900)).save(root / "new" / "0.png")
    assert index.add(root / "new") == 1
    assert index.remove(ids=[0]) == 1
    new = Index.build(timm_model(), draw_folder(tmp_path / "others", 1))
    assert new.describe()["model"] == index.describe()["model"]  # of one model, so they can be merged
    assert len(new.merge(tmp_path / "index")) == COUNT + OF_EACH


def test_an_index_keeps_its_own_copy_of_the_vectors():
    vectors = np.eye(4, dtype=np.float32)
    index = Index.from_vectors(vectors, list("aabb"))
    vectors[0] = 5
    assert index.search([1.0, 0.0, 0.0, 0.0], k=1)[0].id == 0
    with pytest.raises(ValueError, match="read-only"):
        index.vectors[0] = 0


def test_paths_that_repeat_and_missing_labels_are_refused():
    with pytest.raises(ValueError, match=r"paths holds 'a\.jpg' twice"):
        Index.from_vectors(np.eye(2), ["a", "b"], paths=["a.jpg", "a.jpg"])
    with pytest.raises(ValueError, match="labels is None"):
        Index.from_vectors(np.eye(2), None)


def test_one_path_or_class_may_be_given_as_a_text():
    index = Index.from_vectors(np.eye(5), ["one", "one", "two", "two", "two"], paths=["ab", "b", "c", "d", "e"])
    assert index.remove("ab") == 1
    assert index.remove(classes="one") == 1
    assert index.paths == ("c", "d", "e")


def test_an_index_of_images_without_files_keeps_their_pictures():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    images = ImageSet.from_dataset(pixels, labels=list("aabb"))
    index = Index.build(Model(lambda batch: np.stack([np.asarray(image).ravel() for image in batch])), images)
    assert index._bundle.thumbnails is not None


def test_the_root_of_an_index_moves_only_with_all_its_images(tmp_path):
    draw_folder(tmp_path / "photos")
    index = Index.build(timm_model(), tmp_path / "photos", tmp_path / "index")
    draw_folder(tmp_path / "more" / "new")
    with pytest.raises(
        ConfigError, match=r"is not the folder of all images of .*; leave --root out to add images from anywhere"
    ):
        index.add(tmp_path / "more", class_name="new", root=tmp_path / "more")
    assert index.root == (tmp_path / "photos").resolve()
    shutil.copytree(tmp_path / "photos", tmp_path / "moved" / "photos")
    shutil.copytree(tmp_path / "photos", tmp_path / "moved", dirs_exist_ok=True)
    assert index.add(tmp_path / "moved" / "photos", class_name="new", root=tmp_path / "moved") > 0
    assert all((index.root / path).is_file() for path in index.paths)


@pytest.mark.parametrize("ids", [np.arange(COUNT) == 3, [True], True, 1.5, [[1]], None])
def test_a_mask_or_another_thing_in_place_of_ids_removes_nothing(photos, ids):
    index = Index.build(timm_model(), photos)
    with pytest.raises(ValueError, match=r"id is .*, expected one id of the index or a list of several"):
        index.remove(ids=ids)
    assert len(index) == COUNT
    assert index.remove(ids=0) == 1


@pytest.mark.parametrize("other", [None, 0, b"index"])
def test_what_is_no_other_index_is_refused(index, other):
    for call in (index.merge, index.compare):
        with pytest.raises(ValueError, match=f"an index is given as {other!r}; give an Index or the folder of one"):
            call(other)


def test_the_picture_of_an_item_is_its_thumbnail_or_its_file(photos, folder):
    plain = Index.open(folder)
    item = int(plain.ids[-1])
    assert plain.picture(item) == plain.root / plain.paths[-1]
    small = Index.build(plain.model, photos, thumbnails=True)
    assert small.picture(int(small.ids[0]))[:2] == b"\xff\xd8"
    with pytest.raises(IndexFormatError, match="has no item of id 999"):
        plain.picture(999)
