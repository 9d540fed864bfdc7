from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import study_losses  # noqa: E402
import study_tables  # noqa: E402


def run(loss: str, setting: dict, **words) -> study_losses.Run:
    return study_losses.Run("search", "glyphs", loss, setting, 1e-3, 5, 32, seed=0, **words)


def row(loss: str, seed: int, recall: float, stage: str = "final", **words) -> dict:
    return {"stage": stage, "task": "t", "loss": loss, "seed": seed, "recall@1": recall, "map@r": recall / 2} | words


@pytest.mark.parametrize("name", study_losses.LOSSES)
def test_every_loss_has_three_settings_and_trains_with_each(name):
    labels = torch.arange(8).repeat_interleave(4)
    embeddings = torch.nn.functional.normalize(torch.randn(32, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    settings = study_losses.LOSSES[name][1]
    assert len(settings) == 3
    for setting in settings:
        inputs = embeddings.clone().requires_grad_()
        loss = study_losses.make_loss(run(name, setting), 8, 16)
        loss(inputs, labels).backward()
        assert inputs.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["softmax", "MultiSimilarity", "SupCon"])
def test_with_a_memory_earlier_batches_are_candidates(name):
    setting = study_losses.LOSSES[name][1][0]
    loss = study_losses.make_loss(run(name, setting, memory=64), 8, 16)
    labels = torch.arange(8).repeat_interleave(4)
    values = [loss(torch.nn.functional.normalize(torch.randn(32, 16), dim=1), labels).item() for _ in range(3)]
    assert all(map(math.isfinite, values))
    assert loss.embedding_memory.shape == (64, 16)


@pytest.mark.parametrize("together", [1, 2], ids=["classes", "alphabets of two"])
def test_the_groups_of_the_folds_are_disjoint_and_all_are_used(together):
    labels = np.repeat(np.arange(10), 3)
    data = {"train": np.arange(30), "train labels": labels, "test": np.arange(5), "test labels": np.arange(5)}
    data["train groups"] = labels // together
    held = []
    for fold in range(3):
        (_, kept), (_, measured) = study_losses.divide(data, fold)
        assert not set(kept // together) & set(measured // together)
        held += sorted(set(measured))
    assert sorted(held) == list(range(10))
    assert study_losses.divide(data, None)[1][0] is data["test"]


@pytest.mark.slow
def test_the_groups_of_omniglot_are_its_alphabets(omniglot_root, tmp_path):
    options = argparse.Namespace(out=tmp_path, data=omniglot_root.parent, weights=None)
    data = study_losses.arrays(study_losses.TASKS["omniglot"], options)
    for split, alphabets, characters in (("train", 30, 964), ("test", 20, 659)):
        pairs = set(zip(data[f"{split} groups"], data[f"{split} labels"], strict=True))
        assert len(set(data[f"{split} groups"])) == alphabets
        assert len(pairs) == characters
    assert "Greek" in data["train groups"]


def test_random_views_keep_the_shape_and_repeat_with_their_generator():
    images = torch.rand(6, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    first, again, other = (study_losses.random_views(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert first.shape == images.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1


def test_the_trial_with_the_best_mean_over_folds_is_chosen():
    trials = [
        row("a", 0, recall, "search", setting={"x": x}, learning_rate=rate)
        for x, rate, recalls in ((1, 0.1, (50, 10)), (2, 0.1, (40, 40)), (2, 0.2, (35, 35)))
        for recall in recalls
    ]
    assert study_losses.choose(trials, ["t"], "a") == {"t": ({"x": 2}, 0.1)}
    with pytest.raises(SystemExit, match="no trials of b on t"):
        study_losses.choose(trials, ["t"], "b")


def test_a_setting_for_two_tasks_has_the_best_sum_and_a_learning_rate_for_each():
    figures = {("t", 1, 0.1): 60, ("t", 1, 0.2): 20, ("t", 2, 0.1): 58, ("t", 2, 0.2): 59}
    figures |= {("u", 1, 0.1): 10, ("u", 1, 0.2): 30, ("u", 2, 0.1): 40, ("u", 2, 0.2): 35}
    found = [
        row("a", 0, recall, "search", task=task, setting={"x": x}, learning_rate=rate)
        for (task, x, rate), recall in figures.items()
    ]
    assert study_losses.choose(found, ["t", "u"], "a") == {"t": ({"x": 2}, 0.2), "u": ({"x": 2}, 0.1)}
    assert study_losses.choose(found, ["t"], "a") == {"t": ({"x": 1}, 0.1)}
    assert study_losses.by_setting(found, "u", "a") == {
        '{"x": 1}': (45, 0.2),
        '{"x": 2}': (60, 0.1),
    }  # recall@1 + MAP@R


def test_the_settings_are_shown_by_the_mean_of_their_best_trials(capsys):
    figures = [("t", "loglog", 0.1, 40), ("t", "loglog", 0.2, 20), ("t", "sqrt", 0.1, 30), ("u", "sqrt", 0.1, 60)]
    figures.append(("u", "loglog", 0.1, 20))
    rows = [
        row("std", 0, recall, "search", task=task, setting={"weighting": weighting}, learning_rate=rate)
        for task, weighting, rate, recall in figures
    ]
    study_tables.table_of_settings(rows, ["t", "u"])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "| std | weighting sqrt | 45.0 | 90.0 | 67.5 |",
        "| std | weighting loglog | 60.0 | 30.0 | 45.0 |",
    ]


def test_losses_whose_runs_are_not_complete_are_in_no_table():
    rows = [row(loss, 0, 50, "search", setting={}, learning_rate=0.1) for loss in ("softmax", "std")]
    rows += [row("softmax", seed, 60, setting={}, learning_rate=0.1) for seed in range(5)]
    rows += [row("std", seed, 60, setting={}, learning_rate=0.1) for seed in range(3)]
    rows = [each | {"task": "omniglot"} for each in rows]
    assert list(study_tables.finals(rows, "omniglot", ["omniglot"])) == ["softmax"]


@pytest.mark.slow
def test_an_error_in_a_run_ends_the_study_and_keeps_what_is_done(tmp_path):
    options = argparse.Namespace(out=tmp_path, data=None, weights=None, threads=1, jobs=1)
    good = [run("softmax", {"temperature": 0.5}, fold=0)]
    bad = run("softmax", {"temperature": -1.0}, fold=0)
    later = [run("softmax", {"temperature": 0.6 + n}, fold=0) for n in range(20)]
    with pytest.raises(ValueError, match=r"temperature is -1\.0"):
        study_losses.carry_out([*good, bad, *later], [], options)
    assert study_losses.read_results(tmp_path)[0]["setting"] == {"temperature": 0.5}
    assert len(study_losses.read_results(tmp_path)) < 10


def test_differences_are_paired_by_seed():
    best = [row("softmax", seed, 50 + 10 * seed) for seed in range(3)]
    other = [row("x", seed, 48 + 10 * seed) for seed in reversed(range(3))]
    mean, half = study_tables.differences(other, best, "recall@1")
    assert (mean, half) == (2, 0)
    assert study_tables.interval([1.0, 2.0, 3.0])[1] == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"a": 1}\n{"b": 2}\n{"c":')
    assert study_losses.read_results(tmp_path) == [{"a": 1}, {"b": 2}]
    assert (tmp_path / "results.jsonl").read_text() == '{"a": 1}\n{"b": 2}\n'


@pytest.mark.slow
def test_a_study_can_be_continued_and_shown(tmp_path):
    def study() -> list[str]:
        words = ["--quick", "--losses", "softmax", "--jobs", "1", "--out", str(tmp_path)]
        subprocess.run([sys.executable, str(SCRIPTS / "study_losses.py"), *words], check=True, capture_output=True)
        return (tmp_path / "results.jsonl").read_text().splitlines()

    lines = study()
    stages = [json.loads(line)["stage"] for line in lines]
    assert [stages.count(stage) for stage in ("gauge", "search", "final")] == [4, 3, 5]
    assert study() == lines
    (tmp_path / "results.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:50])
    repeated = study()
    assert repeated[:-1] == lines[:-1]
    last, first = json.loads(repeated[-1]), json.loads(lines[-1])
    assert (last["seed"], last["recall@1"], last["map@r"]) == (first["seed"], first["recall@1"], first["map@r"])

    words = [str(SCRIPTS / "study_tables.py"), str(tmp_path), "--pictures", str(tmp_path / "docs")]
    shown = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True).stdout
    assert "### glyphs, 5 seeds, settings chosen on it alone" in shown
    assert f"{np.mean([json.loads(line)['recall@1'] for line in repeated[-5:]]):.2f} ±" in shown
    assert (tmp_path / "docs" / "study_collapse.png").stat().st_size > 10_000


def test_the_recall_loss_by_identity_is_in_bold_type():
    names = ("softmax", "std, noise", "blackbox std", "SupCon")
    assert [study_tables.bold(name) for name in names] == ["**softmax**", "**std, noise**", "blackbox std", "SupCon"]
