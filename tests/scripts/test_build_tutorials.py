"""Tests of the tutorials: they run, and their notebooks and pages are those of their sources."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("jupytext", reason="jupytext is not installed; it comes with the extra docs")
pytest.importorskip("nbclient", reason="nbclient is not installed; it comes with the extra docs")

import nbformat

ROOT = Path(__file__).resolve().parent.parent.parent
TUTORIALS = sorted(path.stem for path in (ROOT / "docs" / "tutorials").glob("*.py"))
NEEDS = {"loss_lightning": "lightning", "loss_trainer": "transformers"}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("build_tutorials", ROOT / "scripts" / "build_tutorials.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_tutorials():
    assert len(TUTORIALS) >= 7


@pytest.mark.parametrize("name", TUTORIALS)
def test_the_notebook_has_the_cells_of_its_source(script, name):
    pair = nbformat.read(script.FOLDER / f"{name}.ipynb", as_version=4)
    assert [(cell.cell_type, cell.source) for cell in pair.cells] == [
        (cell.cell_type, cell.source) for cell in script.read(name).cells
    ]
    assert not any(cell.get("outputs") for cell in pair.cells)


@pytest.mark.parametrize("name", TUTORIALS)
def test_the_page_has_the_code_of_its_source_and_no_error(script, name):
    page = (script.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    for cell in script.read(name).cells:
        for line in cell.source.splitlines():
            if line.strip() and line.strip() != "%%bash":
                assert line in page
    assert "Traceback" not in page
    for picture in re.findall(r"\]\(([^)]*\.png)\)", page):
        assert (script.FOLDER / picture).exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_runs(script, name, tmp_path):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed; it comes with the extra docs")
    notebook = script.read(name)
    script.run(notebook)
    script.write(name, notebook, tmp_path)
    assert (tmp_path / f"{name}.md").stat().st_size > 500
