from __future__ import annotations

import csv
import importlib
import re
import subprocess
import sys
from itertools import combinations
from math import log
from pathlib import Path

import pytest
import torch
from torch.autograd.functional import jacobian

from retrieval.solvers import standardize, top_k

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "discrete_sampler.py"


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("discrete_sampler")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SHORT = "--steps", "3", "--seeds", "2"


def tables_in(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The table and the curves of a run, which has drawn its pictures, too."""
    tables = []
    for name in ("discrete_sampler", "discrete_sampler_curves"):
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    for name in ("curves", "images"):
        assert (folder / f"discrete_sampler_{name}.png").read_bytes().startswith(b"\x89PNG")
    return tables[0], tables[1]


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> tuple[str, list[dict[str, str]], list[dict[str, str]]]:
    """What a short run in a process of its own prints, its table and its curves."""
    folder = tmp_path_factory.mktemp("short")
    command = [sys.executable, "-W", "error", str(SCRIPT), "--out", str(folder), *SHORT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout, *tables_in(folder)


def passed(script, name: str, scores: torch.Tensor, incoming: torch.Tensor) -> torch.Tensor:
    """The gradient that a method lets through to the scores."""
    scores = scores.clone().requires_grad_()
    script.sample(scores, **script.METHODS[name][1]).backward(incoming)
    return scores.grad


def test_every_method_takes_exactly_the_ten_highest_of_twenty(script):
    scores = 5 * torch.randn(3, 20, 20, generator=seeded())
    for _, passing in script.METHODS.values():
        subsets = script.sample(scores, **passing)
        assert torch.equal(subsets, top_k(scores, 10))
        assert subsets.sum(dim=-1).eq(10).all()


def test_each_method_passes_the_gradient_of_its_formula(script):
    scores, incoming = torch.randn(2, 20, generator=seeded(), dtype=torch.float64).unbind()
    scores = 4 * scores

    def straight_through(temperature: float) -> torch.Tensor:
        probabilities = (scores / temperature).softmax(dim=0)
        return 10 / temperature * probabilities * (incoming - probabilities @ incoming)

    moved = top_k(scores - script.TAU * incoming, 10)
    expected = {
        "identity + std": jacobian(standardize, scores).T @ incoming,
        "identity without projection": incoming,
        "blackbox (I-MLE)": (top_k(scores, 10) - moved) / script.TAU,
        "straight-through softmax": straight_through(10.0),
        "straight-through Gumbel-softmax": straight_through(1.0),
    }
    assert expected.keys() == script.METHODS.keys()
    assert expected["blackbox (I-MLE)"].any()
    for name, gradient in expected.items():
        torch.testing.assert_close(passed(script, name, scores, incoming), gradient)


def test_the_softmax_divergence_is_its_sum(script):
    logits = 3 * torch.randn(2, 3, 4, generator=seeded(), dtype=torch.float64)
    expected = 0.0
    for row in logits.reshape(-1, 4).softmax(dim=-1).tolist():
        expected += sum(p * log(p / (1 / 4)) for p in row) / 2
    assert script.softmax_divergence(logits).item() == pytest.approx(expected)
    assert script.softmax_divergence(torch.ones(2, 3, 4)).item() == pytest.approx(0, abs=1e-6)


def all_subsets(size: int, k: int) -> torch.Tensor:
    return torch.tensor([[float(entry in chosen) for entry in range(size)] for chosen in combinations(range(size), k)])


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["gamma", "gumbel"])
def test_the_probabilities_of_subsets_are_their_frequencies(script, noise):
    subsets, logits = all_subsets(6, 3), torch.tensor([0.3, -1.0, 0.0, 1.5, -0.4, 0.7])
    law = script.law(noise)
    probabilities = law.log_probability(subsets, logits.expand(20, 6)).exp()
    assert probabilities.sum().item() == pytest.approx(1, abs=2e-3)
    scores = logits + script.NOISES[noise](torch.empty(200_000, 6), generator=seeded(1))
    drawn = top_k(scores, 3)
    frequencies = (drawn @ subsets.T).eq(3).double().mean(dim=0)
    torch.testing.assert_close(probabilities, frequencies, atol=4e-3, rtol=0)
    assert probabilities.max() > 2 * probabilities.min()


@pytest.mark.parametrize(("logit", "share", "tolerance"), [(0.0, 0.0, 0.05), (1e5, 1.0, 1e-6)])
def test_the_divergence_of_the_sampler_is_nothing_for_equal_logits_and_all_for_certain_ones(
    script, logit, share, tolerance
):
    logits = torch.cat([torch.full((5, 20, 10), logit), torch.zeros(5, 20, 10)], dim=-1)
    noise = script.draw_noises(5, seeded(2))["gamma"]
    most = 20 * log(184_756)  # the number of 10-subsets of 20
    found = script.law("gamma").divergence(top_k(logits + noise, 10), logits)
    assert found / most == pytest.approx(share, abs=tolerance)


@pytest.mark.slow
def test_the_drawings_of_omniglot_become_small_binary_images(script, omniglot_root):
    images = script.read_images(str(omniglot_root))
    assert images.shape == (19_280, 784)
    assert set(images.unique().tolist()) == {0, 1}
    assert 0.05 < images.mean().item() < 0.1  # ink is 1


@pytest.mark.slow
def test_a_short_run_reports_the_intervals_of_every_method(short):
    printed, table, curves = short
    methods = [row["method"] for row in table]
    assert len(methods) == 5
    assert len(curves) == 5 * 2 * 3
    for row in table:
        assert f"| {row['method']} | {float(row['reconstruction']):.1f} ±" in printed
        assert float(row["negative ELBO"]) == pytest.approx(
            float(row["reconstruction"]) + float(row["softmax KL"]), abs=0.02
        )
        last = [float(one["bound"]) for one in curves if one["method"] == row["method"] and one["bound"]]
        assert float(row["bound"]) == pytest.approx(sum(last) / 2, abs=0.01)
        # Student's t of one degree of freedom; the standard error of two values is half their distance
        assert float(row["bound ±"]) == pytest.approx(12.706 * abs(last[0] - last[1]) / 2, abs=0.02)


@pytest.mark.slow
def test_a_run_repeats(script, short, tmp_path, call_main):
    assert (call_main(script, "--out", tmp_path, *SHORT), *tables_in(tmp_path)) == short


@pytest.mark.slow
def test_without_a_projection_the_quick_run_pays_more_for_its_latent(script, tmp_path, monkeypatch, call_main):
    compared = "identity without projection", "identity + std"
    monkeypatch.setattr(script, "METHODS", {name: script.METHODS[name] for name in compared})
    call_main(script, "--out", tmp_path, "--quick")
    without, projected = tables_in(tmp_path)[0]
    for key in ("softmax KL", "negative ELBO", "bound"):
        assert float(without[key]) > float(projected[key]) + 0.3


def test_the_page_shows_code_and_methods_of_the_script(script):
    page = (SCRIPT.parents[1] / "docs" / "discrete_sampler.md").read_text(encoding="utf-8")
    (excerpt,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert excerpt in SCRIPT.read_text(encoding="utf-8")
    for name in script.METHODS:
        assert page.count(f"\n| {name} |") == 2  # what it is, and what came out
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", page):
        assert (SCRIPT.parents[1] / "docs" / picture).is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", str(SCRIPT.parent)], "images_background"),
        (["--seeds", "0"], "0 seeds of 1300 steps"),
        (["--quick", "--seeds", "0"], "0 seeds of 120 steps"),
        (["--steps", "0"], "3 seeds of 0 steps"),
        (["--out", __file__], f"--out: {__file__}: File exists"),
    ],
)
def test_what_cannot_be_run_is_an_error_of_one_line(script, arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "train", lambda *_: pytest.fail("not reached"))
    monkeypatch.setattr(sys, "argv", ["discrete_sampler.py", "--out", str(tmp_path / "out"), *arguments])
    with pytest.raises(SystemExit) as error:
        script.main()
    assert error.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("discrete_sampler.py: error: ")
    assert says in last
    assert not (tmp_path / "out").exists()
