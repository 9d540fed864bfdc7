from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from index import bundles
from small_run import call

from retrieval.index.bundle import read_bundle
from retrieval.model import onnx
from retrieval.training import load_checkpoint, save_checkpoint


def test_every_class_is_measured_and_the_mean_of_the_classes_is_the_macro_figure(run, capsys):
    code, out, _ = call(capsys, "recall", str(run / "index-test"), "--per-class", "--json", "--k", "1,3")
    assert code == 0
    rows = json.loads(out)
    assert [row["class"] for row in rows if row["queries"] != 7] == []
    figures = json.loads(call(capsys, "recall", str(run / "index-test"), "--macro", "--k", "1,3", "--json")[1])
    for name in ("recall@1", "recall@3", "map@r"):
        assert np.mean([row[name] for row in rows]) == pytest.approx(figures[f"macro {name}"])
    written = call(capsys, "recall", str(run / "index-test"), "--per-class", "--csv", "--k", "1,3")[1]
    table = list(csv.DictReader(io.StringIO(written)))
    assert [float(row["map@r"]) for row in table] == [row["map@r"] for row in rows]


def test_tables_fit_80_columns(run, capsys):
    index = str(run / "index-test")
    metrics = ("--metrics", "recall,precision,map@r,r_precision,mrr")
    for words in (
        (),
        ("--per-class",),
        ("--macro", "--intervals", *metrics),
        ("--qe", "2", "--dba", "2", "--rerank", "5"),
    ):
        code, out, _ = call(capsys, "recall", index, *words)
        assert code == 0
        assert max(map(len, out.splitlines())) <= 80


