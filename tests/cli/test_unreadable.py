"""Images that cannot be read are refused, or skipped by a run and by the commands that embed images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from small_run import arguments, call, draw_images

from retrieval import Index, Run
from retrieval.index.bundle import read_bundle

pytestmark = pytest.mark.usefixtures("quick_pictures")

BROKEN = ("train/class 00/3.png", "train/class 05/0.png", "test/class 09/6.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The images of a small run, three of which are broken."""
    root = draw_images(tmp_path / "images")
    for path in BROKEN:
        (root / path).write_bytes((root / path).read_bytes()[:60])
    return root


@pytest.mark.slow
def test_a_run_skips_the_images_that_it_could_not_read_at_its_start(root, tmp_path, capsys, caplog):
    run = tmp_path / "run"
    code, _, err = call(capsys, *arguments(root, run))
    assert (code, "cannot be read as an image" in err) == (1, True)
    skip = arguments(root, run, "data.unreadable=skip", "training.max_steps=3")
    assert call(capsys, *skip)[0] == 0
    assert f"skipped: {root / BROKEN[0]}" in caplog.text
    assert sorted(json.loads((run / "environment.json").read_text())["unreadable"]) == sorted(BROKEN)
    splits = {name: images.paths for name, images in Run.open(run).splits.items()}
    assert sum(map(len, splits.values())) == 84 - 3

    broken_later = root / "test" / "class 08" / "0.png"
    content = broken_later.read_bytes()
    broken_later.write_bytes(b"")
    (root / BROKEN[2]).write_bytes(content)  # mended: it stays left out
    assert {name: images.paths for name, images in Run.open(run).splits.items()} == splits
    code, _, err = call(capsys, "index", str(run), "--split", "test")
    assert (code, f"{broken_later}: cannot be read" in err) == (1, True)
    broken_later.write_bytes(content)
    assert call(capsys, "train", "--out", str(run), "--resume", "training.max_steps=6")[0] == 0
    assert call(capsys, "index", str(run))[0] == 0
    index = Index.open(run / "index-all")
    assert len(index) == 84 - 3
    assert not set(BROKEN) & set(index.paths)


@pytest.mark.slow
def test_commands_that_embed_images_skip_them_if_asked(root, tmp_path, capsys, caplog):
    run = tmp_path / "run"
    assert call(capsys, *arguments(root, run, "data.unreadable=skip", "training.max_steps=1"))[0] == 0
    (root / "list.csv").write_text(
        "path,label\n" + "".join(f"{path},{path[:5]}\n" for path in (*BROKEN, "test/class 09/0.png"))
    )
    for words, count in (
        (("index", str(run), "--images", str(root), "--out", "OUT"), 81),
        (("index", str(run), "--list", str(root / "list.csv"), "--out", "OUT"), 1),
        (("embed", str(run), str(root), "--out", "OUT"), 81),
    ):
        out = tmp_path / f"{words[0]}-{count}"
        words = [str(out) if word == "OUT" else word for word in words]
        code, _, err = call(capsys, *words)
        assert (code, "cannot be read as an image" in err) == (1, True), words
        assert call(capsys, *words, "--skip-unreadable")[0] == 0
        if words[0] == "index":
            assert len(read_bundle(out).paths) == count
        else:
            with (out / "paths.csv").open(encoding="utf-8") as file:
                assert len(list(csv.DictReader(file))) == count
    index = str(tmp_path / "index-1")
    code, _, err = call(capsys, "index", "add", index, str(root / BROKEN[2]))
    assert (code, "cannot be read as an image" in err) == (1, True)
    code, out, err = call(
        capsys, "index", "add", index, str(root / "test" / "class 10"), str(root / BROKEN[2]), "--skip-unreadable"
    )
    assert (code, out.startswith("added     7 images\n")) == (0, True), err
    code, _, err = call(capsys, "index", str(run), "--skip-unreadable", "--out", str(tmp_path / "none"))
    assert (code, err.startswith("error: --skip-unreadable belongs to --images and --list")) == (2, True)
