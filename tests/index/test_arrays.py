"""Vectors and labels of other programs are read from the usual kinds of files."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from small_run import call

import retrieval
from retrieval.errors import DatasetError

LABELS = [3, 3, 1, 1, 2, 2]


def write_labels(file: Path) -> Path:
    if file.suffix == ".npy":
        np.save(file, np.array(LABELS))
    elif file.suffix == ".json":
        file.write_text(json.dumps(LABELS))
    elif file.suffix == ".txt":
        file.write_text("".join(f"{label}\n" for label in LABELS))
    else:
        file.write_text("label\n" + "".join(f"{label}\n" for label in LABELS))
    return file


@pytest.fixture
def vectors(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 8))
    np.save(tmp_path / "vectors.npy", (centres[LABELS] + rng.normal(size=(6, 8))).astype(np.float16))
    return tmp_path / "vectors.npy"


@pytest.mark.parametrize("suffix", [".npy", ".json", ".txt", ".csv"])
def test_labels_of_every_kind_of_file_give_the_figures_of_the_arrays(vectors, suffix, capsys):
    labels = write_labels(vectors.with_name(f"labels{suffix}"))
    expected = retrieval.evaluate(np.load(vectors), LABELS, ks=(1, 2))
    assert retrieval.Index.from_files(vectors, labels).evaluate((1, 2)) == expected
    code, out, err = call(capsys, "recall", str(vectors), "--labels", str(labels), "--k", "1,2", "--json")
    assert (code, json.loads(out)) == (0, expected), err


def test_vectors_may_be_queries_against_other_vectors(vectors, capsys):
    labels = str(write_labels(vectors.with_name("labels.txt")))
    queries = vectors.with_name("queries.npy")
    np.save(queries, np.load(vectors)[::2] + 0.1)
    np.save(vectors.with_name("of_queries.npy"), np.array(LABELS[::2]))
    words = (
        "--queries",
        str(queries),
        "--query-labels",
        str(vectors.with_name("of_queries.npy")),
        "--k",
        "1",
        "--json",
    )
    code, out, err = call(capsys, "recall", str(vectors), "--labels", labels, *words)
    gallery = {"gallery": np.load(vectors), "gallery_labels": LABELS}
    assert (code, json.loads(out)) == (0, retrieval.evaluate(np.load(queries), LABELS[::2], ks=(1,), **gallery)), err


def npy(kind: str, count: int, content: bytes) -> bytes:
    """A .npy file of an array (count,)."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": (count,)})
    return file.getvalue() + content


@pytest.mark.parametrize("words", [["--labels", "labels.txt"], ["--query-labels", "labels.txt", "--queries", "x"]])
def test_labels_go_with_vectors_only(tmp_path, words, capsys):
    code, _, err = call(capsys, "recall", str(tmp_path), *words)
    assert code == 2
    assert "goes with a .npy file of vectors" in err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.txt", b"1\n\n2\n", r"labels\.txt, line 2: is empty"),
        ("labels.txt", b"1\n2\n", r"labels\.txt: has 2 items, .*vectors\.npy has 6 vectors"),
        ("labels.txt", b"\xff\xfe", r"labels\.txt: cannot be read"),
        ("labels.json", b"[1, 2", r"labels\.json: is not valid JSON"),
        ("labels.json", b'{"a": 1}', r"labels\.json: is not a list of whole numbers or texts"),
        ("labels.json", b"[1, null, 2, 3, 4, 5]", r"labels\.json: is not a list of whole numbers or texts"),
        ("labels.json", b"[" * 100_000, r"labels\.json: is not valid JSON"),
        ("labels.npy", b"nothing", r"labels\.npy: cannot be read"),
        (
            "labels.npy",
            npy("<U1", 6, b"\xff" * 24),
            r"labels\.npy: cannot be read \(it holds texts that are no Unicode",
        ),
        ("labels.csv", b"class\n1\n", r"labels\.csv: its columns are class; expected label"),
        ("labels.csv", b"", r"labels\.csv: its columns are none"),
        ("labels.csv", b"3\n3\n1\n1\n2\n2\n", r"csv, line 1: is '3', expected a header; .* above it, e\.g\. label$"),
        ("labels.csv", b"a,1.png\n" * 6, r"csv, line 1: is 'a,1\.png', expected a header; .* e\.g\. label,path$"),
        (
            "labels.csv",
            b"label;path\na;1.png\n",
            r"csv: its columns are separated by semicolons, expected commas; save",
        ),
        ("labels.csv", b"id\tlabel\n1\ta\n", r"csv: its columns are separated by tabs, expected commas; save"),
        ("labels.csv", b"label\na\n", r"labels\.csv: has 1 item, .*vectors\.npy has 6 vectors"),
    ],
)
def test_labels_that_cannot_be_read_are_one_line(vectors, name, content, message):
    file = vectors.with_name(name)
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        retrieval.Index.from_files(vectors, file)


@pytest.mark.parametrize("labels", [np.ones((6, 2), dtype=int), np.linspace(0, 1, 6), np.array(3)])
def test_arrays_that_are_no_labels_are_one_line(vectors, labels):
    np.save(vectors.with_name("labels.npy"), labels)
    with pytest.raises(DatasetError, match=r"expected whole numbers or texts of shape \(count,\)"):
        retrieval.Index.from_files(vectors, vectors.with_name("labels.npy"))