def test_better_rankings_are_printed_next_to_the_plain_one(run, capsys):
    code, out, _ = call(capsys, "recall", str(run / "index-test"), "--qe", "2", "--rerank", "5", "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found) == ["plain", "query expansion 2", "re-ranking 5", "all of these"]
    plain = json.loads(call(capsys, "recall", str(run / "index-test"), "--json")[1])
    assert found["plain"] == {name: plain[name] for name in found["plain"]}
    assert all(0 <= figures["map@r"] <= 1 for figures in found.values())


def test_figures_are_printed_as_csv(run, capsys):
    index = str(run / "index-test")
    (row,) = csv.DictReader(io.StringIO(call(capsys, "recall", index, "--csv")[1]))
    assert {name: float(value) for name, value in row.items()} == json.loads(call(capsys, "recall", index, "--json")[1])
    words = ("recall", index, "--qe", "2", "--k", "1,3")
    found = json.loads(call(capsys, *words, "--json")[1])
    rows = list(csv.DictReader(io.StringIO(call(capsys, *words, "--csv")[1])))
    assert [row.pop("ranking") for row in rows] == list(found) == ["plain", "query expansion 2"]
    for row, figures in zip(rows, found.values(), strict=True):
        assert {name: float(value) for name, value in row.items()} == figures


def test_the_images_of_a_folder_are_queries_and_their_page_needs_no_network(run, images, capsys, tmp_path):
    queries = images / "test" / "class 08"
    words = ("search", str(run / "index-test"), str(queries), "--k", "3", "--html", str(tmp_path / "a page.html"))
    code, out, _ = call(capsys, *words, "--rerank", "5", "--qe", "1")
    assert code == 0
    assert f"'{tmp_path}/a page.html'" in out
    page = (tmp_path / "a page.html").read_text()
    assert page.count("<section>") == 7
    assert len(re.findall("data:image/[a-z]+;base64,", page)) >= 7 * 4
    assert "//" not in re.sub('base64,[^"]*', "", page)


def test_with_min_score_the_answer_can_be_that_no_image_is_similar(run, images, capsys, tmp_path):
    index, query = str(run / "index-test"), str(images / "test" / "class 08" / "0.png")
    threshold = read_bundle(run / "index-test").calibration.threshold
    (found,) = json.loads(call(capsys, "search", index, query, "--min-score", "auto", "--k", "28", "--json")[1])
    assert found["min_score"] == threshold
    assert all(neighbour["score"] >= threshold for neighbour in found["neighbours"])
    (every,) = json.loads(call(capsys, "search", index, query, "--k", "28", "--json")[1])
    assert "min_score" not in every
    limit = every["neighbours"][2]["score"]
    (found,) = json.loads(call(capsys, "search", index, query, "--min-score", str(limit), "--json")[1])
    assert (found["min_score"], found["neighbours"]) == (limit, every["neighbours"][:3])
    files = ("--html", str(tmp_path / "page.html"))
    code, out, err = call(capsys, "search", index, query, "--min-score", "1.5", *files)
    assert code == 0, err
    assert "no similar image (no score is 1.5000 or more)" in out
    assert "no similar image" in (tmp_path / "page.html").read_text().lower()
    code, out, _ = call(capsys, "search", index, query, "--min-score", "1.5", "--json")
    assert (code, json.loads(out)) == (0, [{"query": query, "min_score": 1.5, "neighbours": []}])
    assert call(capsys, "search", index, query, "--min-score", "1.5", "--picture", str(tmp_path / "p.png"))[0] == 0


def test_a_min_score_that_is_none_is_one_line(run, images, capsys, tmp_path):
    query = str(images / "test" / "class 08" / "0.png")
    for value in ("high", "nan", "inf", ""):
        code, out, err = call(capsys, "search", str(run / "index-test"), query, "--min-score", value)
        assert (code, out) == (2, "")
        assert f"Invalid value for '--min-score': {value!r} is neither a finite number nor auto (see" in err
    words = ("search", str(run / "index-test"), query, "--min-score", "auto", "--rerank", "3")
    code, out, err = call(capsys, *words)
    assert (code, out, err) == (
        2,
        "",
        "error: min_score auto is for plain scores; give a number with qe, dba and rerank\n",
    )
    bundles.rewrite(Path(shutil.copytree(run / "index-test", tmp_path / "old")))  # as an earlier version wrote it
    code, out, err = call(capsys, "search", str(tmp_path / "old"), query, "--min-score", "auto")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"`retrieval index merge {tmp_path}/old --out NEW`" in err


def test_an_index_and_its_copy_have_no_difference(run, capsys, tmp_path):
    shutil.copytree(run / "index-test", tmp_path / "copy")
    words = ("compare", str(run / "index-test"), str(tmp_path / "copy"))
    found = json.loads(call(capsys, *words, "--json")[1])
    assert found["queries"] == 28
    assert found["others"][0]["map@r"]["difference"] == 0
    assert found["others"][0]["map@r"]["p"] == 1
    assert "p by a paired permutation test" in call(capsys, *words)[1]


def test_images_are_embedded_into_plain_files(run, images, capsys, tmp_path):
    code, _, _ = call(capsys, "embed", str(run), str(images / "test"), "--out", str(tmp_path / "out"))
    assert code == 0
    vectors = np.load(tmp_path / "out" / "vectors.npy")
    np.testing.assert_allclose(vectors, read_bundle(run / "index-test").vectors, atol=1e-6)
    assert len((tmp_path / "out" / "paths.csv").read_text().splitlines()) == 29


def test_the_given_checkpoint_embeds(run, images, capsys, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("index-*"))
    state = load_checkpoint(run / "best.safetensors")
    state["model"] = {name: torch.zeros_like(tensor) for name, tensor in state["model"].items()}
    state["model"]["head.bias"][0] = 1
    save_checkpoint(tmp_path / "run" / "best.safetensors", state)
    found = {}
    for checkpoint in ("last", "best"):
        words = ("embed", str(tmp_path / "run"), str(images / "test"), "--checkpoint", checkpoint)
        assert call(capsys, *words, "--out", str(tmp_path / checkpoint))[0] == 0
        found[checkpoint] = np.load(tmp_path / checkpoint / "vectors.npy")
    words = ("index", str(run), "--split", "test", "--checkpoint", "last", "--out", str(tmp_path / "index"))
    assert call(capsys, *words)[0] == 0
    np.testing.assert_allclose(found["last"], read_bundle(tmp_path / "index").vectors, atol=1e-6)
    np.testing.assert_array_equal(found["best"], np.eye(16)[[0] * 28])


@pytest.mark.slow
def test_a_model_is_exported_as_onnx_with_the_same_vectors(run, images, capsys, tmp_path):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    words = ("export", "onnx", str(run / "index-test"), "--out", str(tmp_path / "m.onnx"), "--json")
    code, out, err = call(capsys, *words, "--images", str(images / "test" / "class 08"))
    assert code == 0, err
    assert json.loads(out)["largest_difference"] <= 1e-4
    assert (tmp_path / "m.onnx").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("change", [lambda weights: weights.neg_(), lambda weights: weights.fill_(torch.nan)])
def test_an_onnx_file_with_other_vectors_than_torch_is_refused(run, capsys, monkeypatch, tmp_path, change):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    compare = onnx.compare

    def compare_with_another(content, model, inputs):
        with torch.no_grad():
            change(max(model.parameters(), key=torch.numel))
        return compare(content, model, inputs)

    monkeypatch.setattr(onnx, "compare", compare_with_another)
    words = ("export", "onnx", str(run), "--checkpoint", "last", "--out", str(tmp_path / "m.onnx"))
    code, out, err = call(capsys, *words)
    assert (code, out) == (1, "")
    assert re.fullmatch(
        r"error: onnxruntime's vectors differ from torch's by \S+, more than 0.0001; nothing was written\n", err
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_without_assertions_the_figures_are_the_same(run, capsys):
    words = ("recall", str(run / "index-test"), "--json")
    command = [sys.executable, "-O", "-m", "retrieval.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == json.loads(call(capsys, *words)[1])


def test_missing_packages_for_onnx_are_named_with_the_command_that_installs_them(run, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    code, _, err = call(capsys, "export", "onnx", str(run), "--out", str(tmp_path / "m.onnx"))
    assert code == 1
    assert "pip install 'image-retrieval-toolkit[onnx]'" in err
    assert err.count("\n") == 1
