"""Alters bundles at random, opens and searches them."""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import RetrievalError
from retrieval.index import Index, editing
from retrieval.index.bundle import read_bundle
from retrieval.index.manifest import INDEX_FOLDER
from retrieval.index.writing import make_bundle, write_bundle
from retrieval.model.description import StoredModel

KINDS = ("exact", "IVF3,Flat", "HNSW4", "PQ2x1", "PCA4,IVF2,SQ8")
VECTORS = np.random.default_rng(0).standard_normal((120, 8))
VECTORS = (VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)).astype(np.float32)


def write(folder: Path, kind: str) -> None:
    """Writes a bundle; some of them have grown and lost items."""
    bundle = make_bundle(
        vectors=VECTORS,
        ids=np.arange(120),
        labels=np.arange(120) % 7,
        class_names=[f"class {i}" for i in range(7)],
        paths=[f"{i}.png" for i in range(120)],
        model=StoredModel({"a": 1}, bytes(99)),
        images_root="images",
        split="test",
        source={},
        kind=kind,
        pictures=[b"picture %d" % i for i in range(120)],
    )
    write_bundle(bundle, folder)
    if len(kind) > 6:
        editing.add(read_bundle(folder), VECTORS[:9], ["new"] * 9, [f"new/{i}" for i in range(9)], [b"new"] * 9)
        editing.remove(read_bundle(folder), np.arange(3, 125, 11))


def outcome(folder: Path) -> list[Any]:
    """All that a bundle holds, and what is found in it."""
    bundle = read_bundle(folder)
    hits = Index(bundle).search(VECTORS[7:30], k=4, exact=True)  # first, so that blocks are checked by a search
    index = bundle.approximate
    positions = index.search(VECTORS[:9], 5)[0].tolist() if index else None
    return [
        *(bundle.vectors.tobytes(), bundle.ids.tolist(), bundle.labels.tolist(), bundle.class_names, bundle.paths),
        *(bundle.model.description, bundle.model.weights, bundle.model.is_onnx, bundle.model_hash, bundle.thumbnails),
        *(positions, hits),
    ]


def alter(content: bytes, rng: random.Random) -> bytes:
    """A file with one of five changes."""
    changed = bytearray(content)
    way, place = rng.randrange(5), rng.randrange(len(changed))
    if way == 0:
        changed[place] ^= 1 << rng.randrange(8)
    elif way == 1:
        changed[place : place + 8] = rng.randbytes(8)
    elif way == 2:
        del changed[place:]
    elif way == 3:
        changed[place:place] = changed[: rng.randrange(64)]
    else:
        changed[rng.randrange(min(200, len(changed)))] = rng.choice([0, 1, 127, 128, 255])
    return bytes(changed)


def fit(folder: Path, facts: dict[str, Any]) -> None:
    """Makes the manifest fit the files, as if they were altered on purpose."""
    contents = {name: (folder / name).read_bytes() for name in INDEX_FOLDER.files if (folder / name).exists()}
    kept = {key: facts[key] for key in (*INDEX_FOLDER.facts, "rows") if key in facts}
    (folder / "manifest.json").write_bytes(INDEX_FOLDER.text(kept, contents))


def alter_bundles(seed: int, count: int) -> tuple[int, int, int]:
    """Alters so many bundles, every second one with a manifest that fits.

    Returns:
        How many were refused, are as they were, and have other content under a manifest that says so.

    Raises:
        RuntimeError: One was altered, and that was not seen, or it was not refused in one line that names the bundle.
    """
    rng, refused, same, forged = random.Random(seed), 0, 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for kind in KINDS:
            write(folder / kind, kind)
        found = {kind: outcome(folder / kind) for kind in KINDS}
        for number in range(count):
            kind, path = rng.choice(KINDS), folder / "altered"
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(folder / kind, path)
            file = rng.choice(sorted(path.iterdir()))
            file.write_bytes(alter(file.read_bytes(), rng))
            fits = number % 2 and file.name != "manifest.json"
            if fits:
                fit(path, json.loads((folder / kind / "manifest.json").read_text()))
            sys.stderr.write(f"{number} {kind} {file.name} {bool(fits)}\n")  # the last one, if it crashes
            try:
                now = outcome(path)
            except RetrievalError as error:
                line = str(error)
                if "\n" in line or not ("altered" in line or "approximate.faiss" in line):
                    raise RuntimeError(f"not one line that names the bundle: {line!r}") from error
                refused += 1
                continue
            if now == found[kind]:
                same += 1
            elif fits:
                forged += 1
            else:
                raise RuntimeError(f"{file.name} of {kind} was altered, and that was not seen")
    return refused, same, forged
