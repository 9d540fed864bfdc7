"""Checkpoints: safetensors files, without pickle.

The state of a run is a tree of dicts and lists. Its leaves are tensors and plain values. The tensors are stored as tensors of the
file, named by their path in the tree. Everything else is stored as JSON in the file's header. The header also has a digest of both,
because the format does not detect altered bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from retrieval.errors import CheckpointError
from retrieval.files import write_bytes

FORMAT = "retrieval-checkpoint-1"

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


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of `save_checkpoint` to the CPU.

    Raises:
        CheckpointError: The file is missing or damaged, or is not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with path.open("rb"):
            pass  # safetensors reports every file that it cannot open as missing
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except PermissionError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); change its permissions or use another checkpoint"
        ) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); use another checkpoint of the run"
        ) from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a checkpoint of a training run (format {header.get('format')!r}, expected {FORMAT!r})"
        )
    if _digest(header.get("state", ""), tensors) != header.get("sha256"):
        raise CheckpointError(f"{path}: the file was altered after it was written; use another checkpoint of the run")
    state: dict[str, Any] = _put_tensors(json.loads(header["state"]), tensors)
    return state


def not_finite(state: Any, place: str = "") -> list[str]:
    """The names of the tensors of a state that hold NaN or infinity."""
    if isinstance(state, Tensor):
        return [] if bool(state.isfinite().all()) else [place]
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    return [name for key, value in items for name in not_finite(value, f"{place}.{key}".lstrip("."))]


def load_newest(*paths: Path, check: Callable[[dict[str, Any]], str | None] = lambda state: None) -> dict[str, Any]:
    """Reads the newest checkpoint that can be used. Logs a warning if newer ones are missing, damaged or refused.

    Args:
        *paths: The checkpoints, newest first.
        check: A function that returns why a state cannot be used, or None if it can.

    Raises:
        CheckpointError: None of them can be used. The error is that of the newest one.
    """
    errors = []
    for path in paths:
        try:
            state = load_checkpoint(path)
            if reason := check(state):
                raise CheckpointError(f"{path}: {reason}")
        except CheckpointError as error:
            errors.append(error)
            continue
        if errors:
            log.warning("%s; continuing from the previous checkpoint %s", errors[0], path.name)
        return state
    raise errors[0]


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
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _put_tensors(value, tensors) for key, value in content}
    return [_put_tensors(value, tensors) for value in content]


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
