from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index import bundles
from index.bundles import rewrite
from numpy.testing import assert_array_equal

from retrieval.errors import IndexFormatError, RetrievalError
from retrieval.evaluation import search
from retrieval.files.manifest import FolderKind
from retrieval.index.bundle import Bundle, read_bundle
from retrieval.model.description import StoredModel

FILES = ("vectors.npy", "items.arrows", "model.json", "model.safetensors", "manifest.json")
PATHS = [
    'a,b/"quoted".png',
    "wörter/日本語 😀.png",
    "a\u2028b/ padded .png",
    "it's;a\\b.jpg",
    "e/f/g.png",
    "h.png",
    "ε.png",
]
NAMES = ["Black-footed, Albatross", 'the "other"', "größer 鳥", " blank "]


def gallery(seed=0, count=7, dimension=6):
    vectors = np.random.default_rng(seed).standard_normal((count, dimension))
    return {
        "vectors": (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
        "ids": np.random.default_rng(seed).permutation(100)[:count],
        "labels": np.arange(count) % 4,
        "class_names": NAMES,
        "paths": PATHS[:count],
        "model": StoredModel(
            {"backbone": "resnet18", "embedding_dim": dimension, "preprocessing": {"mean": [0.5, 0.5, 0.5]}},
            bytes(range(256)) + bytes([seed]),
        ),
        "images_root": "somewhere/images",
        "split": "test",
        "source": {"dataset": "glyphs", "step": 12, "seed": seed},
    }


def assert_same(bundle: Bundle, given):
    assert_array_equal(bundle.vectors, given["vectors"])
    assert_array_equal(bundle.ids, given["ids"])
    assert_array_equal(bundle.labels, given["labels"])
    assert bundle.vectors.dtype == np.float32
    assert bundle.ids.dtype == bundle.labels.dtype == np.int64
    assert bundle.class_names == tuple(given["class_names"][label] for label in given["labels"])
    assert bundle.paths == tuple(given["paths"])
    assert (bundle.model is None) == (given["model"] is None)
    if bundle.model is not None:
        assert bundle.model.description == given["model"].description
        assert bundle.model.weights == given["model"].weights
        assert not bundle.model.is_onnx
    for key in ("images_root", "split", "source"):
        assert bundle.manifest[key] == given[key]


@pytest.fixture
def folder(tmp_path) -> Path:
    bundles.write(tmp_path / "index", **gallery())
    return tmp_path / "index"


def refused(folder) -> str:
    """The one line with which a bundle is refused."""
    with pytest.raises(IndexFormatError) as caught:
        read_bundle(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert "retrieval index" in message
    return message


def read_or_refused(folder) -> Bundle | str:
    try:
        return read_bundle(folder)
    except IndexFormatError as error:
        return str(error)


def test_a_bundle_comes_back_as_it_was_written(folder):
    bundle = read_bundle(folder)
    assert_same(bundle, gallery())
    assert bundle.class_names[1] == 'the "other"'
    assert bundle.paths[1] == "wörter/日本語 😀.png"
    assert bundle.folder == folder
    assert bundle.text == (folder / "manifest.json").read_bytes()
    assert bundle.is_current()
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == "retrieval index"
    assert manifest["metric"] == "inner_product"
    assert manifest["normalised"] is True
    assert (manifest["count"], manifest["dimension"], manifest["num_classes"]) == (7, 6, 4)
    assert manifest["versions"].keys() >= {"retrieval", "numpy", "torch", "timm"}
    assert manifest["created"].endswith("+00:00")


def test_a_bundle_without_a_model_comes_back_without_one(tmp_path):
    given = gallery() | {"model": None}
    bundles.write(tmp_path / "index", **given)
    bundle = read_bundle(tmp_path / "index")
    assert_same(bundle, given)
    assert bundle.model_hash is None
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "items.arrows",
        "manifest.json",
        "vectors.npy",
    ]


def test_a_moved_bundle_works(folder, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    moved = shutil.move(folder, tmp_path / "deep" / "er" / "moved")
    bundle = read_bundle(str(moved))
    assert_same(bundle, gallery())
    found = search(bundle.vectors[[2]], bundle.vectors, 1, gallery_ids=bundle.ids)
    assert found.ids[0, 0] == bundle.ids[2]


def test_files_beside_those_of_the_bundle_do_not_matter_to_reading(folder):
    (folder / "found.png").write_bytes(b"x")
    assert_same(read_bundle(folder), gallery())


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    assert "does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "has no manifest.json" in refused(tmp_path / "empty")


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"format": "web"}', "\ufeff{}", "[" * 100_000, '{"a": NaN}'])
def test_a_manifest_of_another_kind_is_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    assert "manifest.json: " in refused(folder)


def test_a_bundle_of_another_version_is_refused_with_both_versions(folder):
    path = folder / "manifest.json"
    for version in (1, 4):
        path.write_text(re.sub('"version": [0-9]+', f'"version": {version}', path.read_text()))
        assert f"version is {version}, expected 2 or 3" in refused(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert name in refused(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file_is_named(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    assert f"{name}: cannot be read" in refused(folder)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("put", "kind"), [(os.mkfifo, "a pipe"), (lambda path: path.symlink_to("/dev/zero"), "a device")]
)
def test_a_pipe_or_device_in_the_place_of_a_file_is_refused_at_once(folder, name, put, kind):
    (folder / name).unlink()
    put(folder / name)
    assert f"{name}: cannot be read (it is {kind})" in refused(folder)


def test_a_file_that_is_larger_than_memory_is_refused_by_its_size(folder):
    with (folder / "vectors.npy").open("wb") as file:
        file.truncate(2**43)  # a hole: takes no space
    assert f"vectors.npy: size is {2**43}, expected" in refused(folder)
    with (folder / "manifest.json").open("wb") as file:
        file.truncate(2**43)
    assert "manifest.json: cannot be read (it is larger than 16,777,216 bytes)" in refused(folder)


@pytest.mark.parametrize(
    ("key", "text"), [("images_root", "a\0b"), ("images_root", "\ud800"), ("split", "\ud800\udcff")]
)
def test_texts_of_the_manifest_that_no_path_holds_are_refused(folder, tmp_path, key, text):
    with pytest.raises(IndexFormatError, match=f"{key} is .* with the character"):
        bundles.write(tmp_path / "other", **(gallery() | {key: text}))
    bundles.rewrite(folder, **{key: text[:1] + "\0"})
    assert f"manifest.json: {key} is" in refused(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(folder, name):
    path = folder / name
    content = path.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:length])
        assert name in refused(folder)


@pytest.mark.parametrize("name", [*FILES[:-1]])
def test_a_longer_file_is_named_with_both_sizes(folder, name):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    assert f"{name}: size is {len(content) + 1}, expected {len(content)} by manifest.json" in refused(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(folder, name):
    path = folder / name
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        position, bit = rng.integers(len(content)), rng.integers(8)
        flipped = bytearray(content)
        flipped[position] ^= 1 << bit
        path.write_bytes(flipped)
        found = read_or_refused(folder)
        if isinstance(found, str):
            assert name in found
            assert "\n" not in found
        else:
            # Only in the manifest, whose layout (a blank for a tab) means nothing.
            assert name == "manifest.json"
            assert json.loads(bytes(flipped)) == json.loads(content)
            assert_same(found, gallery())


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_bundle_is_refused(folder, tmp_path, name):
    bundles.write(
        tmp_path / "other",
        **(gallery(1) | {"labels": np.arange(7)[::-1] % 4, "model": StoredModel({"another": 1}, b"others")}),
    )
    shutil.copy(tmp_path / "other" / name, folder / name)
    assert str(folder) in refused(folder)


@pytest.mark.parametrize(("name", "reader"), [("vectors.npy", "open_vectors"), ("items.arrows", "read_items")])
def test_no_file_is_parsed_before_all_are_those_of_the_manifest(folder, monkeypatch, name, reader):
    parsed = []
    monkeypatch.setattr(f"retrieval.index.bundle.{reader}", lambda *words: parsed.append(words))
    file = folder / name
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert f"{name}: sha256 is" in refused(folder)
    assert parsed == []


def test_a_bundle_that_was_read_does_not_change_with_its_files(folder):
    bundle = read_bundle(folder)
    for name in FILES[:-1]:
        (folder / name).write_bytes(bytes(257))
    (folder / "model.safetensors").unlink()
    assert_same(bundle, gallery())


@pytest.mark.parametrize("number", range(4))
def test_a_bundle_that_is_replaced_while_it_is_read_is_read_again_as_one_generation(folder, monkeypatch, number):
    read_file, calls = FolderKind._read_file, []

    def meanwhile(*arguments):
        calls.append(arguments)
        if len(calls) == number + 1:
            bundles.write(folder, **gallery(1), overwrite=True)
        return read_file(*arguments)

    monkeypatch.setattr(FolderKind, "_read_file", meanwhile)
    bundle = read_bundle(folder)
    # The weights of the two differ, so that files of both never make a bundle.
    assert_same(bundle, gallery(1))
    assert bundle.is_current()
    assert len(calls) > 4


# From here on, the manifest fits the files: the folder is not damaged, but written by another program.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 8}, "items.arrows: 7 items, expected 8"),
        ({"count": "7"}, "manifest.json: count is '7', expected a value of type int"),
        ({"count": True}, "manifest.json: count is True"),
        ({"dimension": 3}, "vectors.npy: holds <f4 (7, 6) by rows, expected <f4 (7, 3)"),
        ({"num_classes": 3}, "items.arrows: 4 different labels, expected 3"),
        ({"metric": "l2"}, "manifest.json: metric is 'l2', expected 'inner_product'"),
        ({"normalised": False}, "manifest.json: normalised is False, expected True"),
        ({"images_root": None}, "manifest.json: images_root is None"),
        ({"source": []}, "manifest.json: source is []"),
    ],
)
def test_a_manifest_that_does_not_fit_its_files_is_refused(folder, changes, message):
    rewrite(folder, **changes)
    assert message in refused(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"../x": {"size": 1, "sha256": ""}}, "lists '../x'"),
        ({"/etc/passwd": {"size": 1, "sha256": ""}}, "lists '/etc/passwd'"),
        ({"vectors.npy": "abc"}, "lists 'vectors.npy' as 'abc'"),
        ({"vectors.npy": {"size": 1}}, "lists 'vectors.npy' as {'size': 1}"),
        ({}, "lists no files, expected vectors.npy and items.arrows"),
        (["vectors.npy"], "lists vectors.npy, expected vectors.npy and items.arrows"),
        (
            FILES[:3],
            "lists vectors.npy, items.arrows, model.json, expected .* model.json with its weights or neither",
        ),
    ],
)
def test_a_manifest_that_lists_the_wrong_files_is_refused(folder, monkeypatch, files, message):
    def without_checksum(folder, facts):
        text = json.dumps({"format": "retrieval index", "version": 3, **facts})
        (folder / "manifest.json").write_text(text)

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = files if isinstance(files, dict) else {name: manifest["files"][name] for name in files}
    monkeypatch.setattr("retrieval.files.manifest._checksum", lambda manifest: "any")
    without_checksum(folder, manifest | {"checksum": "any"})
    with pytest.raises(IndexFormatError, match=message):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("", "items.csv: "),
        ("id,label,path\n1,2,3\n", "expected rows of the columns id,label,class,path"),
        ("id,label,class,path\n", "0 items, expected 7"),
        ("id,label,class,path\n" + "".join(f"{i},{i % 4},c,p\n" for i in range(6)), "6 items, expected 7"),
        ("id,label,class,path\n" + "1,1,c,p\n" * 7, "id: 1 occurs twice"),
        ("id,label,class,path\n" + "one,1,c,p\n" * 7, "invalid literal for int() with base 10: 'one'"),
        ("id,label,class,path\n" + "".join(f"{2**70 + i},1,c,p\n" for i in range(7)), "expected whole numbers (int64)"),
        ("id,label,class,path\n" + "".join(f"{i - 1},1,c,p\n" for i in range(7)), "-1 is negative"),
        ("id,label,class,path\n" + "".join(f"{i},{i % 4},c,p,q\n" for i in range(7)), "expected rows of the columns"),
        ("id,label,class,path\n" + "".join(f"{i},{i % 4},c,../p\n" for i in range(7)), "nor stays below"),
        ("id,label,class,path\n" + "".join(f"{i},{i % 4},c,/../p\n" for i in range(7)), "nor stays below"),
        ("id,label,class,path\n" + "".join(f"{i},{i % 4},c,C:\\p\n" for i in range(7)), "nor stays below"),
        ("id,label,class,path\n" + "".join(f"{i},{i % 4},c,\n" for i in range(7)), "nor stays below"),
        ("id,label,class,path\n" + "".join(f'{i},{i % 4},"c\n",p\n' for i in range(7)), "holds a control character"),
        ('id,label,class,path\n0,0,"c,p\n', "unexpected end of data"),
        (b"\xff\xfe", "'utf-8' codec can't decode"),
    ],
)
def test_a_table_of_items_of_version_2_that_does_not_fit_is_refused(folder, items, message):
    bundles.downgrade(folder, items if isinstance(items, bytes) else items.encode())
    line = refused(folder)
    assert message in line
    assert "items.csv" in line


