from __future__ import annotations

import numpy as np
import pytest
from index import bundles
from index.bundles import rewrite

from retrieval.errors import IndexFormatError, RetrievalError
from retrieval.evaluation import search
from retrieval.index import approximate
from retrieval.index.bundle import read_bundle

DIMENSION = 16


def unit_vectors(count, seed=0):
    """Vectors in clumps, as embeddings are."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((20, DIMENSION))[rng.integers(20, size=count)]
    vectors = vectors + 0.3 * rng.standard_normal((count, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write(folder, kind, count=900):
    vectors = unit_vectors(count)
    bundles.write(
        folder,
        vectors=vectors,
        ids=np.arange(count) + 5,
        labels=np.arange(count) % 9,
        class_names=[f"class {i}" for i in range(9)],
        paths=[f"{i}.png" for i in range(count)],
        model=None,
        images_root="images",
        split="test",
        source={},
        kind=kind,
    )
    return vectors


def refused(folder) -> str:
    with pytest.raises(IndexFormatError) as caught:
        _ = read_bundle(folder).approximate
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "factory", "fewest"),
    [
        ("ivf", "IVF23,Flat", 0.9),
        ("hnsw", "HNSW32", 0.99),
        ("pq", "PQ2x4", 0.5),
        ("IVF10,SQ8", "IVF10,SQ8", 0.9),
        ("PCA8,IVF4,Flat", "PCA8,IVF4,Flat", 0.5),
        ("HNSW8,SQ8", "HNSW8,SQ8", 0.9),
        ("IVF4,PQ4x4", "IVF4,PQ4x4", 0.5),
        ("SQfp16", "SQfp16", 0.99),
    ],
)
def test_the_recall_against_the_exact_answer_stands_in_the_manifest(tmp_path, kind, factory, fewest):
    vectors = write(tmp_path / "index", kind)
    bundle = read_bundle(tmp_path / "index")
    assert bundle.manifest["type"] == factory
    measured = bundle.manifest["approximate"]
    assert measured["queries"] == 900
    assert fewest <= measured["recall@10"] <= 1
    index = bundle.approximate
    assert index is not None
    exact, (found, _) = search(vectors, vectors, 10).ids, index.search(vectors, 10)
    assert np.mean([np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)]) == measured["recall@10"]


def test_what_is_found_has_its_exact_score_and_comes_in_canonical_order(tmp_path):
    vectors = write(tmp_path / "index", "PQ2x4")
    index = read_bundle(tmp_path / "index").approximate
    assert index is not None
    positions, scores = index.search(unit_vectors(30, seed=1), 7)
    products = np.einsum("id,ijd->ij", unit_vectors(30, seed=1), vectors[positions])
    np.testing.assert_allclose(scores, products, atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_an_index_that_finds_too_little_says_so(tmp_path):
    write(tmp_path / "index", "IVF23,Flat")
    index = read_bundle(tmp_path / "index").approximate
    assert index is not None
    index._index.nprobe = 1
    positions, scores = index.search(unit_vectors(5, seed=1), 200)
    assert (positions == -1).any()
    assert (scores[positions == -1] == -np.inf).all()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("LSH", "type 'LSH' is not allowed; choose exact, ivf, hnsw, pq"),
        ("IVF4,Flat;rm", "is not allowed"),
        ("OnDisk", "is not allowed"),
        ("IVF0,Flat", "a number below 1"),
        ("PQ3x4", "cuts 16 dimensions into 3 equal parts"),
        ("PQ4x13", "has 13 bits a part"),
        ("PCA17,Flat", "keeps 17 dimensions"),
        ("HNSW1", "1 links a vector"),
        ("IVF24,Flat", "needs at least 936 vectors, there are 900"),
        ("PQ4", "needs at least 9,984 vectors"),
    ],
)
def test_a_type_that_is_not_allowed_or_does_not_fit_is_refused_before_anything_is_written(tmp_path, kind, message):
    with pytest.raises(ValueError, match=message.replace("(", "\\(")):
        write(tmp_path / "index", kind)
    assert list(tmp_path.iterdir()) == []


def test_a_single_list_of_few_vectors_is_built_without_a_warning(capfd):
    rows = np.eye(5, dtype=np.float32)
    found, _ = approximate.build("IVF1,Flat", rows).search(rows, 1)
    assert found.ravel().tolist() == [0, 1, 2, 3, 4]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("count", [2, 39, 80, 1000, 60_502, 10**6])
@pytest.mark.parametrize("dimension", [1, 7, 16, 512])
def test_the_short_names_fit_any_gallery_that_is_large_enough_for_them(count, dimension):
    assert approximate.factory_string("ivf", count, dimension).startswith("IVF")
    assert approximate.factory_string("hnsw", count, dimension) == "HNSW32"
    if count >= 2 * 39:
        assert approximate.factory_string("pq", count, dimension).startswith("PQ")


def test_an_index_of_another_kind_size_or_metric_is_refused_with_both(tmp_path):
    import faiss

    folder = tmp_path / "index"
    vectors = write(folder, "IVF4,Flat")
    file = folder / "approximate.faiss"

    def put(index, rows=vectors):
        if rows is not None:
            index.train(rows)
            index.add(rows)
        file.write_bytes(faiss.serialize_index(index).tobytes())
        rewrite(folder)

    put(faiss.IndexLSH(DIMENSION, 8))
    assert "approximate.faiss: index type is b'IxHe', expected one of" in refused(folder)
    put(faiss.index_factory(DIMENSION, "HNSW8", 0))
    assert "is a IndexHNSWFlat IndexFlat, expected IndexIVFFlat 4 lists" in refused(folder)
    put(faiss.index_factory(DIMENSION, "IVF5,Flat", 0))
    assert "5 lists" in refused(folder)
    put(faiss.index_factory(DIMENSION, "IVF4,Flat", 0), vectors[:800])
    assert "holds 800 x 16 values under metric 0, expected 900 x 16 and 0" in refused(folder)
    put(faiss.index_factory(DIMENSION - 1, "IVF4,Flat", 0), np.ascontiguousarray(vectors[:, :-1]))
    assert "holds 900 x 15 values" in refused(folder)
    put(faiss.index_factory(DIMENSION, "IVF4,Flat", 1))
    assert "IndexFlatL2, expected IndexIVFFlat 4 lists" in refused(folder)
    index = faiss.index_factory(DIMENSION, "IVF4,Flat", 0)
    index.metric_type = faiss.METRIC_L1
    put(index)
    assert "holds 900 x 16 values under metric 2, expected 900 x 16 and 0" in refused(folder)
    file.write_bytes(b"IwFl" + bytes(40))
    rewrite(folder)
    assert "cannot be read" in refused(folder) or "is a" in refused(folder)


def test_lists_on_disk_are_refused_and_their_file_is_never_opened(tmp_path):
    import faiss

    folder = tmp_path / "index"
    vectors = write(folder, "IVF4,Flat")
    index = faiss.index_factory(DIMENSION, "IVF4,Flat", 0)
    index.train(vectors)
    lists = faiss.OnDiskInvertedLists(4, index.code_size, str(tmp_path / "lists"))
    index.replace_invlists(lists)
    index.add(vectors)
    (folder / "approximate.faiss").write_bytes(faiss.serialize_index(index).tobytes())
    rewrite(folder)
    assert "keeps its lists in another file, expected them inside" in refused(folder)


def test_a_file_that_declares_more_than_it_holds_is_refused_before_memory_is_taken(tmp_path):
    import faiss

    write(tmp_path / "index", "PQ2x1")
    file = tmp_path / "index" / "approximate.faiss"
    content = bytearray(file.read_bytes())
    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    content[0x25 + 2] = 1  # bytes 0x25 to 0x2c are the dimension: now 65,552
    file.write_bytes(content)
    rewrite(tmp_path / "index")
    assert "would exceed deserialization byte limit" in refused(tmp_path / "index")
    assert (faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()) == before


def test_the_effort_of_a_search_is_not_that_of_the_file(tmp_path):
    import faiss

    vectors = write(tmp_path / "index", "HNSW8", count=50)
    index = faiss.index_factory(DIMENSION, "HNSW8", faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = 2**30
    index.add(vectors)
    (tmp_path / "index" / "approximate.faiss").write_bytes(faiss.serialize_index(index).tobytes())
    rewrite(tmp_path / "index")
    assert read_bundle(tmp_path / "index").approximate._index.hnsw.efSearch == 128


def test_a_manifest_whose_type_does_not_fit_its_files_is_refused(tmp_path):
    write(tmp_path / "index", "exact", count=20)
    rewrite(tmp_path / "index", type="HNSW32")
    with pytest.raises(IndexFormatError, match=r"type is 'HNSW32', but approximate\.faiss is missing"):
        read_bundle(tmp_path / "index")
    write(tmp_path / "other", "HNSW8", count=50)
    rewrite(tmp_path / "other", type="exact")
    with pytest.raises(IndexFormatError, match=r"type is 'exact', but approximate\.faiss exists"):
        read_bundle(tmp_path / "other")
    rewrite(tmp_path / "other", type="LSH")
    assert "LSH" in refused(tmp_path / "other")


def test_bytes_that_reading_refuses_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "_ON_DISK", b"IHNf")
    with pytest.raises(RetrievalError, match="choose another --type"):
        write(tmp_path / "index", "HNSW8", count=50)
    assert list(tmp_path.iterdir()) == []
