from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import study_losses  # noqa: E402
import study_tables  # noqa: E402
import study_tasks  # noqa: E402

from retrieval.data import read_dataset  # noqa: E402

TASK = study_tasks.Task("glyphs", "scratch", 28, 5, 1e-3, folds=2, seeds=2)


def answer(runs: list[study_losses.Run], best: dict) -> list[dict]:
    """Rows in which recall@1 falls with the distance, in decades, from the best rate of a setting, and with each fold."""
    rows = []
    for run in runs:
        top, rate = best[json.dumps(run.setting)]
        recall = top - 10 * abs(np.log10(run.learning_rate / rate)) - (run.fold or 0)
        rows.append(asdict(run) | {"recall@1": recall, "map@r": 0.0})
    return rows


def search(best: dict) -> tuple[study_losses.Choice, list[dict]]:
    """A search that has ended, and all its rows."""
    rows = []
    while missing := study_losses.Choice(TASK, "softmax", rows).missing():
        rows += answer(missing, best)
    return study_losses.Choice(TASK, "softmax", rows), rows


def settings(*tops_and_rates: tuple[float, float]) -> dict:
    words = map(json.dumps, study_losses.LOSSES["softmax"].settings)
    return dict(zip(words, tops_and_rates, strict=True))


@pytest.mark.parametrize("name", study_losses.LOSSES)
def test_every_loss_has_three_settings(name):
    assert len(study_losses.LOSSES[name].settings) == 3


def test_the_range_of_learning_rates_grows_until_the_best_is_inside():
    choice, rows = search(settings((90, 3.2e-5), (80, 1e-3), (80, 1e-3)))
    assert choice.choose() == (study_losses.LOSSES["softmax"].settings[0], 3.2e-5)
    rates = sorted({row["learning_rate"] for row in rows})
    assert rates == [1e-5, 3.2e-5, 1e-4, 3.2e-4, 1e-3, 3.2e-3]
    assert [row["seed"] for row in choice.final()] == [0, 1]


def test_the_rate_is_searched_again_for_another_setting():
    choice, _ = search(settings((60, 1e-3), (75, 1e-2), (50, 1e-3)))
    assert choice.choose() == (study_losses.LOSSES["softmax"].settings[1], 1e-2)


def test_a_rate_at_the_edge_of_the_grid_is_refused():
    choice, rows = search(settings((60, 1e-9), (50, 1e-3), (50, 1e-3)))
    assert {row["fold"] for row in rows} == {0, 1}
    with pytest.raises(
        study_losses.AtTheEdge, match="softmax: the best learning rate 1e-06 is at the edge of the grid"
    ):
        choice.final()


@pytest.mark.parametrize("together", [1, 2], ids=["classes", "alphabets of two"])
def test_the_groups_of_the_folds_are_disjoint_and_all_are_used(together):
    labels = np.repeat(np.arange(10), 3)
    data = {"train": np.arange(30), "train labels": labels, "test": np.arange(6), "test labels": np.arange(6)}
    data["train groups"] = labels // together
    held = []
    for fold in range(3):
        training, measured = study_tasks.divide(data, fold)
        kept, tested = (set(data["train groups"][split.inputs]) for split in (training, measured))
        assert not kept & tested
        held += sorted(set(labels[measured.inputs]))
        assert training.labels.max() == training.num_classes - 1
    assert sorted(held) == list(range(10))
    assert study_tasks.divide(data, None, step=2)[1].inputs.tolist() == [0, 2, 4]


def test_runs_at_one_time_are_those_of_each_alone():
    arrays = glyph_arrays()
    split, _ = study_tasks.divide(arrays, None)
    runs = [
        study_losses.Run(loss, study_losses.LOSSES[loss].settings[0], rate, seed, None)
        for loss, rate, seed in (("SupCon", 1e-3, 0), ("SupCon", 1e-2, 1), ("normalised softmax", 1e-3, 0))
    ]
    together = study_losses.train(TASK, None, split, runs)
    for run, network in zip(runs, together, strict=True):
        (alone,) = study_losses.train(TASK, None, split, [run])
        for left, right in zip(network.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


def glyph_arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 6)
    images = generator.integers(0, 256, (240, 28, 28, 1), dtype=np.uint8)
    return {
        f"{split}{what}": value for split in ("train", "test") for what, value in (("", images), (" labels", labels))
    }


