"""Objects by import path: `package.module:name`, or `file.py:name`.

An import path runs the code that it names. It is therefore only accepted where the user has written it: on the command line, in
Python, or in a configuration file. Bundles, checkpoints and saved models never name code. The configuration inside the folder of
a run may name the code that the run was trained with; `require_trusted` keeps such a folder from naming anything else.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import shlex
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from retrieval.errors import CheckpointError, RetrievalError, did_you_mean, reason_of
from retrieval.files import read_text

TRUST = "RETRIEVAL_TRUST_CODE"  # an environment variable: 1 accepts any code that a run names


def is_import_path(name: str) -> bool:
    """Whether a name is an import path, such as `my_losses:MyLoss`, or the file of one, and not a word of this package."""
    return ":" in name or name.endswith(".py")


def absolute(name: str) -> str:
    """A name with the absolute path of the file that it names, if it is an import path such as `file.py:name`."""
    file, _, rest = name.rpartition(":")
    return f"{Path(file).expanduser().resolve()}:{rest}" if file.endswith(".py") else name


def import_object(path: str) -> Callable[..., Any]:
    """The class or function that an import path names.

    Modules are looked for where Python looks for them, and in the current folder.

    Args:
        path: `package.module:name` or `file.py:name`.

    Raises:
        ValueError: There is no such module, file or name, the module raises an error, or the object cannot be called.
    """
    if path.endswith(".py"):
        raise ValueError(f"{path} names no class or function{_definitions(Path(path))}")
    module_name, _, name = path.rpartition(":")
    module = _module_of_file(Path(module_name)) if module_name.endswith(".py") else _module(module_name)
    if not name.isidentifier() or not hasattr(module, name):
        public = [key for key in vars(module) if not key.startswith("_")]
        raise ValueError(f"{module_name} has no {name!r}{did_you_mean(name, public)}")
    value: Any = getattr(module, name)
    if not callable(value):
        raise ValueError(f"{path} is of type {type(value).__name__}; give a class or a function")
    return value


def call_object(path: str, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    """Calls a class or function of the user.

    Args:
        path: Its import path, for messages.
        function: The class or function.
        args: Positional arguments.
        options: Keyword arguments.

    Raises:
        ValueError: It raises an error that is not one of this package; the message has its type and text.
    """
    try:
        return function(*args, **options)
    except RetrievalError:
        raise
    except Exception as error:
        raise ValueError(f"{path} raises {type(error).__name__}: {reason_of(error)}") from error


def require_trusted(paths: Iterable[str], folder: Path) -> None:
    """Checks that code named by the configuration in a run's folder is code of the user.

    The code must be neither inside the folder, which may come from elsewhere, nor part of Python or an installed package, whose
    functions were not written to be called with the options of a configuration. It must be defined there, not only imported.

    Args:
        paths: The import paths.
        folder: The folder of the run.

    Raises:
        CheckpointError: The code is not the user's; the environment variable `RETRIEVAL_TRUST_CODE=1` accepts it.
        ValueError: The user's code cannot be imported.
    """
    if os.environ.get(TRUST) == "1":
        return
    foreign = [folder.resolve(), Path(__file__).resolve().parents[1], *_library_folders()]
    paths = list(paths)
    # First the modules, which are not run before all of them are the user's own; then the objects in them.
    for source_of in (_module_file, _definition_file):
        for path in paths:
            file = source_of(path)
            if file is None or any(file.is_relative_to(parent) for parent in foreign):
                raise CheckpointError(
                    f"{folder}: its config.yaml names code that is not in a file of yours ({path}); "
                    f"if you trust this run, set the environment variable {TRUST}=1"
                )


def _module(name: str) -> ModuleType:
    _make_importable(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ValueError(f"there is no module {name!r}, neither installed nor in {Path.cwd()}") from error
        raise ValueError(f"module {name!r} cannot be imported ({reason_of(error)})") from error
    except Exception as error:
        raise ValueError(f"module {name!r} cannot be imported ({type(error).__name__}: {reason_of(error)})") from error


def _module_of_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    resolved = file.resolve()
    _make_importable(resolved.parent)
    name = resolved.stem
    if _file_of(name) != resolved:  # another module has this name
        name += f"_{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    # Under its own name where possible, so that data workers can import it again.
    spec = importlib.util.spec_from_file_location(name, resolved)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: pickle and dataclasses look for it there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{file}: cannot be imported ({type(error).__name__}: {reason_of(error)})") from error
    return module


def _definitions(file: Path) -> str:
    """A hint of the public classes and functions in a file, which does not run, ready to append."""
    try:
        parts = ast.parse(read_text(file)).body
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):  # the last two of deep expressions
        parts = []
    names = [part.name for part in parts if isinstance(part, (ast.ClassDef, ast.FunctionDef)) and part.name[0] != "_"]
    paths = [shlex.quote(f"{file}:{name}") for name in names[:5]]
    return f"; did you mean {' or '.join(paths)}?" if paths else f"; give {file}:name"


def _make_importable(folder: Path) -> None:
    """Puts a folder at the end of the search path: the console command does not have the current folder on it."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _module_file(path: str) -> Path | None:
    """The file of the module that an import path names, without running it; None for a builtin one."""
    return _file_of(path.rpartition(":")[0])


def _definition_file(path: str) -> Path | None:
    """The file that defines the object that an import path names, which a module may only have imported."""
    module = sys.modules.get(str(getattr(import_object(path), "__module__", "")))
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).resolve()


def _file_of(module: str) -> Path | None:
    """The file of a module, without running it; None for a builtin one."""
    if module.endswith(".py"):
        return Path(module).resolve()
    _make_importable(Path.cwd())
    top = module.partition(".")[0]  # looking for a submodule would import its parents
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    origins = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    return next((Path(origin).resolve() for origin in origins if origin and Path(origin).exists()), None)


def _library_folders() -> list[Path]:
    names = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders = [*names, *site.getsitepackages(), site.getusersitepackages()]
    return [Path(folder).resolve() for folder in dict.fromkeys(folders) if folder]