def array_file(**changes) -> bytes:
    """vectors.npy as another program could write it: by other vectors, or with another header."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (7, 6)}
    vectors = changes.pop("vectors", gallery()["vectors"])
    content = io.BytesIO()
    content.write(np.lib.format.magic(*changes.pop("version", (1, 0))))
    text = changes.pop("header", repr({**header, **changes})[:-1] + ", }\n").encode()
    return content.getvalue() + struct.pack("<H", len(text)) + text + vectors.tobytes()


def with_value(value) -> np.ndarray:
    vectors = gallery()["vectors"].copy()
    vectors[3, 1] = value
    return vectors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": 2 * gallery()["vectors"]}, "row 0 has length 2 (7 of 7 rows are at fault)"),
        ({"vectors": with_value(np.nan)}, "row 3 has length nan"),
        ({"vectors": with_value(np.inf)}, "row 3 has length inf"),
        ({"vectors": gallery()["vectors"][:6]}, "holds 144 bytes of numbers, expected 168"),
        ({"descr": "<f8"}, "holds <f8 (7, 6) by rows, expected <f4 (7, 6)"),
        ({"descr": ">f4"}, "holds >f4 (7, 6) by rows"),
        ({"descr": "|O"}, "holds |O (7, 6) by rows"),
        ({"fortran_order": True}, "holds <f4 (7, 6) by columns"),
        ({"shape": (6, 7)}, "holds <f4 (6, 7) by rows, expected <f4 (7, 6) by rows"),
        ({"shape": (10**12, 6)}, "holds <f4 (1000000000000, 6)"),
        ({"version": (2, 0)}, "does not begin as an npy file of version 1.0"),
        ({"header": "__import__('os').abort()\n"}, "vectors.npy: "),
        ({"header": "(" * 3000}, "vectors.npy: "),
        ({"header": "\0"}, "vectors.npy: "),
    ],
)
def test_only_an_array_of_unit_vectors_of_the_promised_shape_is_read(folder, changes, message):
    (folder / "vectors.npy").write_bytes(array_file(**changes))
    rewrite(folder)
    line = refused(folder)
    assert "vectors.npy: " in line
    assert message in line


def test_the_array_file_is_what_numpy_writes(folder):
    assert_array_equal(np.load(folder / "vectors.npy"), gallery()["vectors"])
    (folder / "vectors.npy").write_bytes(array_file())
    rewrite(folder)
    assert_same(read_bundle(folder), gallery())


def test_an_array_file_with_any_changed_byte_of_its_header_is_read_alike_or_refused(folder):
    path = folder / "vectors.npy"
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in range(len(content) - 7 * 6 * 4):
        changed = bytearray(content)
        changed[position] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        rewrite(folder)
        found = read_or_refused(folder)
        if isinstance(found, str):
            assert "vectors.npy: " in found
        else:
            assert_array_equal(found.vectors, gallery()["vectors"])


@pytest.mark.parametrize("text", ["", "[]", "{", "3", "\udcff"])
def test_a_model_that_is_no_json_object_is_refused(folder, text):
    (folder / "model.json").write_bytes(text.encode(errors="surrogateescape"))
    rewrite(folder)
    assert "model.json: " in refused(folder)


# Writing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": gallery()["vectors"].astype(np.float64)}, "vectors: float64"),
        ({"vectors": 2 * gallery()["vectors"]}, "vectors: row 0 has length 2"),
        ({"ids": np.zeros(7, dtype=np.int64)}, "ids: 0 occurs twice"),
        ({"ids": np.arange(6)}, r"ids: int64 \(6,\)"),
        ({"labels": np.arange(7)}, "a class name for every label"),
        ({"labels": np.arange(7) - 4}, "a class name for every label"),
        ({"labels": np.arange(7.0)}, "labels: float64"),
        ({"paths": PATHS[:6]}, "7 vectors, 6 paths, 4 class names"),
        ({"model": StoredModel({"a": float("nan")}, b"")}, "not JSON compliant"),
        ({"source": {"a": float("nan")}}, "not JSON compliant"),
        (
            {"vectors": np.zeros((0, 6), dtype=np.float32), "ids": np.arange(0), "labels": np.arange(0), "paths": []},
            "expected at least one vector",
        ),
    ],
)
def test_wrong_arguments_are_named_and_leave_nothing_behind(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        bundles.write(tmp_path / "index", **gallery() | changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a\nb.png", "a\rb.png", "a\0b.png", "a\x85b.png", "a\tb.png", "a\udcffb.png"])
def test_names_that_a_table_cannot_hold_are_refused(tmp_path, name):
    for changes in ({"paths": [*PATHS[:6], name]}, {"class_names": [*NAMES[:3], name]}):
        with pytest.raises(IndexFormatError, match="holds a control character or bytes that are not UTF-8; rename it"):
            bundles.write(tmp_path / "index", **gallery() | changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path",
    ["/", "//server/a.png", "/a/../b.png", "../a.png", "a/../../b.png", "a\\..\\b.png", "C:a.png", "\\\\a\\b\\c", ""],
)
def test_paths_that_leave_the_root_are_refused(tmp_path, path):
    with pytest.raises(IndexFormatError, match="is neither absolute nor stays below the root of the images"):
        bundles.write(tmp_path / "index", **gallery() | {"paths": [*PATHS[:6], path]})


@pytest.mark.parametrize("path", ["/photos/a.png", "C:/photos/a.png"])
def test_the_absolute_path_of_an_image_from_elsewhere_comes_back(tmp_path, path):
    bundles.write(tmp_path / "index", **gallery() | {"paths": [*PATHS[:6], path]})
    assert read_bundle(tmp_path / "index").paths[6] == path


def test_a_bundle_holds_the_threshold_of_its_scores_and_an_earlier_one_without_it_still_opens(folder):
    found = read_bundle(folder).calibration
    assert found is not None
    assert json.loads((folder / "manifest.json").read_text())["calibration"] == found.to_dict()
    bundles.rewrite(folder)  # without it, as an earlier version did
    bundle = read_bundle(folder)
    assert bundle.calibration is None
    assert "calibration" not in bundle.manifest


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": None},
        {"threshold": "0.5"},
        {"right_accept_rate": "all"},
        {"queries": "many"},
        {"calibrated_on": "\x1b[2J"},
        {"ids": [1]},
        {"ids": ["a", "b"]},
        {"more": 1},
        None,
        7,
    ],
)
def test_a_threshold_that_is_none_is_refused(folder, change):
    calibration = read_bundle(folder).calibration
    assert calibration is not None
    wrong = calibration.to_dict() | change if isinstance(change, dict) else change
    bundles.rewrite(folder, calibration=wrong)
    with pytest.raises(IndexFormatError, match=r"manifest\.json: calibration is .*, expected a threshold"):
        read_bundle(folder)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1), min_size=2, max_size=2))
def test_any_name_without_control_characters_comes_back(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names") / "index"
    paths = [f"x/{name.replace('..', '')}" for name in names]
    given = gallery(count=2) | {
        "class_names": names,
        "paths": paths,
        "images_root": names[0],
        "source": {names[0]: names},
    }
    bundles.write(folder, **given)
    assert_same(read_bundle(folder), given)


def test_a_root_that_is_not_utf8_is_kept(tmp_path):
    given = gallery() | {"images_root": "caf\udce9"}
    bundles.write(tmp_path / "index", **given)
    assert_same(read_bundle(tmp_path / "index"), given)


def test_a_bundle_is_replaced_only_on_request(folder):
    with pytest.raises(RetrievalError, match="exists already"):
        bundles.write(folder, **gallery(1))
    assert_same(read_bundle(folder), gallery())
    bundles.write(folder, **gallery(1), overwrite=True)
    assert_same(read_bundle(folder), gallery(1))
    assert [path.name for path in folder.parent.iterdir()] == ["index"]


def test_a_damaged_bundle_can_be_replaced(folder):
    (folder / "manifest.json").unlink()
    bundles.write(folder, **gallery(1), overwrite=True)
    assert_same(read_bundle(folder), gallery(1))


def test_a_bundle_of_version_1_can_be_replaced(folder):
    (folder / "vectors.npy").rename(folder / "vectors.faiss")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": 1}))
    with pytest.raises(IndexFormatError, match="version is 1, expected 2 or 3; build the index again"):
        read_bundle(folder)
    bundles.write(folder, **gallery(1), overwrite=True)
    assert_same(read_bundle(folder), gallery(1))


def test_vectors_alone_are_no_bundle_and_stay(tmp_path):
    np.save(tmp_path / "vectors.npy", np.eye(3))
    with pytest.raises(RetrievalError, match=r"holds 'vectors.npy', which is no part of an index"):
        bundles.write(tmp_path, **gallery(), overwrite=True)
    assert np.load(tmp_path / "vectors.npy").shape == (3, 3)


def test_overwriting_never_deletes_what_is_no_part_of_a_bundle(folder, tmp_path):
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(RetrievalError, match=r"holds 'thesis.tex', which is no part of an index"):
        bundles.write(folder, **gallery(1), overwrite=True)
    assert_same(read_bundle(folder), gallery())
    (tmp_path / "file").write_text("years of work")
    with pytest.raises(RetrievalError, match="is a file"):
        bundles.write(tmp_path / "file", **gallery(1), overwrite=True)
    assert (tmp_path / "file").read_text() == "years of work"


@pytest.mark.parametrize("name", FILES)
def test_a_full_disk_leaves_the_old_bundle_and_nothing_else(folder, monkeypatch, name):
    write, write_text = Path.write_bytes, Path.write_text

    def full(path, *arguments, **options):
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return (write_text if path.suffix == ".json" and isinstance(arguments[0], str) else write)(
            path, *arguments, **options
        )

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RetrievalError, match=r"cannot be written \(.*No space left on device\)"):
        bundles.write(folder, **gallery(1), overwrite=True)
    monkeypatch.undo()
    assert_same(read_bundle(folder), gallery())
    assert [path.name for path in folder.parent.iterdir()] == ["index"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": {"checkpoint": "best", "step": []}}, r"source.step is \[\], expected a value of type int"),
        ({"source": {"checkpoint": 3, "step": 3}}, "source.checkpoint is 3, expected a value of type str"),
        ({"source": {"checkpoint": "best"}}, "expected the step of its checkpoint, too"),
        ({"source": {"vectors": None}}, "source.vectors is None, expected a value of type str"),
        ({"approximate": {"recall@1": "x"}}, "approximate.recall@1 is 'x', expected a number"),
        ({"approximate": {"queries": None}}, "approximate.queries is None, expected a number"),
    ],
)
def test_values_inside_a_manifest_are_checked_when_it_is_read(folder, changes, message):
    rewrite(folder, **changes)
    assert re.search(f"manifest.json: .*{message}", refused(folder))