def test_errors_of_measuring_name_the_file_of_the_vectors(vectors, capsys):
    labels = write_labels(vectors.with_name("labels.txt"))
    for words in (("--k", "6"), ("--rerank", "2", "--k", "9")):
        code, out, err = call(capsys, "recall", str(vectors), "--labels", str(labels), *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: {vectors}: cannot be measured: ")


@pytest.mark.timeout(20)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", ["vectors.npy", "labels.npy", "labels.txt", "labels.csv", "labels.json"])
def test_a_pipe_in_place_of_a_file_is_refused_at_once(vectors, name):
    file = vectors.with_name(name)
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    labels = vectors.with_name("labels.txt") if file == vectors else file
    with pytest.raises(DatasetError, match=rf"{name}: cannot be read \(it is a pipe\)"):
        retrieval.Index.from_files(vectors, labels)


def test_labels_that_are_the_text_of_a_missing_value_give_a_warning(vectors, caplog):
    labels = vectors.with_name("labels.txt")
    labels.write_text("a\na\nNaN\nb\nNaN\nb\n")
    retrieval.Index.from_files(vectors, labels)
    assert caplog.messages == [f"{labels}, item 3: label 'NaN' is the text of a missing value; it forms a class"]


def test_exported_names_that_a_spreadsheet_takes_for_formulas_are_guarded_and_read_back(vectors, tmp_path):
    names = ["=cmd()", "+a", "-0.5", "-b", "@c", "plain"]
    index = retrieval.Index.from_vectors(np.load(vectors), names, paths=[f"{name}.jpg" for name in names])
    files = index.export(tmp_path / "files")
    lines = files.table.read_text().splitlines()
    assert lines[1:4] == ["0,'=cmd(),'=cmd().jpg", "1,'+a,'+a.jpg", "2,-0.5,'-0.5.jpg"]
    again = retrieval.Index.from_files(files.vectors, files.table)
    assert [hit.class_name for (hit,) in again.search(np.load(vectors), 1)] == names
    assert [hit.path for (hit,) in again.search(np.load(vectors), 1)] == [f"{name}.jpg" for name in names]


TABLES = {
    "plain": "label,id,path\n" + "".join(f"class {i % 7},{90 - i},x/{i}.png\n" for i in range(60)),
    "labels alone": "label\n" + "".join(f"{(i * 5) % 11}\n" for i in range(60)),
    "quoted": "path,label\n" + "".join(f'"a,{i}.png","the ""{i % 3}"""\n' for i in range(60)),
    "blanks": "label,path\n" + "".join(f" class {i % 7} ,{i}.png\n" for i in range(60)),
    "wide blanks": "label\n" + "".join(f"\u00a0class {i % 7}\u3000\n" for i in range(60)),
    "formulas": "label\n" + "".join(f"'=1+{i % 4}\n" for i in range(60)),
    "signs": "label\n" + "".join(f"{i % 4 - 2}\n" for i in range(60)),
    "missing words": "label\n" + "nan\ncat\n" * 30,
    "empty lines": "label\n" + "a\n\nb\n" * 30,
    "carriage returns": "label,id\r\n" + "".join(f"{i % 4},{i}\r\n" for i in range(60)),
    "byte order mark": "\ufefflabel\n" + "a\nb\n" * 30,
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_a_large_table_is_read_by_columns_as_a_small_one_by_lines(tmp_path, monkeypatch, text):
    file = tmp_path / "labels.csv"
    file.write_bytes(text.encode())
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).standard_normal((60, 4)))
    found = []
    for large in (2**40, 0):
        monkeypatch.setattr("retrieval.index.arrays._LARGE", large)
        index = retrieval.Index.from_files(tmp_path / "vectors.npy", file)
        found.append((index.ids.tolist(), index.labels.tolist(), index.classes, index.paths))
    assert found[0] == found[1]


@pytest.mark.parametrize("labels", [np.arange(60) % 7, np.arange(60)[::-1] // 5 - 3, np.array(["b", "a"] * 30)])
def test_a_large_array_of_labels_is_read_as_a_small_one(tmp_path, monkeypatch, labels):
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).standard_normal((60, 4)))
    found = []
    for large in (2**40, 0):
        monkeypatch.setattr("retrieval.index.arrays._LARGE", large)
        index = retrieval.Index.from_files(tmp_path / "vectors.npy", tmp_path / "labels.npy")
        found.append((index.ids.tolist(), index.labels.tolist(), index.classes, index.paths))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,id\n" + "a,1\n" * 60, "line 3: id 1 stands in line 2 already"),
        ("label,id\na,1\nb,x\n" + "".join(f"a,{i}\n" for i in range(2, 60)), "line 3: id 'x' is no whole number"),
        ("label\n" + "a\n" * 59, "has 59 items, .* has 60 vectors"),
        ("label,path\n" + "a,x\n" * 58 + "a,\na,y\n", "line 60: expected a value for each of label, path"),
    ],
)
def test_a_fault_in_a_large_table_is_named_with_its_line(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr("retrieval.index.arrays._LARGE", 0)
    (tmp_path / "labels.csv").write_text(text)
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).standard_normal((60, 4)))
    with pytest.raises(DatasetError, match=message):
        retrieval.Index.from_files(tmp_path / "vectors.npy", tmp_path / "labels.csv")
