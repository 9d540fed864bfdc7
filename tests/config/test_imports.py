from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from retrieval.config import load
from retrieval.config.check import check
from retrieval.config.imports import import_object, is_import_path, require_trusted
from retrieval.errors import CheckpointError, ConfigError

CODE = """
from torch import nn

SIZE = 3

class MyLoss(nn.Module):
    pass

def build(width=4):
    return nn.Linear(width, width)
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty current folder; modules that are imported from it are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def refusal(path: str) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        import_object(path)
    return str(caught.value)


def test_a_name_with_a_colon_is_an_import_path():
    assert is_import_path("my_losses:MyLoss")
    assert is_import_path("folder/my_losses.py:MyLoss")
    assert not is_import_path("triplet")


def test_a_module_in_the_current_folder_is_imported_though_the_folder_is_not_on_the_search_path(here, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(here))])
    (here / "my_module_here.py").write_text(CODE)
    loss = import_object("my_module_here:MyLoss")
    assert (loss.__name__, loss.__module__) == ("MyLoss", "my_module_here")
    assert import_object("my_module_here:build")(2).in_features == 2


def test_the_current_folder_hides_no_installed_module(here):
    (here / "json.py").write_text("def loads(text): return 'mine'")
    assert import_object("json:loads")("1") == 1


def test_a_file_is_imported_by_a_relative_and_by_an_absolute_path(here):
    (here / "code").mkdir()
    (here / "code" / "my_file.py").write_text(CODE)
    relative = import_object("code/my_file.py:MyLoss")
    assert relative is import_object(f"{here}/code/my_file.py:MyLoss")
    assert relative.__name__ == "MyLoss"


def test_two_files_of_the_same_name_are_two_modules(here):
    for folder in ("a", "b"):
        (here / folder).mkdir()
        (here / folder / "same.py").write_text(f"def name(): return {folder!r}")
    assert [import_object(f"{folder}/same.py:name")() for folder in ("a", "b")] == ["a", "b"]


def test_a_module_of_a_package_is_imported(here):
    (here / "my_package_here").mkdir()
    (here / "my_package_here" / "__init__.py").write_text("")
    (here / "my_package_here" / "losses.py").write_text(CODE)
    assert import_object("my_package_here.losses:MyLoss").__module__ == "my_package_here.losses"
    assert import_object("torch.nn:Linear").__name__ == "Linear"


def test_a_file_and_a_module_may_import_their_siblings(here):
    (here / "code").mkdir()
    (here / "code" / "sibling_of_mine.py").write_text("def name(): return 'sibling'")
    (here / "code" / "main_of_mine.py").write_text("from sibling_of_mine import name")
    assert import_object("code/main_of_mine.py:name")() == "sibling"
    (here / "cousin_of_mine.py").write_text("def name(): return 'cousin'")
    (here / "module_of_mine.py").write_text("from cousin_of_mine import name")
    assert import_object("module_of_mine:name")() == "cousin"


def test_a_dataclass_of_a_file_can_be_made(here):
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Log:\n    every: int = 1\n"
    (here / "with_dataclass.py").write_text(text)
    assert import_object("with_dataclass.py:Log")(every=2).every == 2


def test_missing_modules_files_and_names_are_one_line_each(here):
    (here / "my_mistakes.py").write_text(CODE)
    assert refusal("no_such_module:x") == f"there is no module 'no_such_module', neither installed nor in {here}"
    assert refusal("no_such.sub_module:x").startswith("there is no module 'no_such.sub_module', neither installed")
    assert refusal("no_such.py:x") == "no_such.py: no such file"
    assert refusal("my_mistakes:MyLos") == "my_mistakes has no 'MyLos'; did you mean MyLoss?"
    assert refusal("my_mistakes.py:MyLos") == "my_mistakes.py has no 'MyLos'; did you mean MyLoss?"
    assert refusal("my_mistakes:") == "my_mistakes has no ''"
    assert refusal("my_mistakes:MyLoss.__init__") == "my_mistakes has no 'MyLoss.__init__'; did you mean MyLoss?"
    assert refusal("my_mistakes:SIZE") == "my_mistakes:SIZE is of type int; give a class or a function"


@pytest.mark.parametrize("path", [":MyLoss", ".sibling:MyLoss", "..:x", "a b:c", "my/folder:x", ".py:x", " :x"])
def test_odd_import_paths_are_one_line_each(here, path):
    assert refusal(path)


def test_a_file_without_a_name_is_answered_with_the_names_in_it_and_is_not_run(here):
    (here / "my_nets.py").write_text(f"raise AssertionError('it must not run')\nclass _Hidden: pass\n{CODE}")
    names = "did you mean my_nets.py:MyLoss or my_nets.py:build?"
    assert refusal("my_nets.py") == f"my_nets.py names no class or function; {names}"
    (here / "my own.py").write_text("def build(): pass")
    assert refusal("my own.py") == "my own.py names no class or function; did you mean 'my own.py:build'?"
    (here / "broken.py").write_text("def f(:")
    for path in ("no_such.py", "broken.py"):
        assert refusal(path) == f"{path} names no class or function; give {path}:name"


@pytest.mark.parametrize(
    ("override", "section"),
    [
        ("data.name=my_nets.py", "data"),
        ("model.backbone=my_nets.py", "model"),
        ("loss.name=my_nets.py", "loss"),
        ("loss={name: triplet, miner: my_nets.py}", "loss"),
        ("training.optimizer=my_nets.py", "training.optimizer"),
        ("training.callbacks=[my_nets.py]", "training.callbacks: my_nets.py"),
    ],
)
def test_a_configuration_that_names_a_file_only_gets_a_suggestion(here, override, section):
    (here / "my_nets.py").write_text(CODE)
    with pytest.raises(ConfigError) as caught:
        check(load("glyphs", [override]))
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"{section}: my_nets.py names no class or function; did you mean my_nets.py:MyLoss or ")


def test_an_error_while_a_module_is_imported_is_one_line_with_its_type(here):
    (here / "broken_of_mine.py").write_text("import a_package_that_is_missing")
    expected = "cannot be imported (ModuleNotFoundError: No module named 'a_package_that_is_missing')"
    assert refusal("broken_of_mine.py:x") == f"broken_of_mine.py: {expected}"
    assert "No module named 'a_package_that_is_missing'" in refusal("broken_of_mine:x")
    (here / "syntax_of_mine.py").write_text("def f(:\n")
    for path in ("syntax_of_mine.py:x", "syntax_of_mine:x"):
        assert "cannot be imported (SyntaxError: " in refusal(path)
    (here / "raising_of_mine.py").write_text("raise RuntimeError('two\\nlines')")
    for path in ("raising_of_mine.py:x", "raising_of_mine:x"):
        assert "cannot be imported (RuntimeError: two lines)" in refusal(path)


def test_a_file_that_failed_is_imported_again_after_it_was_mended(here):
    file = here / "mended_of_mine.py"
    file.write_text("raise RuntimeError('not yet')")
    refusal("mended_of_mine.py:name")
    file.write_text("def name(): return 'mended'")
    assert import_object("mended_of_mine.py:name")() == "mended"


@pytest.mark.parametrize(
    ("override", "section"),
    [
        ("data.name=no_such_module:read", "data"),
        ("model.backbone=no_such_module:build", "model"),
        ("loss.name=no_such_module:MyLoss", "loss"),
        ("loss={terms: [{name: recall}, {name: triplet, miner: 'no_such_module:Miner'}]}", "loss.terms.1"),
        ("training.optimizer=no_such_module:Lion", "training.optimizer"),
        ("training.callbacks=['no_such_module:Log']", "training.callbacks"),
    ],
)
def test_a_mistake_is_one_line_that_begins_with_its_section(here, override, section):
    overrides = [override] if override.startswith(("data", "model")) else ["model.pretrained=false", override]
    with pytest.raises(ConfigError) as caught:
        check(load("glyphs", overrides))
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"{section}: ")
    assert "there is no module 'no_such_module'" in mistake


# Code that the configuration of a run may name --------------------------------------------------------------------------------


@pytest.fixture
def run(here) -> Path:
    """A folder of a run, with a module in it, beside modules of the user."""
    folder = here / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "code_of_somebody.py").write_text("raise AssertionError('it must not run')")
    (here / "code_of_somebody.py").write_text("def x(): pass\nfrom shutil import rmtree\n")
    (here / "package_of_mine").mkdir()
    (here / "package_of_mine" / "__init__.py").write_text("def x(): pass\n")
    (here / "package_of_mine" / "losses.py").write_text("def x(): pass\n")
    return folder


def test_code_in_the_users_own_files_is_trusted(run):
    paths = ["code_of_somebody:x", "code_of_somebody.py:x", "package_of_mine:x", "package_of_mine.losses:x"]
    require_trusted([*paths, f"{run.parent.parent}/code_of_somebody.py:x"], run)


def test_code_that_the_users_file_only_imports_is_refused(run):
    with pytest.raises(CheckpointError, match=r"not in a file of yours \(code_of_somebody:rmtree\)"):
        require_trusted(["code_of_somebody:rmtree"], run)


def test_no_module_runs_if_one_path_is_refused(run):
    Path("code_that_stays.py").write_text("raise AssertionError('it must not run')")
    with pytest.raises(CheckpointError, match=r"\(os:system\)"):
        require_trusted(["code_that_stays:x", "os:system"], run)


@pytest.mark.parametrize(
    "path",
    [
        *("shutil:rmtree", "os:system", "os.path:join", "builtins:eval", "sys:exit", "subprocess:run"),
        *("torch:load", "torch.hub:load", "numpy:load", "no_such_module:x", ":x", ".:x", "..losses:x"),
        *("runs/run/code_of_somebody.py:x", "./runs/../runs/run/code_of_somebody.py:x", f"{os.__file__}:system"),
    ],
)
def test_code_of_a_library_or_inside_the_folder_of_the_run_is_refused(run, path):
    with pytest.raises(CheckpointError) as caught:
        require_trusted([path], run)
    assert str(caught.value) == (
        f"{run}: its config.yaml names code that is not in a file of yours ({path}); "
        "if you trust this run, set the environment variable RETRIEVAL_TRUST_CODE=1"
    )


def test_a_link_to_code_inside_the_folder_of_the_run_is_refused(run):
    Path("link.py").symlink_to(run / "code_of_somebody.py")
    with pytest.raises(CheckpointError, match=r"\(link.py:x\)"):
        require_trusted(["link.py:x"], run)


def test_modules_in_the_folder_of_a_run_are_refused_from_inside_it(run, monkeypatch):
    monkeypatch.chdir(run)
    for path in ("code_of_somebody:x", "code_of_somebody.py:x"):
        with pytest.raises(CheckpointError, match="not in a file of yours"):
            require_trusted([path], Path())


def test_one_path_that_is_not_trusted_is_enough(run):
    with pytest.raises(CheckpointError, match=r"\(os:system\)"):
        require_trusted(["code_of_somebody:x", "os:system"], run)


@pytest.mark.parametrize(("value", "accepts"), [("1", True), ("0", False), ("", False), ("yes", False)])
def test_an_environment_variable_accepts_all_code(run, monkeypatch, value, accepts):
    monkeypatch.setenv("RETRIEVAL_TRUST_CODE", value)
    if accepts:
        require_trusted(["os:system"], run)
    else:
        with pytest.raises(CheckpointError):
            require_trusted(["os:system"], run)
