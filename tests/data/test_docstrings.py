from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType

import retrieval.data.folder
from retrieval.data import docstrings
from retrieval.data.docstrings import docstring


def documented(function=None):
    """A decorator without an effect."""
    return function


def test_docstrings_that_python_oo_leaves_out_come_from_the_source(monkeypatch):
    @documented
    def work() -> None:
        """Does work.

        In two lines:
          this is the second.
        """

    for thing in (work, documented, docstrings, retrieval.data.folder):
        expected = inspect.getdoc(thing)
        assert docstring(thing) == expected
        with monkeypatch.context() as context:
            context.setattr(thing, "__doc__", None)
            assert docstring(thing) == expected


def test_without_a_docstring_or_a_source_there_is_no_text():
    def bare() -> None:
        pass

    assert docstring(bare) == ""
    module = ModuleType("made_up")
    module.__file__ = str(Path("nowhere") / "made_up.py")
    module.__doc__ = None
    assert docstring(module) == ""
