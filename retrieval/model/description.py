"""The stored form of a model: a description, which is JSON, and weights.

    model.json          how to build the network and prepare an image
    model.safetensors   the weights of a timm network, or
    model.onnx          any other network as an ONNX file

A stored model may come from anyone. Its description is therefore checked against a list of keys, types and ranges before anything
is built, so that it can name neither code, nor a file, nor a download; and the ONNX file may use standard operators only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from retrieval.config.schema import LARGEST_DIMENSION, LARGEST_SIDE
from retrieval.data import Preprocessing
from retrieval.errors import brief, did_you_mean, reason_of
from retrieval.files.manifest import Files
from retrieval.model import onnx
from retrieval.networks import Embedder, check_name, create_embedder
from retrieval.networks.pooling import POOLINGS
from retrieval.training.checkpoint import not_finite
from retrieval.training.diagnosis import shorten

DESCRIPTION, WEIGHTS, ONNX = "model.json", "model.safetensors", "model.onnx"
MODEL_FILES = (DESCRIPTION, WEIGHTS, ONNX)

_LONGEST_NAME = 200  # characters of the name of a backbone; those of timm have at most 60


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A model as files hold it.

    Args:
        description: The content of model.json.
        weights: The content of model.safetensors or model.onnx.
        is_onnx: Whether `weights` is an ONNX file.
    """

    description: Mapping[str, Any]
    weights: bytes
    is_onnx: bool = False

    @classmethod
    def from_files(cls, files: Files) -> StoredModel | None:
        """The model in the files of a folder; None where it has none.

        Raises:
            ValueError: model.json is not a JSON object, or does not lie beside one file of weights.
        """
        if DESCRIPTION not in files:
            return None
        try:
            description = json.loads(files[DESCRIPTION].decode())
            json.dumps(description, allow_nan=False)  # JSON has neither NaN nor infinity, although Python reads them
        except (ValueError, RecursionError) as error:
            raise ValueError(f"is not valid JSON ({error})") from error
        if not isinstance(description, dict):
            raise ValueError(f"holds a {type(description).__name__}, expected a JSON object")
        if (WEIGHTS in files) == (ONNX in files):
            raise ValueError(f"lies beside {'both' if ONNX in files else 'none'} of {WEIGHTS} and {ONNX}, expected one")
        is_onnx = ONNX in files
        return cls(description, files[ONNX if is_onnx else WEIGHTS], is_onnx)

    def to_files(self) -> Files:
        """The content of the files."""
        text = json.dumps(self.description, indent=2, allow_nan=False).encode()
        return {DESCRIPTION: text, ONNX if self.is_onnx else WEIGHTS: self.weights}

    def fingerprint(self) -> str:
        """A sha256 over description and weights: equal for models whose vectors can be compared."""
        digests = [hashlib.sha256(content).hexdigest() for content in self.to_files().values()]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()

    def build(self, dimension: int | None = None) -> tuple[Any, Preprocessing]:
        """Builds the network.

        Args:
            dimension: The dimension that its vectors must have; None accepts any.

        Returns:
            A network from images (batch, 3, size, size) to vectors (batch, dim), and the preprocessing of its images.

        Raises:
            ValueError: The description is not one that this version can build, or the weights do not fit it.
            RetrievalError: The model is an ONNX file and the packages to run it are not installed.
        """
        options = check_description(self.description, is_onnx=self.is_onnx)
        preprocessing = options.pop("preprocessing")
        if self.is_onnx:
            network: Any = onnx.OnnxNetwork(self.weights, options["embedding_dim"])
            network.check(preprocessing.size)
        else:
            options = {"image_size": preprocessing.size, **options}
            weights = read_weights(self.weights)
            _require_fit(options, weights)
            network = create_embedder(**options)
            try:
                network.load_state_dict(weights)
            except RuntimeError as error:
                raise ValueError(f"its weights do not fit ({reason_of(error)})") from error
            require_finite(network)
            if options["image_size"] != preprocessing.size:
                _require_size(network, preprocessing.size)
        if dimension is not None and network.embedding_dim != dimension:
            raise ValueError(f"it makes vectors of {network.embedding_dim} numbers, expected {dimension}")
        return network, preprocessing


def check_description(description: Mapping[str, Any], *, is_onnx: bool) -> dict[str, Any]:
    """The checked options of a description, with its preprocessing as an object.

    Raises:
        ValueError: A key is unknown or missing, or a value is not allowed.
    """
    allowed = _ONNX_OPTIONS if is_onnx else _TIMM_OPTIONS
    for key, value in description.items():
        if key not in allowed:
            raise ValueError(f"it has an unknown key {brief(key)}{did_you_mean(str(key), allowed)}")
        if not allowed[key](value):
            raise ValueError(f"its {key} is {brief(value)}, which is not allowed")
    for key in ("preprocessing", "embedding_dim" if is_onnx else "backbone"):
        if key not in description:
            raise ValueError(f"it lacks the key {key!r}")
    preprocessing = Preprocessing.from_dict(description["preprocessing"])
    if preprocessing.resize > LARGEST_SIDE:
        raise ValueError(f"its preprocessing resizes to {preprocessing.resize} pixels, more than {LARGEST_SIDE}")
    return {**description, "preprocessing": preprocessing}


def require_finite(network: torch.nn.Module) -> None:
    """Checks the weights of a network. Its buffers may hold infinity, as masks do.

    Raises:
        ValueError: A weight is NaN or infinite.
    """
    if names := not_finite(dict(network.named_parameters())):
        raise ValueError(f"its weights hold NaN or infinity ({shorten(names)})")


def read_weights(content: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: It is none.
    """
    try:
        return load_tensors(content)
    except (SafetensorError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"its weights are no safetensors file ({reason_of(error)})") from error


def _require_fit(options: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    """Checks the weights against a network without memory: a few bytes of a description can ask for a network of any size."""
    try:
        with torch.device("meta"):
            expected = create_embedder(**options).state_dict()
    except (AssertionError, RuntimeError):  # a network that cannot be built without memory
        return
    for name in dict.fromkeys((*expected, *weights)):
        shapes = [tuple(tensors[name].shape) if name in tensors else "missing" for tensors in (weights, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"its weights do not fit ({brief(name, 200)} is {shapes[0]}, expected {shapes[1]})")


def _require_size(network: Embedder, size: int) -> None:
    """Checks that a network takes images of a size: a vision transformer takes only those of its own."""
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"it cannot take images of {size} x {size} pixels ({reason_of(error)})") from error


def _is_backbone(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME:
        return False
    check_name(value)  # a name of timm's list, not "hf-hub:..." or "local-dir:...", which timm would follow
    return True


def _is_number(largest: int, *, optional: bool = False) -> Callable[[Any], bool]:
    return lambda value: (optional and value is None) or (type(value) is int and 1 <= value <= largest)


_TIMM_OPTIONS: dict[str, Callable[[Any], bool]] = {
    "backbone": _is_backbone,
    "embedding_dim": _is_number(LARGEST_DIMENSION, optional=True),
    "image_size": _is_number(LARGEST_SIDE),
    "pooling": lambda value: value is None or (isinstance(value, str) and value in POOLINGS),
    "layer_norm": lambda value: isinstance(value, bool),
    "preprocessing": lambda value: isinstance(value, dict),
}
_ONNX_OPTIONS = {"embedding_dim": _is_number(LARGEST_DIMENSION), "preprocessing": _TIMM_OPTIONS["preprocessing"]}
