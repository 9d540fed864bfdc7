"""`retrieval embed --part`, `retrieval index --from-parts`, and --precision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from numpy.testing import assert_allclose
from small_run import call

from retrieval.index.bundle import read_bundle


def embed(capsys, run: Path, images: Path, out: Path, part: str, *words: str) -> tuple[int, str, str]:
    return call(capsys, "embed", str(run), str(images), "--part", part, "--out", str(out), *words)


def test_parts_in_any_order_make_the_index_of_the_whole_folder(run, images, capsys, tmp_path):
    for part in ("3/3", "1/3", "2/3", "1/3"):
        code, out, err = embed(capsys, run, images / "test", tmp_path / "parts", part, "--json")
        assert code == 0, err
        assert json.loads(out)["out"] == str(tmp_path / "parts" / f"part-0000{part[0]}-of-00003.safetensors")
    code, out, _ = call(capsys, "index", "--from-parts", str(tmp_path / "parts"), "--out", str(tmp_path / "index"))
    assert code == 0
    assert "holds     28 vectors" in out
    words = ("index", str(run), "--images", str(images / "test"), "--out", str(tmp_path / "whole"))
    assert call(capsys, *words)[0] == 0
    index, whole = read_bundle(tmp_path / "index"), read_bundle(tmp_path / "whole")
    assert_allclose(index.vectors, whole.vectors, atol=1e-6)  # a batch of other images is rounded otherwise
    assert (index.paths, index.class_names, index.model_hash) == (whole.paths, whole.class_names, whole.model_hash)
    assert index.manifest["source"] == whole.manifest["source"]


def test_a_missing_part_is_one_line_with_the_command_that_makes_it(run, images, capsys, tmp_path):
    assert embed(capsys, run, images / "test", tmp_path / "parts", "1/2")[0] == 0
    code, out, err = call(capsys, "index", "--from-parts", str(tmp_path / "parts"), "--out", str(tmp_path / "index"))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "lacks 1 of 2 parts (2); run `retrieval embed --part 2/2`" in err
    assert not (tmp_path / "index").exists()


def test_a_finished_part_of_other_images_is_replaced_by_the_option_only(run, images, capsys, tmp_path):
    assert embed(capsys, run, images / "test", tmp_path / "parts", "1/2")[0] == 0
    code, _, err = embed(capsys, run, images / "train", tmp_path / "parts", "1/2")
    assert (code, err.count("\n")) == (2, 1)
    assert "was made of other images, or in another way; choose another folder, or set --overwrite" in err
    assert embed(capsys, run, images / "train", tmp_path / "parts", "1/2", "--overwrite")[0] == 0


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", "1/100000", "1/ 2", ""])
def test_a_part_that_is_none_is_refused(run, images, capsys, tmp_path, part):
    code, out, err = embed(capsys, run, images, tmp_path / "parts", part)
    assert (code, out) == (2, "")
    assert "--part" in err
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--from-parts", "parts"], "--from-parts needs --out"),
        (["--from-parts", "parts", "--out", "o", "run"], "give one of RUN, --from-npy and --from-parts"),
        (["--from-parts", "parts", "--out", "o", "--labels", "l"], "--from-npy and --labels belong together"),
        (["--from-parts", "parts", "--out", "o", "--images", "i"], "--images does not go with --from-parts"),
        (["--from-parts", "parts", "--out", "o", "--thumbnails"], "--thumbnails does not go with --from-parts"),
        (
            ["--from-parts", "parts", "--out", "o", "--precision", "bfloat16"],
            "--precision does not go with --from-parts",
        ),
        (["--from-parts", "parts", "--out", "o", "--checkpoint", "best"], "--checkpoint does not go with --from-parts"),
    ],
)
def test_options_that_do_not_go_with_parts_are_refused(capsys, words, text):
    code, out, err = call(capsys, "index", *words)
    assert (code, out) == (2, "")
    assert text in err


def test_the_cost_of_bfloat16_is_printed_and_kept(run, images, capsys, tmp_path):
    words = (
        "index",
        str(run),
        "--images",
        str(images / "test"),
        "--precision",
        "bfloat16",
        "--out",
        str(tmp_path / "i"),
    )
    code, out, _ = call(capsys, *words)
    assert code == 0
    cost = read_bundle(tmp_path / "i").manifest["source"]["precision"]
    line = f"precision bfloat16: finds {100 * cost['recall@1']:.2f} % of the first 1, "
    assert line in out
    assert "of float32 (28 images)" in out
    vectors = tmp_path / "vectors"
    words = ("embed", str(run), str(images / "test"), "--precision", "bfloat16", "--out", str(vectors))
    assert call(capsys, *words)[0] == 0
    assert (vectors / "vectors.npy").is_file()
