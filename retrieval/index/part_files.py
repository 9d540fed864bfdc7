"""Parts of an index as files: each holds the vectors of some images, and says what it was made of.

    parts/model.json, model.safetensors     the model, or model.onnx for another network than one of timm
    parts/part-00001-of-00128.safetensors   vectors, paths and classes of part 1

A part is written atomically. It holds a digest of its content, and a key of the model and the images that it was made of.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from retrieval.errors import ConfigError, IndexFormatError, reason_of
from retrieval.files import read_file, write_bytes
from retrieval.index.shares import Part
from retrieval.model.description import DESCRIPTION, MODEL_FILES, StoredModel
from retrieval.model.places import check_source

SUFFIX = ".safetensors"
_FORMAT = "retrieval part 1"
_NAME = re.compile(rf"part-(\d+)-of-(\d+){re.escape(SUFFIX)}")
_MISSING = 5  # parts that a message names
_LARGEST = 2**20  # bytes of model.json


@dataclass(frozen=True, eq=False)
class PartFile:
    """The content of a part.

    Args:
        part: Which part it is.
        vectors: (count, dim) float32 unit vectors.
        paths: The path of every image, relative to `root`.
        classes: The class of every image.
        root: The folder of the images.
        model: The fingerprint of the model.
        whole: A digest of what all parts are parts of, and of how they are embedded.
        key: A digest of the images of this part, and of how they are embedded.
        source: Where the model comes from, and the "precision" of the vectors; see `retrieval.model.precision.measure`.
    """

    part: Part
    vectors: np.ndarray
    paths: tuple[str, ...]
    classes: tuple[str, ...]
    root: str
    model: str
    whole: str
    key: str
    source: Mapping[str, Any]


def part_name(part: Part) -> str:
    """The name of the file of a part."""
    return f"part-{part.number:05}-of-{part.count:05}{SUFFIX}"


def part_files(folder: Path) -> list[Path]:
    """The files of parts in a folder, in order."""
    return sorted(
        path for path in folder.glob(f"*{SUFFIX}") if path.name not in MODEL_FILES and not path.name.startswith(".")
    )


def write_part(folder: Path, content: PartFile) -> Path:
    """Writes a part.

    Raises:
        RetrievalError: It cannot be written.
    """
    items = json.dumps({"paths": content.paths, "classes": content.classes}).encode()
    tensors = {"vectors": np.ascontiguousarray(content.vectors), "items": np.frombuffer(items, dtype=np.uint8)}
    facts = {
        "format": _FORMAT,
        "number": content.part.number,
        "count": content.part.count,
        "root": content.root,
        "model": content.model,
    }
    facts |= {"whole": content.whole, "key": content.key, "source": dict(content.source)}
    facts["digest"] = _digest(facts, tensors)
    path = folder / part_name(content.part)
    write_bytes(path, save(tensors, {"facts": json.dumps(facts, allow_nan=False)}))
    return path


def read_part(path: Path) -> PartFile:
    """Reads a part, and checks that it is whole and has its own name.

    Raises:
        IndexFormatError: It is not a part, it is damaged, or it has the name of another part.
    """
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        with safe_open(path, framework="np") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            if facts.get("format") != _FORMAT:
                raise ValueError("it is not a part that `retrieval embed --part` has written")
            tensors = {name: file.get_tensor(name) for name in ("vectors", "items")}
        if _digest(facts, tensors) != facts["digest"]:
            raise ValueError("it has been altered")
        items = json.loads(tensors["items"].tobytes())
        vectors, paths, classes = tensors["vectors"], items["paths"], items["classes"]
        texts = ("root", "model", "whole", "key")
        fits = vectors.dtype == np.float32 and vectors.ndim == 2 and len(vectors) == len(paths) == len(classes) > 0
        if not fits or not all(isinstance(facts[name], str) for name in texts):
            raise ValueError("its vectors, paths and classes do not go together")
        check_source(facts["source"])
        part = Part(int(facts["number"]), int(facts["count"]))
        names = tuple(map(str, paths)), tuple(map(str, classes))
        content = PartFile(part, vectors, *names, **{name: facts[name] for name in (*texts, "source")})
    except (
        OSError,
        SafetensorError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        ConfigError,
    ) as error:
        raise IndexFormatError(
            f"{path}: cannot be used ({reason_of(error)}); remove it and embed this part again"
        ) from error
    if path.name != part_name(part):
        raise IndexFormatError(f"{path}: is part {part}, so its name is {part_name(part)}; remove it, or rename it")
    return content


def read_parts(folder: Path) -> list[PartFile]:
    """All parts in a folder, in order.

    Raises:
        IndexFormatError: A part is missing, damaged, of other images or of another model, or there twice.
    """
    files = part_files(folder)
    if not files:
        raise IndexFormatError(
            f"{folder}: holds no parts; make them with `retrieval embed MODEL IMAGES --part 1/1 --out {folder}`"
        )
    counts = require_one_count(folder)
    parts = [read_part(path) for path in files]
    first = parts[0]
    for path, part in zip(files, parts, strict=True):
        different = [name for name in ("model", "whole", "root") if getattr(part, name) != getattr(first, name)]
        if different or part.vectors.shape[1] != first.vectors.shape[1]:
            what = {"model": "by another model", "root": "in another folder"}.get(
                (different or [""])[0], "of other images, or in another way"
            )
            raise IndexFormatError(f"{path}: was made {what} than {files[0].name}; remove it and embed this part again")
    missing = sorted(set(range(1, counts + 1)) - {part.part.number for part in parts})
    if missing:
        named = ", ".join(map(str, missing[:_MISSING])) + (", ..." if len(missing) > _MISSING else "")
        raise IndexFormatError(
            f"{folder}: lacks {len(missing)} of {counts} parts ({named}); run `retrieval embed --part {missing[0]}/{counts}` "
            "and so on, as for the others"
        )
    return parts


def require_one_count(folder: Path) -> int:
    """The number of parts that the files of a folder are of; 0 without files.

    Raises:
        IndexFormatError: They are of several numbers of parts, or have other names.
    """
    counts: dict[int, Path] = {}
    for path in part_files(folder):
        found = _NAME.fullmatch(path.name)
        if not found:
            raise IndexFormatError(f"{path}: is not a part (part-00001-of-00008{SUFFIX}); remove it from this folder")
        counts.setdefault(int(found[2]), path)
    if len(counts) > 1:
        one, other = list(counts)[:2]
        raise IndexFormatError(
            f"{folder}: holds parts of {one} and of {other}; remove one kind, such as {counts[other].name}"
        )
    return next(iter(counts), 0)


def write_model(folder: Path, model: StoredModel) -> None:
    """Writes the model of the parts of a folder, unless it is there. Any number of processes may do so at a time.

    Raises:
        IndexFormatError: The folder has another model.
        RetrievalError: It cannot be written.
    """
    if (folder / DESCRIPTION).exists():
        if read_model(folder).fingerprint() != model.fingerprint():
            raise IndexFormatError(f"{folder}: holds parts by another model; choose another folder")
        return
    for name, content in reversed(model.to_files().items()):  # the description last: with it, the model is whole
        write_bytes(folder / name, content)


def read_model(folder: Path) -> StoredModel:
    """The model of the parts of a folder.

    Raises:
        IndexFormatError: There is none, or it is damaged.
    """
    try:
        names = [name for name in MODEL_FILES if (folder / name).is_file()]
        files = {name: read_file(folder / name, _LARGEST if name == DESCRIPTION else None) for name in names}
        stored = StoredModel.from_files(files)
    except (OSError, ValueError) as error:
        raise IndexFormatError(f"{folder / DESCRIPTION}: {reason_of(error)}; embed the parts again") from error
    if stored is None:
        raise IndexFormatError(f"{folder}: has no {DESCRIPTION}; embed the parts again")
    return stored


def digest_of(values: Mapping[str, Any]) -> str:
    """A sha256 over values of JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def class_labels(classes: Iterable[str], order: Sequence[str]) -> np.ndarray:
    """(count,) The label of every class name: its place in `order`."""
    label_of = {name: label for label, name in enumerate(order)}
    return np.array([label_of[name] for name in classes], dtype=np.int64)


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """A sha256 of the tensors and the facts, but for the digest itself."""
    others = {name: value for name, value in facts.items() if name != "digest"}
    content = hashlib.sha256(json.dumps(others, sort_keys=True).encode())
    for name in ("vectors", "items"):
        content.update(str(tensors[name].shape).encode())
        content.update(np.ascontiguousarray(tensors[name]).data)
    return content.hexdigest()
