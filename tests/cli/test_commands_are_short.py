"""A command parses, calls a door of the library, and prints: it is short, and knows no file inside a run or an index."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from retrieval import cli
from retrieval.files.manifest import MANIFEST
from retrieval.model.places import INDEX_FOLDER, MODEL_FOLDER
from retrieval.training.run_folder import FILES

SOURCES = sorted(Path(cli.__file__).parent.glob("*.py"))
TREES = {file.name: ast.parse(file.read_text(encoding="utf-8")) for file in SOURCES}
DOORS = {"config", "data", "errors", "index", "model", "runs", "serving"}
TEXTS = {"retrieval.files.cells", "retrieval.files.control"}  # how a text is printed; they know no file


def commands() -> dict[str, ast.FunctionDef]:
    """The functions that click calls, by file and name."""
    return {
        f"{file} {node.name}": node
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and any("command" in ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list)
    }


def without_docstring(function: ast.FunctionDef) -> list[ast.stmt]:
    return function.body[1:] if ast.get_docstring(function) else function.body


@pytest.mark.parametrize("name", commands())
def test_the_body_of_a_command_has_at_most_twenty_lines(name):
    body = without_docstring(commands()[name])
    assert body[-1].end_lineno - body[0].lineno < 20


@pytest.mark.parametrize("file", TREES)
def test_the_command_line_imports_the_doors_of_the_library_only(file):
    imported = {
        node.module.split(".")[1]
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("retrieval.")
        if node.module not in TEXTS
    }
    assert imported <= DOORS


@pytest.mark.parametrize("file", TREES)
def test_the_command_line_names_no_file_of_a_run_or_an_index(file):
    names = {MANIFEST, *FILES, *INDEX_FOLDER.files, *MODEL_FOLDER.files, "labels.csv", "paths.csv"}
    strings = {node.value for node in ast.walk(TREES[file]) if isinstance(node, ast.Constant)}
    assert not strings & names
