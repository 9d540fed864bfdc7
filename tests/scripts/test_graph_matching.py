from __future__ import annotations

import csv
import importlib
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from PIL import Image

from retrieval.solvers import center, match, whole

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "graph_matching.py"
FILES = ["graph_matching.csv", "graph_matching_curves.png", "graph_matching_matches.png"]


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("graph_matching")


@pytest.fixture
def pairs(script):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 1, script.SIZE, script.SIZE, generator=generator) * 2 - 1
    return script.draw_pairs(images, script.find_keypoints(images), 40, generator)


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "graph_matching.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def loss_and_gradient(script, method, costs, truth, lambda_=10.0):
    costs = costs.clone().requires_grad_()
    loss = script.loss_of(method, costs, truth, lambda_, torch.Generator().manual_seed(0))
    return loss.item(), torch.autograd.grad(loss, costs)[0]


def at_step(rows: list[dict[str, str]], step: int, what: str) -> dict[str, float]:
    """The mean over the seeds of each method."""
    values = defaultdict(list)
    for row in rows:
        if int(row["step"]) == step:
            values[row["method"]].append(float(row[what]))
    return {method: mean(found) for method, found in values.items()}


@pytest.mark.slow
def test_a_quick_run_measures_every_method(script, tmp_path, call_main):
    printed = call_main(script, "--quick", "--steps", "1", "--out", tmp_path)
    rows = read_rows(tmp_path)
    assert {row["seed"] for row in rows} == {"0", "1", "2"}
    accuracy = at_step(rows, 1, "accuracy")
    assert accuracy.keys() == set(script.METHODS)
    for method in script.METHODS:
        assert f"| {method} | {100 * accuracy[method]:.1f} ±" in printed


@pytest.mark.slow
def test_noise_keeps_the_costs_from_collapsing(script, tmp_path, call_main):
    plain, noisy = "identity, none, no margin", "identity, none, noise 0.1"
    std, norm = "identity, std, no margin", "identity, norm, no margin"
    call_main(script, "--quick", "--only", plain, noisy, std, norm, "--out", tmp_path)
    rows = read_rows(tmp_path)
    accuracy, untrained = at_step(rows, 24, "accuracy"), at_step(rows, 0, "accuracy")[plain]
    assert accuracy[noisy] > 0.05 + untrained
    assert accuracy[noisy] > 0.05 + accuracy[plain]
    assert accuracy[std] > 0.05 + accuracy[norm]
    assert at_step(rows, 24, "spread")[plain] < at_step(rows, 0, "spread")[plain] / 10


