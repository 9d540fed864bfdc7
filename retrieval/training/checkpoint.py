"""Checkpoints: one safetensors file each, without pickle.

The state of a run is a tree of dicts and lists with tensors and plain values at its leaves. The tensors become the tensors of the
file, named by their place in the tree; everything else becomes JSON in the file's header, together with a digest of both,
since the format itself does not notice altered bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
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
    """Writes `state` atomically.

    Args:
        path: the file, e.g. `last.safetensors`.
        state: nested dicts and lists of tensors, numbers, strings, booleans and None. Tensors below the key "model" can be read by
            any safetensors reader as `model.<name>`.
        keep: another name in the folder, under which the checkpoint that is replaced goes on.

    Raises:
        RetrievalError: the disk is full or not writable; what was there is unchanged.
        TypeError: the state holds something else.
        ValueError: two tensors have the same place, as of the keys {"a": {"b": ...}, "a.b": ...}.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _take_tensors(state, "", tensors)
    text = json.dumps(skeleton, allow_nan=False)
    header = {"format": FORMAT, "state": text, "sha256": _digest(text, tensors)}
    write_bytes(path, save(tensors, metadata=header), keep=keep)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote, to the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with path.open("rb"):
            pass  # safetensors says of any file that it cannot open that there is none
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except PermissionError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); mend that, or use another one") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); use another checkpoint of the run"
        ) from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a checkpoint of a training run (format {header.get('format')!r}, expected {FORMAT!r})"
        )
    if _digest(header.get("state", ""), tensors) != header.get("sha256"):
        raise CheckpointError(
            f"{path}: its content was altered after it was written; use another checkpoint of the run"
        )
    state: dict[str, Any] = _put_tensors(json.loads(header["state"]), tensors)
    return state


def load_newest(*paths: Path) -> dict[str, Any]:
    """Reads the first of some checkpoints, newest first, that is whole; a warning says which were not.

    Raises:
        CheckpointError: none is; the message is that of the first.
    """
    errors = []
    for path in paths:
        try:
            state = load_checkpoint(path)
        except CheckpointError as error:
            errors.append(error)
            continue
        if errors:
            log.warning("%s; going on from %s, the one before", errors[0], path.name)
        return state
    raise errors[0]


def _take_tensors(tree: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Moves the tensors of a tree into `tensors` and leaves {"tensor": name} in their places."""
    if isinstance(tree, Tensor):
        if place in tensors:
            raise ValueError(f"{place}: two tensors of the state would have this name; rename a key")
        # Tied weights would share memory, which the format refuses: every place gets its own copy.
        tensors[place] = tree.detach().to("cpu", copy=True).contiguous()
        return {"tensor": place}
    if isinstance(tree, dict):
        # Keys may be integers (optimizers number their parameters), which JSON objects cannot hold.
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
