"""Checkpoints: safetensors files, without pickle.

The state of a run is a tree of dicts and lists. Its leaves are tensors and plain values. The tensors are stored as tensors of the
file, named by their path in the tree. Everything else is stored as JSON in the file's header. The header also has a digest of both,
because the format does not detect altered bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from retrieval.errors import CheckpointError, brief, reason_of
from retrieval.files import open_file, write_bytes

FORMAT = "retrieval-checkpoint-1"

# The parts of the state of a run, and their types.
PARTS: dict[str, type] = {
    **{"model": dict, "loss": dict, "optimizer": dict, "scaler": dict, "step": int, "seed": int, "losses": list},
    **{"rows": list, "results": dict},
}
_REMEDY = "use another checkpoint of the run"
# What torch, json and a walk through the state raise on values of other kinds.
_MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

log = logging.getLogger("retrieval")


def save_checkpoint(path: str | Path, state: dict[str, Any], *, keep: Path | None = None) -> None:
    """Writes a checkpoint atomically.

    Args:
        path: The file, e.g. `last.safetensors`.
        state: Nested dicts and lists of tensors, numbers, strings, booleans and None. Any safetensors reader can read the tensors
            below the key "model", as `model.<name>`.
        keep: A second path in the same folder. The previous checkpoint is kept there.

    Raises:
        RetrievalError: The disk is full or not writable. A previous checkpoint is unchanged.
        TypeError: The state holds a value of another type.
        ValueError: Two tensors have the same name in the file, e.g. for the keys {"a": {"b": ...}, "a.b": ...}.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _take_tensors(state, "", tensors)
    text = json.dumps(skeleton, allow_nan=False)
    header = {"format": FORMAT, "state": text, "sha256": _digest(text, tensors)}
    write_bytes(path, save(tensors, metadata=header), keep=keep)


def load_checkpoint(path: str | Path, needs: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a checkpoint of `save_checkpoint` to the CPU.

    Args:
        path: The file.
        needs: Keys of `PARTS` that the state must have.

    Raises:
        CheckpointError: The file is missing or damaged, is not a checkpoint, or lacks a part or has another type of it.
    """
    path = Path(path)
    try:
        with open_file(path):  # safetensors reports every file that it cannot open as missing
            pass
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if header.get("format") != FORMAT:
            raise CheckpointError(
                f"{path}: not a checkpoint of a training run (format {brief(header.get('format'))}, expected {FORMAT!r})"
            )
        if _digest(header.get("state", ""), tensors) != header.get("sha256"):
            raise CheckpointError(f"{path}: the file was altered after it was written; {_REMEDY}")
        state = _put_tensors(json.loads(header["state"]), tensors)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); mend that, or {_REMEDY}") from error
    except (SafetensorError, *_MISFITS) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({reason_of(error)}); {_REMEDY}") from error
    _check_parts(path, state, needs)
    return state


def not_finite(state: Any, place: str = "") -> list[str]:
    """The names of the tensors of a state that hold NaN or infinity."""
    if isinstance(state, Tensor):
        return [] if bool(state.isfinite().all()) else [place]
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    return [name for key, value in items for name in not_finite(value, f"{place}.{key}".lstrip("."))]


def load_newest(
    *paths: Path, needs: Iterable[str] = (), check: Callable[[dict[str, Any]], str | None] = lambda state: None
) -> dict[str, Any]:
    """Reads the newest checkpoint that can be used. Logs a warning if newer ones are missing, damaged or refused.

    Args:
        *paths: The checkpoints, newest first.
        needs: See `load_checkpoint`.
        check: A function that returns why a state cannot be used, or None if it can.

    Raises:
        CheckpointError: None of them can be used. The error is that of the newest one.
    """
    errors: list[CheckpointError] = []
    refused = ""
    for path in paths:
        try:
            state = load_checkpoint(path, needs)
            if reason := check(state):
                refused = refused or reason
                raise CheckpointError(f"{path}: {reason}")
        except CheckpointError as error:
            errors.append(error)
            continue
        if errors:
            log.warning("%s; continuing from the previous checkpoint %s", errors[0], path.name)
        return state
    raise CheckpointError(f"{errors[0]}; no other checkpoint can be used: start a new run") if refused else errors[0]


@contextlib.contextmanager
def restoring(path: Path) -> Iterator[None]:
    """A block that restores parts of a run from a checkpoint.

    Args:
        path: The file, for messages.

    Raises:
        CheckpointError: The block raises an error, because the state is that of other parts.
    """
    try:
        yield
    except _MISFITS as error:
        raise CheckpointError(
            f"{path}: its state is not that of this run ({type(error).__name__}: {reason_of(error)}); {_REMEDY}"
        ) from error


def _take_tensors(tree: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Copies the tensors of a tree into `tensors`. Returns the tree with {"tensor": name} in place of each tensor."""
    if isinstance(tree, Tensor):
        if place in tensors:
            raise ValueError(f"{place}: two tensors of the state have this name; rename a key")
        # The format refuses tensors that share memory, as tied weights do. Therefore each tensor is copied.
        tensors[place] = tree.detach().to("cpu", copy=True).contiguous()
        return {"tensor": place}
    if isinstance(tree, dict):
        # JSON objects cannot have integer keys, which optimizers use for their parameters.
        return {
            "dict": [[key, _take_tensors(value, f"{place}.{key}".lstrip("."), tensors)] for key, value in tree.items()]
        }
    if isinstance(tree, (list, tuple)):
        return {"list": [_take_tensors(value, f"{place}.{i}".lstrip("."), tensors) for i, value in enumerate(tree)]}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise TypeError(f"{place}: a {type(tree).__name__} cannot be stored; use tensors and plain values")


def _put_tensors(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree of `_take_tensors` with its tensors.

    Raises:
        LookupError, TypeError, ValueError, RecursionError: It is not such a tree.
    """
    if not isinstance(tree, dict):
        if isinstance(tree, list) or (isinstance(tree, float) and not math.isfinite(tree)):
            raise ValueError(f"{brief(tree)} is not a value of a state")
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _put_tensors(value, tensors) for key, value in content}
    if kind == "list":
        return [_put_tensors(value, tensors) for value in content]
    raise ValueError(f"{brief(kind)} is not a kind of a state")


def _check_parts(path: Path, state: Any, needs: Iterable[str]) -> None:
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: its state is {brief(state)}, expected parts by name; {_REMEDY}")
    for key in needs:
        if type(state.get(key)) is not PARTS[key] or (PARTS[key] is int and state[key] < 0):
            raise CheckpointError(
                f"{path}: its {key} is {brief(state.get(key))}, expected a value of type {PARTS[key].__name__}; {_REMEDY}"
            )


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
