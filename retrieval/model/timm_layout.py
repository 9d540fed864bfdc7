"""The weights of a model in the form that timm reads, so that one file serves both loaders.

    config.json         the network and its preprocessing, in the words of timm
    model.safetensors   the weights by the names of timm; the head is its classifier
    head.safetensors    pooling, norm and head, where timm's classifier cannot hold them

In the first case timm's output is the vector before normalisation; in the second, timm alone gives the features of the backbone.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save as save_tensors
from timm.models import get_pretrained_cfg
from torch import Tensor
from torch.nn import functional

from retrieval.data import Preprocessing
from retrieval.files.manifest import Files
from retrieval.model.description import WEIGHTS, StoredModel, read_weights

CONFIG, HEAD = "config.json", "head.safetensors"

_BACKBONE, _HEAD = "backbone.", "head."
_PROBES = 2  # images of noise that the two loaders are compared by

Weights = dict[str, Tensor]


def split(stored: StoredModel) -> Files:
    """The files of a timm network for timm.

    They are loaded once with timm alone and compared: the head becomes timm's classifier only if the vectors are then the same
    bit for bit.

    Raises:
        ValueError: The model cannot be built.
    """
    weights = read_weights(stored.weights)
    backbone = {name.removeprefix(_BACKBONE): value for name, value in weights.items() if name.startswith(_BACKBONE)}
    rest = {name: value for name, value in weights.items() if not name.startswith(_BACKBONE)}
    classifier = classifier_of(stored.description)
    if classifier is not None and all(name.startswith(_HEAD) for name in rest):
        renamed = {f"{classifier}.{name.removeprefix(_HEAD)}": value for name, value in rest.items()}
        if not renamed.keys() & backbone.keys():
            files = _files(stored, backbone | renamed, num_classes=stored.description["embedding_dim"] or 0)
            if join(stored.description, files) == stored.weights and _agree(stored, files):
                return files
    files = _files(stored, backbone, num_classes=0)
    return {**files, HEAD: save_tensors(rest)} if rest else files


def join(description: Mapping[str, Any], files: Files) -> bytes:
    """The weights as `StoredModel` holds them: the inverse of `split`.

    Raises:
        ValueError: A file is no safetensors file, or a name occurs twice.
    """
    weights, rest = read_weights(files[WEIGHTS]), read_weights(files[HEAD]) if HEAD in files else {}
    classifier = None if HEAD in files else classifier_of(description)
    named: Weights = {}
    for name, value in weights.items():
        kind = name.removeprefix(f"{classifier}.") if classifier else name
        own = _HEAD + kind if kind != name and description.get("embedding_dim") else _BACKBONE + name
        named[own] = value
    if twice := named.keys() & rest.keys():
        raise ValueError(f"{sorted(twice)[0]} is in two files of weights")
    return save_tensors(named | rest)


def gives_vectors(files: Files) -> bool:
    """Whether timm alone makes the vectors of these files, up to their length."""
    return CONFIG in files and HEAD not in files


def classifier_of(description: Mapping[str, Any]) -> str | None:
    """The name of timm's classifier that holds the head; None where it cannot. It comes from timm, not from a repository."""
    if description.get("pooling") is not None or description.get("layer_norm", False):
        return None
    name = get_pretrained_cfg(description["backbone"]).classifier
    return name if isinstance(name, str) else None


def _files(stored: StoredModel, weights: Weights, *, num_classes: int) -> Files:
    text = json.dumps(_config(stored.description, num_classes), indent=2, allow_nan=False)
    return {WEIGHTS: save_tensors(weights), CONFIG: f"{text}\n".encode()}


def _config(description: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """The content of config.json."""
    backbone = description["backbone"]
    pretrained, image = get_pretrained_cfg(backbone), Preprocessing.from_dict(description["preprocessing"])
    config: dict[str, Any] = {
        "architecture": backbone.partition(".")[0],
        "num_classes": num_classes,
        "pretrained_cfg": {
            "num_classes": num_classes,
            "input_size": [3, image.size, image.size],
            "fixed_input_size": bool(pretrained.fixed_input_size),
            "interpolation": image.interpolation,
            "crop_pct": _crop_share(image),
            "crop_mode": "center",
            "mean": list(image.mean),
            "std": list(image.std),
            "first_conv": pretrained.first_conv,
            "classifier": pretrained.classifier,
        },
    }
    if pretrained.fixed_input_size:
        config["model_args"] = {"img_size": description.get("image_size", image.size)}
    return config


def _crop_share(image: Preprocessing) -> float:
    """The share that timm turns into the side before the crop, which it rounds down."""
    share = image.size / image.resize
    while math.floor(image.size / share) < image.resize:
        share = math.nextafter(share, 0)
    return share


def _agree(stored: StoredModel, files: Files) -> bool:
    """Whether timm alone, given these files, makes the vectors of the model bit for bit, in the same layout of the memory."""
    network, preprocessing = stored.build()
    shape = (_PROBES, 3, preprocessing.size, preprocessing.size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        try:
            vectors = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(images)
        except (AssertionError, RuntimeError, ValueError, TypeError, KeyError, AttributeError):
            return False
        same = vectors.shape == (_PROBES, network.embedding_dim)
        network.eval().to(memory_format=torch.contiguous_format)  # as timm makes it; another layout rounds otherwise
        return same and torch.equal(functional.normalize(vectors, dim=1), network(images))
