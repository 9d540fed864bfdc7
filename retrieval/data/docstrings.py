"""Docstrings that are shown to users, also under `python -OO`, which leaves them out of the compiled code."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any


def docstring(thing: ModuleType | Callable[..., Any]) -> str:
    """The docstring of a module or function, without its indentation; "" if it has none."""
    if thing.__doc__ is not None:
        return inspect.cleandoc(thing.__doc__)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except OSError:  # the source is not installed
        return ""
    node = tree if inspect.ismodule(thing) else tree.body[0]
    assert isinstance(node, (ast.Module, ast.FunctionDef))
    return ast.get_docstring(node) or ""