@pytest.mark.slow
def test_a_run_on_a_folder_of_images_writes_the_table_and_the_pictures(script, tmp_path, call_main):
    generator = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / "images" / str(number // 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(path)
    out, methods = tmp_path / "out", ["identity, std, noise 0.1", "cross-entropy, Sinkhorn"]
    arguments = ["--steps", "1", "--seeds", "2", "--only", *methods, "--out", str(out)]
    printed = call_main(script, *arguments, "--data", "folder", "--root", tmp_path / "images")
    rows = read_rows(out)
    assert [(row["method"], row["seed"], row["step"]) for row in rows] == [
        (method, seed, step) for method in methods for seed in "01" for step in "01"
    ]
    starts = [(row["seed"], row["accuracy"], row["spread"]) for row in rows if row["step"] == "0"]
    assert starts[:2] == starts[2:]  # the same weights and the same test pairs for all
    assert [line.split(" | ")[0] for line in printed.splitlines()[2:]] == [f"| {m}" for m in ["untrained", *methods]]
    for name in FILES[1:]:
        with Image.open(out / name) as picture:
            assert min(picture.size) > 100


def parse(script, monkeypatch, *arguments: str):
    monkeypatch.setattr(sys, "argv", ["graph_matching.py", *arguments])
    return script.parse()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seeds", "1"], "2 seeds"),
        (["--quick", "--steps", "0"], "1 step"),
        (["--only", "nothing"], "1 method"),
        (["--data", "folder"], "root"),
        (["--lambda", "0"], "--lambda: '0' is not a number above 0"),
        (["--rate", "nan"], "--rate: 'nan' is not a number above 0"),
        (["--rate", "fast"], "--rate: 'fast' is not a number above 0"),
        (["--out", __file__], f"--out: {__file__}: File exists"),
    ],
)
def test_what_cannot_be_run_is_an_error_of_one_line(script, arguments, says, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as error:
        parse(script, monkeypatch, "--out", str(tmp_path / "out"), *arguments)
    assert error.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("graph_matching.py: error: ")
    assert says in last
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_quick_changes_what_is_left_out_and_nothing_that_is_given(script, tmp_path, monkeypatch):
    out = str(tmp_path / "new" / "out")
    quick = parse(script, monkeypatch, "--out", out, "--quick")
    assert (quick.seeds, quick.steps) == (3, 24)
    given = parse(script, monkeypatch, "--out", out, "--quick", "--seeds", "2", "--steps", "7")
    assert (given.seeds, given.steps) == (2, 7)
    assert quick.out.is_dir()  # before anything is trained


def test_a_warp_and_its_inverse_cancel(script):
    to_image, to_copy = script.draw_warps(200, torch.Generator().manual_seed(0))
    places = torch.rand(200, 30, 2, generator=torch.Generator().manual_seed(1)) * 1.5 - 0.75
    torch.testing.assert_close(to_image(to_copy(places)), places, atol=1e-5, rtol=0)
    assert (to_image(places) - places).norm(dim=-1).mean() > 0.1


def test_keypoints_are_apart_and_where_the_image_varies(script):
    images = torch.zeros(2, 1, script.SIZE, script.SIZE)
    images[0, :, :, 24:] = 1
    images[1, :, :12] = torch.rand(12, script.SIZE, generator=torch.Generator().manual_seed(0))
    found = script.find_keypoints(images)
    for places in found:
        distances = (places[:, None] - places).abs().amax(dim=-1) + torch.eye(script.CANDIDATES)
        assert distances.min() > 2.9 * 2 / (script.SIZE - 1)
    assert found.norm(dim=-1).max() <= 0.75
    assert found[0, :10, 0].abs().max() < 0.15  # the edge in the middle
    assert found[1, :10, 1].max() < -0.4


def test_the_truth_says_which_keypoints_show_the_same_place(script, monkeypatch):
    monkeypatch.setattr(script, "NOISE", 0.0)
    generator = torch.Generator().manual_seed(0)
    ramp = script.PIXELS.T.reshape(2, 1, script.SIZE, script.SIZE)  # one image is its x, the other its y
    keypoints = torch.rand(2, script.CANDIDATES, 2, generator=generator) - 0.5
    pairs = script.draw_pairs(ramp, keypoints, 30, generator)

    def look(images, points):
        return torch.nn.functional.grid_sample(images, points[:, None], align_corners=True)[:, 0, 0]

    assert torch.equal(pairs.truth.sum(dim=2), torch.ones(30, script.INLIERS))
    assert pairs.truth.sum(dim=1).max() == 1
    seen = look(pairs.images, pairs.points)
    seen_again = (pairs.truth @ look(pairs.copies, pairs.copied_points)[..., None])[..., 0]
    for one, other in zip(seen, seen_again, strict=True):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.995  # contrast and light differ, nothing else
    assert pairs.truth[:, range(script.INLIERS), range(script.INLIERS)].mean() < 0.15  # the order tells nothing


def test_pairs_come_from_the_generator_alone(script):
    images = torch.rand(5, 1, script.SIZE, script.SIZE)
    keypoints = script.find_keypoints(images)
    first, again, other = (
        script.draw_pairs(images, keypoints, 4, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert all(torch.equal(*parts) for parts in zip(first, again, strict=True))
    assert not torch.equal(first.copies, other.copies)


def test_the_hamming_loss_counts_wrong_matches(script, pairs):
    solution = match(torch.randn(pairs.truth.shape, generator=torch.Generator().manual_seed(0)) - 2 * pairs.truth)
    counted = [
        sum(int(mine.argmax() != true.argmax()) for mine, true in zip(*problem, strict=True))
        for problem in zip(solution, pairs.truth, strict=True)
    ]
    assert 0 < sum(counted) < pairs.truth.sum()
    assert script.hamming(solution, pairs.truth).tolist() == counted


@pytest.mark.parametrize("shape", [(4, 16, 24), (2, 5, 5)])
def test_rows_and_columns_of_the_sinkhorn_output_sum_to_one(script, shape):
    scores = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table = script.log_sinkhorn(scores, rounds=500).exp()
    assert table.shape == (shape[0], shape[2], shape[2])
    for dim in (1, 2):
        torch.testing.assert_close(table.sum(dim=dim), torch.ones(shape[0], shape[2], dtype=torch.float64))


def test_the_sinkhorn_output_differs_from_the_scores_by_a_term_of_each_row_and_one_of_each_column(script):
    scores = torch.randn(6, 4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    terms = script.log_sinkhorn(scores) - torch.cat([scores, torch.zeros(6, 3, 7)], dim=1)
    torch.testing.assert_close(terms, terms[:, :, :1] + terms[:, :1] - terms[:, :1, :1])


@pytest.mark.parametrize(
    "method", ["identity, none, no margin", "identity, std, no margin", "blackbox, none, no margin"]
)
def test_right_matches_without_a_margin_leave_no_gradient(script, pairs, method):
    loss, gradient = loss_and_gradient(script, method, -1e-3 * pairs.truth, pairs.truth)
    assert loss == 0
    assert not gradient.any()


@pytest.mark.parametrize("method", ["identity, none, informed 0.1", "identity, none, noise 0.1"])
def test_a_margin_asks_for_costs_that_far_apart(script, pairs, method):
    loss, gradient = loss_and_gradient(script, method, -0.03 * pairs.truth, pairs.truth)
    assert loss > 0
    assert (gradient * pairs.truth).sum() > 0  # descent makes right matches cheaper
    loss, gradient = loss_and_gradient(script, method, -1.0 * pairs.truth, pairs.truth)
    assert loss == 0
    assert not gradient.any()


def test_the_informed_margin_works_in_training_only(script, pairs):
    flat = torch.zeros_like(pairs.truth)
    loss, _ = loss_and_gradient(script, "identity, none, informed 0.1", flat, pairs.truth)
    assert loss == pairs.truth.sum()  # every right match has been made dear

    def same_for_all(images, points):
        return torch.ones(*points.shape[:2], 3)

    accuracy, spread = script.measure(same_for_all, pairs)
    assert 0.01 < accuracy < 0.1  # chance is 1 in 24
    assert spread == 0


def test_taking_the_mean_off_does_nothing_to_the_gradient_of_the_loss(script, pairs, monkeypatch):
    monkeypatch.setitem(script.PROJECTIONS, "mean", whole(center))
    costs = torch.randn(pairs.truth.shape, generator=torch.Generator().manual_seed(0))
    (_, plain), (_, centred) = (
        loss_and_gradient(script, f"identity, {name}, no margin", costs, pairs.truth) for name in ("none", "mean")
    )
    assert plain.any()
    torch.testing.assert_close(plain, centred)


def test_the_code_on_the_page_is_that_of_the_script():
    page = (SCRIPT.parents[1] / "docs" / "graph_matching.md").read_text(encoding="utf-8")
    excerpt = page.split("```python\n")[1].split("```")[0]
    assert excerpt in SCRIPT.read_text(encoding="utf-8")


def test_the_pictures_of_the_page_are_there_and_small():
    docs = SCRIPT.parents[1] / "docs"
    names = re.findall(r"\((graph_matching\w+\.png)\)", (docs / "graph_matching.md").read_text(encoding="utf-8"))
    assert sorted(names) == sorted(path.name for path in docs.glob("graph_matching*.png"))
    assert all((docs / name).stat().st_size < 150_000 for name in names)
