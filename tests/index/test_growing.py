"""An index of several blocks: it is mapped, grows by appending, loses items by marks, and is written anew by `compact` only."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from index import bundles
from numpy.testing import assert_array_equal

from retrieval.errors import ConfigError, IndexFormatError, RetrievalError
from retrieval.files import blocks
from retrieval.files.manifest import FolderKind
from retrieval.index import Index, editing, growing
from retrieval.index.bundle import read_bundle

COUNT, DIMENSION = 150, 7


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 512)


def unit_vectors(count, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write(folder, **changes):
    given = {
        "vectors": unit_vectors(COUNT),
        "ids": np.random.default_rng(1).permutation(COUNT) * 2,
        "labels": np.arange(COUNT) % 4,
        "class_names": ["a", "b", "c", "d"],
        "paths": [f"{i}.png" for i in range(COUNT)],
        "model": None,
        "images_root": "/images",
        "split": "test",
        "source": {},
        "pictures": [b"picture %d" % i for i in range(COUNT)],
    }
    bundles.write(folder, **given | changes)
    return read_bundle(folder)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def items_of(bundle):
    return {
        int(id_): (vector.tobytes(), name, path, picture)
        for id_, vector, name, path, picture in zip(
            bundle.ids, bundle.vectors, bundle.class_names, bundle.paths, bundle.thumbnails, strict=True
        )
    }


def add(bundle, seed=1, count=5):
    names = ["b", "new", "a", "new", "d"][:count]
    paths = [f"{seed}/{i}.png" for i in range(count)]
    return editing.add(bundle, unit_vectors(count, seed), names, paths, [b"added"] * count)


def slow_search(bundle, queries, k):
    scores = queries.astype(np.float64) @ bundle.vectors.T.astype(np.float64)
    order = [sorted(range(len(row)), key=lambda i, row=row: (-np.float32(row[i]), bundle.ids[i]))[:k] for row in scores]
    return [[int(bundle.ids[i]) for i in row] for row in order]


def ids_found(bundle, queries, k, **options):
    return [[hit.id for hit in row] for row in Index(bundle).search(queries, k=k, **options)]


def test_files_of_several_blocks_are_mapped_and_come_back_as_they_were_written(tmp_path):
    bundle = write(tmp_path / "index")
    assert bundle.stored.file is not None
    assert_array_equal(bundle.vectors, unit_vectors(COUNT))
    assert isinstance(bundle.manifest["files"]["vectors.npy"]["xxh3_128"], list)
    assert_array_equal(np.load(tmp_path / "index" / "vectors.npy"), unit_vectors(COUNT))
    bundle.check()


def test_added_items_follow_and_no_old_byte_is_rewritten(tmp_path):
    before, files = write(tmp_path / "index"), contents(tmp_path / "index")
    after = add(before)
    assert items_of(after) == items_of(before) | {
        298 + 1 + i: (vector.tobytes(), name, f"1/{i}.png", b"added")
        for i, (vector, name) in enumerate(zip(unit_vectors(5, 1), ["b", "new", "a", "new", "d"], strict=True))
    }
    assert after.labels[COUNT] == before.labels[1]
    assert after.manifest["num_classes"] == 5
    for name in ("vectors.npy", "items.arrows", "thumbnails.arrows"):
        assert contents(tmp_path / "index")[name].startswith(files[name])
    again = add(after, seed=2)
    assert len(again.ids) == COUNT + 10
    assert items_of(read_bundle(tmp_path / "index")) == items_of(again)
    again.check()
    assert items_of(before) == items_of(before)  # which was opened before: it stays as it was
    assert len(before.ids) == COUNT


def test_removed_items_are_marked_and_no_large_file_is_touched(tmp_path):
    before, files = write(tmp_path / "index"), contents(tmp_path / "index")
    after = editing.remove(before, np.array([0, 7, 149]))
    again = editing.remove(after, np.array([0]))
    gone = {int(before.ids[i]) for i in (0, 1, 7, 149)}
    assert items_of(again) == {id_: item for id_, item in items_of(before).items() if id_ not in gone}
    now = contents(tmp_path / "index")
    assert {name for name in files if now[name] != files[name]} == {"manifest.json"}
    assert now.keys() - files.keys() == {"removed-1.bits"}
    assert items_of(add(again)).keys() - items_of(again).keys() == {299, 300, 301, 302, 303}
    read_bundle(tmp_path / "index").check()


@pytest.mark.parametrize("kind", ["exact", "IVF3,Flat", "HNSW8"])
def test_what_was_added_is_found_and_what_was_removed_is_not(tmp_path, kind):
    bundle = editing.remove(add(write(tmp_path / "index", kind=kind)), np.arange(3, 155, 4))
    queries = np.concatenate([unit_vectors(9, 5), unit_vectors(5, 1), bundle.vectors[:3]])
    assert ids_found(bundle, queries, 6, exact=True) == slow_search(bundle, queries, 6)
    found = ids_found(bundle, queries, 6)
    assert {found[9][0], found[11][0]} == {299, 301}
    assert {id_ for row in found for id_ in row} <= {*bundle.ids.tolist()}
    assert ids_found(bundle, queries, 1000, exact=True) == slow_search(bundle, queries, 1000)


def test_faiss_takes_mapped_vectors_also_beside_its_bridge_to_torch(tmp_path):
    importlib.import_module(
        "faiss.contrib.torch_utils"
    )  # pytorch-metric-learning imports it; it replaces methods of faiss
    write(tmp_path / "index", kind="IVF2,Flat")
    index = Index.open(tmp_path / "index")
    index.compact()
    assert index.search(index.vectors[3], k=1)[0].id == index.ids[3]
    assert "recall@1" in index.evaluate(ks=(1,))


@pytest.mark.parametrize("kind", ["exact", "IVF2,Flat"])
def test_compacting_keeps_the_items_and_leaves_no_mark(tmp_path, kind):
    before = editing.remove(add(write(tmp_path / "index", kind=kind)), np.arange(0, 155, 3))
    index = Index.open(tmp_path / "index")
    index.compact()
    after = read_bundle(tmp_path / "index")
    assert items_of(after) == items_of(before)
    assert after.removed is None
    assert after.stored.made == len(after.ids) == len(index)
    assert sorted(contents(tmp_path / "index")) == sorted(after.manifest["files"] | {"manifest.json": None})
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert items_of(before).keys() == items_of(after).keys()
    after.check()


def test_an_index_with_marks_that_is_saved_elsewhere_has_none_there(tmp_path):
    before = editing.remove(add(write(tmp_path / "index", kind="HNSW8")), np.arange(0, 155, 3))
    Index(before).save(tmp_path / "other")
    assert items_of(read_bundle(tmp_path / "other")) == items_of(before)
    assert read_bundle(tmp_path / "other").removed is None


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("change", ["add", "remove"])
def test_a_change_that_is_killed_at_any_step_leaves_the_old_generation_and_can_be_made_again(
    tmp_path, monkeypatch, step, change
):
    before = editing.remove(write(tmp_path / "index"), np.array([1, 2]))
    old = items_of(before)
    steps = []

    def killed_at(function):
        def call(*arguments, **options):
            steps.append(function)
            if len(steps) == step + 1:
                raise Killed
            return function(*arguments, **options)

        return call

    def make(bundle):
        return add(bundle) if change == "add" else editing.remove(bundle, np.array([5]))

    with monkeypatch.context() as patched:
        patched.setattr(FolderKind, "append", killed_at(FolderKind.append))
        patched.setattr(growing, "write_bytes", killed_at(growing.write_bytes))
        patched.setattr(growing, "read_bundle", killed_at(growing.read_bundle))
        try:
            make(before)
        except Killed:
            pass
        else:
            assert len(steps) <= step
    now = read_bundle(tmp_path / "index")
    is_done = steps[-1] is growing.read_bundle  # the manifest has been replaced
    assert (items_of(now) == old) != is_done
    now.check()
    assert items_of(before) == old
    if not is_done:
        assert items_of(make(now)) != old
    bundles.write(tmp_path / "index", overwrite=True, **_small())  # nothing is left that is no part of an index


def _small():
    return {
        "vectors": unit_vectors(2),
        "ids": np.arange(2),
        "labels": np.arange(2),
        "class_names": ["a", "b"],
        "paths": ["a.png", "b.png"],
        "model": None,
        "images_root": "/",
        "split": "test",
        "source": {},
    }


def test_the_end_of_a_killed_addition_is_replaced_by_the_next_one(tmp_path):
    before = write(tmp_path / "index")
    for name in ("vectors.npy", "items.arrows", "thumbnails.arrows"):
        with (tmp_path / "index" / name).open("ab") as file:
            file.write(bytes(1000))
    assert items_of(read_bundle(tmp_path / "index")) == items_of(before)
    after = add(read_bundle(tmp_path / "index"))
    assert len(items_of(after)) == COUNT + 5
    after.check()


def test_a_file_of_blocks_that_is_too_short_is_refused_when_it_is_opened(tmp_path):
    write(tmp_path / "index")
    file = tmp_path / "index" / "vectors.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(IndexFormatError, match=rf"vectors\.npy: size is {len(content) - 1}, expected {len(content)}"):
        read_bundle(tmp_path / "index")


@pytest.mark.parametrize("use", ["search", "vectors", "check", "rows", "recall", "add", "compact"])
def test_an_altered_block_is_noticed_by_whatever_uses_it(tmp_path, use):
    write(tmp_path / "index")
    file = tmp_path / "index" / "vectors.npy"
    content = bytearray(file.read_bytes())
    content[-700] ^= 1
    file.write_bytes(content)
    bundle = read_bundle(tmp_path / "index")
    uses = {
        "search": lambda: ids_found(bundle, unit_vectors(1), 3),
        "vectors": lambda: bundle.vectors,
        "check": bundle.check,
        "rows": lambda: bundle.stored.rows(np.array([0, COUNT - 24])),
        "recall": lambda: Index(bundle).evaluate(ks=(1,)),
        "add": lambda: add(bundle),
        "compact": lambda: editing.compact(bundle),
    }
    with pytest.raises(
        IndexFormatError, match=r"vectors\.npy: xxh3_128 of block \d+ is \w+, expected \w+ by manifest\.json"
    ):
        uses[use]()
    assert_array_equal(bundle.stored.rows(np.array([0])), unit_vectors(COUNT)[:1])  # another block


def test_a_file_that_changes_after_it_was_checked_is_checked_again(tmp_path):
    bundle = write(tmp_path / "index")
    assert ids_found(bundle, unit_vectors(3), 1) == slow_search(bundle, unit_vectors(3), 1)
    file = tmp_path / "index" / "vectors.npy"
    with file.open("r+b") as opened:
        opened.seek(-700, 2)
        opened.write(b"altered")
    with pytest.raises(IndexFormatError, match="xxh3_128 of block"):
        ids_found(bundle, unit_vectors(1), 3)
    with file.open("r+b") as opened:
        opened.truncate(600)
    with pytest.raises(IndexFormatError, match="size is 600"):
        ids_found(bundle, unit_vectors(1), 3)


@pytest.mark.parametrize("name", ["items.arrows", "thumbnails.arrows"])
def test_a_table_that_changes_after_it_was_read_is_checked_again(tmp_path, name):
    bundle = write(tmp_path / "index")
    assert len(items_of(bundle)) == COUNT
    ids_found(bundle, unit_vectors(1), 3)
    with (tmp_path / "index" / name).open("r+b") as opened:
        opened.seek(-700, 2)
        opened.write(b"altered")
    with pytest.raises(IndexFormatError, match=f"{name}: xxh3_128 of block"):
        _ = [bundle.picture(0), ids_found(bundle, unit_vectors(1), 3)]


@pytest.mark.parametrize("use", ["search", "paths", "picture", "verify"])
def test_a_forged_path_of_a_large_table_is_refused_when_it_is_used(tmp_path, monkeypatch, use):
    paths = [f"{i}.png" for i in range(COUNT)]
    paths[77] = "../../secret.png"
    with monkeypatch.context() as forging:
        forging.setattr("retrieval.index.items.check_names", lambda where, names, paths: None)
        write(tmp_path / "index", paths=paths, pictures=None)
    bundle = read_bundle(tmp_path / "index")
    uses = {
        "search": lambda: ids_found(bundle, unit_vectors(COUNT)[77:78], 1),
        "paths": lambda: bundle.paths,
        "picture": lambda: bundle.picture(77),
        "verify": bundle.check,
    }
    with pytest.raises(IndexFormatError, match=r"items\.arrows: path '\.\./\.\./secret\.png' is neither"):
        uses[use]()
    assert ids_found(bundle, unit_vectors(COUNT)[3:4], 1) == [[int(bundle.ids[3])]]


def test_a_forged_class_of_a_large_table_is_refused_when_it_is_used(tmp_path, monkeypatch):
    with monkeypatch.context() as forging:
        forging.setattr("retrieval.index.items.check_names", lambda where, names, paths: None)
        write(tmp_path / "index", class_names=["a", "b", "c\x1b[31m", "d"])
    bundle = read_bundle(tmp_path / "index")
    for use in (
        lambda: ids_found(bundle, unit_vectors(COUNT)[2:3], 1),
        lambda: bundle.class_names,
        lambda: bundle.items.rows_of_classes(["a"]),
        bundle.check,
    ):
        with pytest.raises(IndexFormatError, match="holds a control character"):
            use()


def test_a_bundle_that_another_process_has_changed_is_left_alone(tmp_path):
    stale = write(tmp_path / "index")
    now = editing.remove(read_bundle(tmp_path / "index"), np.array([0]))
    for change in (lambda: add(stale), lambda: editing.remove(stale, np.array([1])), lambda: editing.compact(stale)):
        with pytest.raises(RetrievalError, match="has been changed by another program in the meantime"):
            change()
    assert items_of(read_bundle(tmp_path / "index")) == items_of(now)


@pytest.mark.parametrize("block", [512, 2**23])
def test_a_bundle_of_version_2_opens_and_is_converted(tmp_path, monkeypatch, block):
    monkeypatch.setattr(blocks, "BLOCK", block)
    before = write(tmp_path / "index")
    bundles.downgrade(tmp_path / "index")
    old = read_bundle(tmp_path / "index")
    assert old.manifest["version"] == 2
    assert items_of(old) == items_of(before)
    Index.open(tmp_path / "index").compact()
    after = read_bundle(tmp_path / "index")
    assert after.manifest["version"] == 3
    assert items_of(after) == items_of(before)
    assert sorted(contents(tmp_path / "index")) == sorted(after.manifest["files"] | {"manifest.json": None})


def test_vectors_of_any_length_are_made_units_block_by_block(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((COUNT, DIMENSION))
    for kind in (np.float64, np.float32, np.float16):
        np.save(tmp_path / "vectors.npy", vectors.astype(kind))
        np.save(tmp_path / "labels.npy", np.arange(COUNT) % 3)
        made = Index.from_files(tmp_path / "vectors.npy", tmp_path / "labels.npy", tmp_path / "index", overwrite=True)
        plain = Index.from_files(tmp_path / "vectors.npy", tmp_path / "labels.npy")
        for index in (made, Index.open(tmp_path / "index")):
            assert_array_equal(index.vectors, plain.vectors)
            assert index.classes == plain.classes
            assert index.paths == plain.paths
    vectors[100] = 0
    np.save(tmp_path / "vectors.npy", vectors)
    with pytest.raises(RetrievalError, match=r"row 100 is zero"):
        Index.from_files(tmp_path / "vectors.npy", tmp_path / "labels.npy", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "labels.npy", "vectors.npy"]


def test_figures_of_an_index_with_marks_are_those_of_the_items_that_are_left(tmp_path):
    bundle = editing.remove(add(write(tmp_path / "index")), np.arange(3, 155, 4))
    plain = Index.from_vectors(bundle.vectors, bundle.class_names, ids=bundle.ids.tolist())
    marked, other = Index(bundle), Index.from_vectors(unit_vectors(9, 3), list("abcdabcda"))
    metrics = ("recall", "precision", "map@r", "r_precision", "mrr")
    for options in ({}, {"queries": other}, {"sample": 20}, {"macro": True, "interval_seed": 1}):
        assert marked.evaluate(ks=(1, 5), metrics=metrics, **options) == plain.evaluate(
            ks=(1, 5), metrics=metrics, **options
        )
    assert marked.evaluate_classes() == plain.evaluate_classes()
    assert marked.evaluate_rankings(qe=3, rerank=4) == plain.evaluate_rankings(qe=3, rerank=4)


def test_the_figures_of_a_sample_are_those_of_its_queries(tmp_path):
    index = Index(write(tmp_path / "index"))
    chosen = np.random.default_rng(5).choice(COUNT, 40, replace=False)
    scores = index.vectors.astype(np.float64) @ index.vectors.T
    np.fill_diagonal(scores, -np.inf)
    hits = [index.labels[scores[i].argmax()] == index.labels[i] for i in chosen]
    figures = index.evaluate(ks=(1,), sample=40, seed=5)
    assert figures["recall@1"] == pytest.approx(np.mean(hits))
    assert figures["queries"] == 40


@pytest.fixture
def large(tmp_path, monkeypatch) -> Index:
    """An index of vectors that are read in two tiles of 8 MiB, of which one has 128 rows, of two classes side by side."""
    monkeypatch.setattr(blocks, "BLOCK", 2**18)
    vectors = np.random.default_rng(0).normal(size=(160, 2**14)).astype(np.float32)
    Index.from_vectors(vectors, ["a"] * 140 + ["b"] * 20, out=tmp_path / "large")
    return Index.open(tmp_path / "large")


@pytest.mark.parametrize("removed", [slice(0, 160, 4), slice(0, 128), slice(0, 140)], ids=["quarter", "tile", "class"])
def test_compacting_works_whatever_is_left(tmp_path, large, removed):
    left = np.delete(np.arange(160), removed)
    expected = large.vectors_at(left)
    large.remove(ids=np.arange(160)[removed].tolist())
    large.compact()
    opened = Index.open(tmp_path / "large")
    opened.verify()
    assert_array_equal(opened.ids, left)
    assert_array_equal(opened.vectors, expected)
    assert_array_equal(opened.vectors_at([0, len(left) - 1]), expected[[0, -1]])


def test_vectors_at_positions_are_those_of_items_that_are_left(tmp_path, large):
    before = np.array(large.vectors)
    large.remove(ids=[0, 3])
    assert_array_equal(Index.open(tmp_path / "large").vectors_at([0, 1, 2]), before[[1, 2, 4]])


def test_ids_that_leave_no_room_for_later_items_are_refused():
    with pytest.raises(ConfigError, match=r"9223372036854775807 is too large, expected numbers below 2\*\*62"):
        Index.from_vectors(np.eye(3), ["a", "a", "b"], ids=[0, 1, 2**63 - 1])


def test_a_full_disk_leaves_the_index_as_it_was_and_the_addition_can_be_made_again(tmp_path, large, monkeypatch):
    more = Index.from_vectors(np.eye(64, 2**14, dtype=np.float32), ["c"] * 64)
    bundle = read_bundle(tmp_path / "large")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(FolderKind, "append", full)
        with pytest.raises(RetrievalError, match="No space left on device"):
            editing.add(bundle, vectors=more.vectors, class_names=["c"] * 64, paths=[f"c/{i}.png" for i in range(64)])
    assert len(Index.open(tmp_path / "large")) == len(large)
    Index.open(tmp_path / "large").verify()
