"""Bundles altered at random, opened and searched in another process: none crashes it, none changes what is found in silence."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A file is altered in one of five ways; in every second bundle the manifest is made to fit, as if on purpose.
PROGRAM = """
import hashlib, json, random, shutil, sys, tempfile, warnings
from pathlib import Path
import numpy as np
from retrieval.errors import RetrievalError
from retrieval.files import blocks
from retrieval.index import Index, editing
from retrieval.index.bundle import read_bundle
from retrieval.index.manifest import INDEX_FOLDER
from retrieval.index.writing import make_bundle, write_bundle
from retrieval.model.description import StoredModel

seed, count = int(sys.argv[1]), int(sys.argv[2])
blocks.BLOCK = int(sys.argv[3])  # with small ones, files are mapped and checked when they are used
rng, folder = random.Random(seed), Path(tempfile.mkdtemp())
vectors = np.random.default_rng(0).standard_normal((120, 8))
vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
kinds = ["exact", "IVF3,Flat", "HNSW4", "PQ2x1", "PCA4,IVF2,SQ8"]
found = {}

def outcome(path):
    bundle = read_bundle(path)
    hits = Index(bundle).search(vectors[7:30], k=4, exact=True)  # first, so that blocks are checked by a search
    index = bundle.approximate
    positions = index.search(vectors[:9], 5)[0].tolist() if index else None
    return [bundle.vectors.tobytes(), bundle.ids.tolist(), bundle.labels.tolist(), bundle.class_names, bundle.paths,
            bundle.model.description, bundle.model.weights, bundle.model.is_onnx, bundle.model_hash, bundle.thumbnails,
            positions, hits]

for kind in kinds:
    bundle = make_bundle(vectors=vectors, ids=np.arange(120), labels=np.arange(120) % 7,
        class_names=[f"class {i}" for i in range(7)], paths=[f"{i}.png" for i in range(120)],
        model=StoredModel({"a": 1}, bytes(99)), images_root="images", split="test", source={}, kind=kind,
        pictures=[b"picture %d" % i for i in range(120)])
    write_bundle(bundle, folder / kind)
    if len(kind) > 6:  # by some parts of a bundle that has grown
        editing.add(read_bundle(folder / kind), vectors[:9], ["new"] * 9, [f"new/{i}" for i in range(9)], [b"new"] * 9)
        editing.remove(read_bundle(folder / kind), np.arange(3, 125, 11))
    found[kind] = outcome(folder / kind)

def alter(content):
    content = bytearray(content)
    way = rng.randrange(5)
    place = rng.randrange(len(content))
    if way == 0:
        content[place] ^= 1 << rng.randrange(8)
    elif way == 1:
        content[place : place + 8] = rng.randbytes(8)
    elif way == 2:
        del content[place:]
    elif way == 3:
        content[place:place] = content[: rng.randrange(64)]
    else:
        header = rng.randrange(min(200, len(content)))
        content[header] = rng.choice([0, 1, 127, 128, 255])
    return bytes(content)

refused = same = forged = 0
for number in range(count):
    kind = rng.choice(kinds)
    path = folder / "altered"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(folder / kind, path)
    file = rng.choice(sorted(path.iterdir()))
    before = file.read_bytes()
    file.write_bytes(alter(before))
    fits = number % 2 and file.name != "manifest.json"
    if fits:
        facts = json.loads((folder / kind / "manifest.json").read_text())
        contents = {name: (path / name).read_bytes() for name in INDEX_FOLDER.files if (path / name).exists()}
        manifest = INDEX_FOLDER.text({key: facts[key] for key in (*INDEX_FOLDER.facts, "rows") if key in facts}, contents)
        (path / "manifest.json").write_bytes(manifest)
    print(number, kind, file.name, bool(fits), file=sys.stderr, flush=True)
    try:
        now = outcome(path)
    except RetrievalError as error:
        line = str(error)
        if "\\n" in line or not ("altered" in line or "approximate.faiss" in line):
            sys.exit(f"not one line that names the bundle: {line!r}")
        refused += 1
        continue
    if now == found[kind]:
        same += 1
    elif fits:
        forged += 1  # a bundle of other content, under a manifest that says so
    else:
        sys.exit(f"{file.name} of {kind} was altered, and that was not seen")
print(refused, same, forged)
shutil.rmtree(folder)
"""


def fuzz(seed: int, count: int, block: int, *options: str) -> list[int]:
    command = [sys.executable, *options, "-W", "error", "-c", PROGRAM, str(seed), str(count), str(block)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stderr[-1000:]
    refused, same, forged = map(int, done.stdout.split())
    assert refused + same + forged == count
    assert refused > count / 2
    return [refused, same, forged]


@pytest.mark.parametrize("block", [2**23, 256], ids=["files", "blocks"])
@pytest.mark.parametrize("options", [(), ("-O",)], ids=["", "without assertions"])
def test_no_altered_bundle_crashes_or_deceives(block, options):
    fuzz(0, 60, block, *options)


@pytest.mark.slow
@pytest.mark.parametrize("block", [2**23, 256], ids=["files", "blocks"])
def test_a_thousand_altered_bundles_neither_crash_nor_deceive(block):
    fuzz(1, 1000, block)
