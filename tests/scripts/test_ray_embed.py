"""The example with Ray Data; actors are killed among the parts, and others take their work over."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from model.networks import draw_folder, timm_model
from numpy.testing import assert_allclose

from retrieval.index import Index

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason='Ray is not installed: python -m pip install "ray[data]"'
    ),
]

PROGRAM = """
import os, sys
from pathlib import Path
import ray, ray_embed

class Killed(ray_embed.Worker):
    # Dies once at each of two parts: before the work on one, and after that on the other.
    def __call__(self, batch):
        number = int(batch["id"][0])
        mark = Path(self.out).with_name(f"killed-{number}")
        dies = number in (1, 4) and not mark.exists()
        if dies:
            mark.touch()
        if dies and number == 1:
            os.kill(os.getpid(), 9)
        done = super().__call__(batch)
        if dies:
            os.kill(os.getpid(), 9)
        return done

model, images, out = sys.argv[1:]
ray_embed.Worker = Killed
ray.init(num_cpus=4, include_dashboard=False)
made = ray_embed.embed(model, [images], out, parts=6, actors=2)
print("embedded", len({part["file"] for part in made}), sum(part["images"] for part in made))
"""


def test_two_actors_that_are_killed_are_restarted_and_every_part_is_made_once(tmp_path):
    photos = draw_folder(tmp_path / "photos", 4, 4)
    timm_model().save(tmp_path / "model")
    places = [str(tmp_path / "model"), str(photos), str(tmp_path / "parts")]
    paths = os.pathsep.join([str(EXAMPLES), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *places],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "embedded 6 16" in run.stdout
    assert (tmp_path / "killed-1").exists()
    assert (tmp_path / "killed-4").exists()
    index = Index.from_parts(tmp_path / "parts")
    whole = Index.build(timm_model(), photos)
    assert index.paths == whole.paths
    assert_allclose(index.vectors, whole.vectors, atol=1e-5)
