"""What an index or a run holds, for other programs: vectors as .npy, the model as ONNX."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retrieval import evaluation
from retrieval.building import pick_device
from retrieval.data import load_image, prepare
from retrieval.errors import RetrievalError
from retrieval.files import folder_in_one_piece, require_only, write_bytes
from retrieval.index import read_bundle
from retrieval.models import Embedder
from retrieval.recipes.arrays import write_arrays
from retrieval.recipes.outputs import claim_file, require_free_file, require_free_folder
from retrieval.recipes.search import embed_files
from retrieval.recipes.sources import images_of, read_source

MISSING = (
    "ONNX needs packages that are not installed ({name}); install them with: python -m pip install 'retrieval[onnx]'"
)
TOLERANCE = 1e-4
_PROBES = 16  # images of noise, where there are no real ones


def export_vectors(index: str | Path, out: str | Path, *, overwrite: bool = False) -> int:
    """Writes vectors.npy and labels.csv (id, label, path) of an index into a new folder; returns how many vectors.

    `index_vectors` makes the same index of them again, without its model.
    """
    require_free_folder(out, overwrite, _require_exported)
    bundle = read_bundle(index)
    table = {"id": bundle.ids.tolist(), "label": list(bundle.class_names), "path": list(bundle.paths)}
    with folder_in_one_piece(out, overwrite=overwrite, check=_require_exported) as folder:
        write_arrays(folder, bundle.vectors, table)
    return len(bundle.ids)


def embed_to_files(
    source: str | Path,
    places: Sequence[str | Path],
    out: str | Path,
    *,
    checkpoint: str = "last",
    device: str = "auto",
    overwrite: bool = False,
) -> int:
    """Embeds images with the model of a run or an index, and writes vectors.npy and paths.csv; returns how many.

    Args:
        source: folder of the run or the index.
        places: image files, and folders of them.
        out: the new folder.
        checkpoint: of a run: "last" or "best".
        device: where to compute.
        overwrite: replace such files that are there.
    """
    require_free_folder(out, overwrite, _require_exported)
    found = read_source(source, checkpoint=checkpoint)
    found.model.to(pick_device(device))
    files = images_of(places)
    with folder_in_one_piece(out, overwrite=overwrite, check=_require_exported) as folder:
        write_arrays(folder, embed_files(found, files), {"path": list(map(str, files))}, name="paths.csv")
    return len(files)


def export_onnx(
    source: str | Path,
    out: str | Path,
    *,
    images: Sequence[str | Path] = (),
    checkpoint: str = "last",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes the model of a run or an index as ONNX: "images" (batch, 3, size, size) float32 to unit "vectors" (batch, dim).

    The file is written only if onnxruntime makes the same of some images as torch does: to 1e-4, with the same neighbours of each
    among the others. How an image becomes the input stands in the file's metadata, under "preprocessing", as JSON.

    Args:
        source: folder of the run or the index.
        out: the file.
        images: image files and folders to compare by; noise if there are none.
        checkpoint: of a run: "last" or "best".
        overwrite: replace a file that is there.

    Returns:
        "largest_difference" of a component, "images" compared, and the "opset".

    Raises:
        RetrievalError: packages are missing, the model cannot be exported, or the results differ.
    """
    _require_packages()
    require_free_file(out, overwrite)
    found = read_source(source, checkpoint=checkpoint)
    model = found.model.eval()
    files = images_of(images)
    size = found.preprocessing.size
    if files:
        inputs = torch.stack([torch.from_numpy(prepare(load_image(file), found.preprocessing)) for file in files])
    else:
        inputs = torch.randn(_PROBES, 3, size, size, generator=torch.Generator().manual_seed(0))
    content, opset = _onnx(model, size, found.preprocessing.to_dict())
    report = _compare(content, model, inputs)
    claim_file(out, overwrite)
    write_bytes(out, content)
    return {**report, "images": len(inputs), "opset": opset}


def _require_exported(folder: Path) -> None:
    require_only(folder, ("vectors.npy", "labels.csv", "paths.csv"), "exported vectors")


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RetrievalError(MISSING.format(name=error.name)) from error


def _onnx(model: Embedder, size: int, preprocessing: dict[str, Any]) -> tuple[bytes, int]:
    """The content of the file and the version of its operators."""
    model = model.cpu().to(memory_format=torch.contiguous_format)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what there is to say about the file, the comparison says
            program = torch.onnx.export(
                model,
                (torch.zeros(2, 3, size, size),),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["vectors"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
        assert program is not None
        proto = program.model_proto
        proto.metadata_props.add(key="preprocessing", value=json.dumps(preprocessing))
        return proto.SerializeToString(), proto.opset_import[0].version
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RetrievalError(f"this model cannot be exported as ONNX ({reason})") from error


def _compare(content: bytes, model: Embedder, inputs: torch.Tensor) -> dict[str, float]:
    """The largest difference between onnxruntime and torch, if it is small enough and the neighbours are the same."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    theirs, ours = [], []
    with torch.inference_mode():
        for image in inputs.split(8):
            theirs.append(session.run(None, {"images": image.numpy()})[0])
            ours.append(model(image).numpy())
    vectors, expected = np.concatenate(theirs), np.concatenate(ours)
    largest = float(np.abs(vectors - expected).max())
    if not largest <= TOLERANCE:
        raise RetrievalError(
            f"onnxruntime's vectors differ from torch's by {largest:.2g}, more than {TOLERANCE:g}; nothing was written"
        )
    _require_same_neighbours(vectors, expected)
    return {"largest_difference": largest}


def _require_same_neighbours(vectors: np.ndarray, expected: np.ndarray, k: int = 10) -> None:
    """Checks that each vector has the same neighbours among the others, but for those that torch itself has nearly equal."""
    own = np.arange(len(expected))
    k = min(k, len(expected) - 1)
    if k < 1:
        return
    found, wanted = (evaluation.search(part, part, k, query_ids=own) for part in (vectors, expected))
    for i, (theirs, ours) in enumerate(zip(found.ids, wanted.ids, strict=True)):
        gaps = np.abs(expected[ours] @ expected[i] - expected[theirs] @ expected[i])
        if (gaps > 2 * TOLERANCE).any():
            raise RetrievalError(f"onnxruntime finds other neighbours of image {i} than torch; nothing was written")