def test_random_views_keep_the_shape_and_repeat_with_their_generator():
    images = torch.rand(6, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    first, again, other = (study_tasks.random_views(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert first.shape == images.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"b": 2}\n{"c":')
    assert study_losses.read_rows(tmp_path / "a.jsonl") == [{"a": 1}, {"b": 2}]
    assert (tmp_path / "a.jsonl").read_text() == '{"a": 1}\n{"b": 2}\n'


def finals(*figures: float) -> list[dict]:
    words = {"setting": {}, "learning_rate": 0.1}
    return [{"seed": seed, "recall@1": value, "map@r": value} | words for seed, value in enumerate(figures)]


def test_differences_are_paired_by_seed_and_counted_by_task():
    found = {"near": finals(50, 60, 70), "SupCon": finals(48, 58, 68.5), "FastAP": finals(40, 70, 70)}
    assert study_tables.difference(found, "near", "SupCon", "map@r").tolist() == [2, 2, 1.5]
    rows = study_tables.table_of_all({"one": found, "two": found}, "near")
    assert "| SupCon | 58.17 | 58.17 | +1.83 ± 0.72 (0.00) | +1.83 ± 0.72 (0.00) | 2 / 0 | 2 / 0 |" in rows
    assert "| FastAP | 60.00 | 60.00 | +0.00 ± 24.84 (0.00) | +0.00 ± 24.84 (0.00) | 0 / 0 | 0 / 0 |" in rows


def test_losses_whose_runs_are_not_complete_are_in_no_table():
    _, rows = search(settings((60, 1e-3), (50, 1e-3), (50, 1e-3)))
    study_tasks.TASKS["t"] = TASK
    try:
        assert list(study_tables.finals("t", rows)) == ["softmax"]
        assert list(study_tables.finals("t", rows[:-1])) == []
    finally:
        del study_tasks.TASKS["t"]


@pytest.mark.slow
def test_the_groups_of_omniglot_are_its_alphabets(shared_data, omniglot_root, tmp_path, monkeypatch):
    monkeypatch.setattr(study_tasks, "unpack", lambda *_: omniglot_root)
    monkeypatch.setattr(study_tasks, "_pixels", lambda images, task: np.zeros(len(images)))  # no pixel is looked at
    task = study_tasks.TASKS["Omniglot, from scratch"]
    data = study_tasks.load(task, tmp_path, shared_data)
    for split, alphabets, characters in (("train", 30, 964), ("test", 20, 659)):
        pairs = set(zip(data[f"{split} groups"], data[f"{split} labels"], strict=True))
        assert len(set(data[f"{split} groups"])) == alphabets
        assert len(pairs) == characters
    assert "Greek" in data["train groups"]


@pytest.mark.slow
def test_a_study_can_be_continued_and_shown(tmp_path, monkeypatch, call_main):
    name, file = "glyphs, from scratch", tmp_path / "glyphs, from scratch.jsonl"
    few = {split: images.select(range(720)) for split, images in read_dataset("glyphs").items()}  # 60 characters
    with monkeypatch.context() as patch:
        patch.setattr(study_tasks, "_read", lambda *_: few)
        study_tasks.load(study_tasks.QUICK[name], tmp_path, None)  # the study takes the arrays that are there
    words = [study_losses.__file__, "--quick", "--jobs", "1", "--out", str(tmp_path)]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    lines = file.read_text().splitlines()

    def study() -> list[str]:
        words = {"threads": torch.get_num_threads(), "data": None, "losses": ["softmax", "MultiSimilarity"]}
        try:
            study_losses.study(name, argparse.Namespace(out=tmp_path, **words))
        finally:
            torch.set_flush_denormal(False)
        return file.read_text().splitlines()

    assert study() == lines
    file.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:50])
    repeated = study()
    assert repeated[:-1] == lines[:-1]
    last, first = json.loads(repeated[-1]), json.loads(lines[-1])
    assert (last["seed"], last["loss"]) == (first["seed"], first["loss"])
    assert last["recall@1"] == pytest.approx(first["recall@1"], abs=1)  # computed with other runs beside it

    page, picture = tmp_path / "page.md", tmp_path / "picture.png"
    page.write_text(f"before\n{study_tables.BEGIN}\nold\n{study_tables.END}\nafter\n")
    call_main(study_tables, tmp_path, "--page", page, "--picture", picture, "--ours", "softmax")
    text = page.read_text()
    assert "### glyphs, from scratch" in text
    assert "old" not in text
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert picture.stat().st_size > 10_000


def test_data_are_needed_but_for_the_quick_study(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["study_losses.py", "--out", "x"])
    with pytest.raises(SystemExit):
        study_losses.main()
    assert "--data is needed, or --quick" in capsys.readouterr().err


def test_pretrained_tasks_need_data():
    with pytest.raises(SystemExit, match="tasks with a pretrained network need --data"):
        study_tasks.make_backbone(study_tasks.TASKS["CUB, whole network"], None)
