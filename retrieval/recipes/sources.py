"""What a command works on: the model of a run or an index, and images of a split, a folder or a list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from retrieval.building import build_model, build_preprocessing, describe_model, load_embedder, pick_device
from retrieval.config import Config, load
from retrieval.data import ImageSet, Preprocessing
from retrieval.data.csv_list import read_list
from retrieval.data.entry import image_sets
from retrieval.data.folder import SUFFIXES
from retrieval.data.image_set import require_portable, require_utf_8
from retrieval.errors import CheckpointError, ConfigError, DatasetError, reason_of
from retrieval.index import Bundle, read_bundle
from retrieval.index.manifest import MANIFEST
from retrieval.models import Embedder
from retrieval.training import RunFolder, load_checkpoint


@dataclass(frozen=True)
class Source:
    """A trained model and all that belongs to it.

    Args:
        model: on the CPU, or where `to` has put it.
        preprocessing: how an image becomes its input.
        description: what an index says of it.
        weights: the content of its weights file.
        config: of the run; of an index the defaults.
        facts: where it comes from, for the manifest of an index.
    """

    model: Embedder
    preprocessing: Preprocessing
    description: dict[str, Any]
    weights: bytes
    config: Config
    facts: dict[str, Any]


def read_source(folder: str | Path, *, checkpoint: str = "last") -> Source:
    """The model of a training run or of an index.

    Args:
        folder: of either.
        checkpoint: of a run: "last", or "best" by the validation classes.

    Raises:
        RetrievalError: it is neither, or its files do not fit together.
    """
    if (Path(folder) / MANIFEST).exists():
        return source_of(read_bundle(folder))
    run = RunFolder(folder)
    run.require()
    config = load(run.config)
    model = build_model(config, pretrained=False)
    state = _state_of(run, checkpoint)
    weights = _trained_weights(state)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder}: its config.yaml and its checkpoint are of different models ({reason_of(error)}); train again"
        ) from error
    preprocessing = build_preprocessing(config, model)
    facts = {"dataset": config.data.name, "checkpoint": checkpoint, "step": state["step"]}
    return Source(model, preprocessing, describe_model(model, preprocessing), save_tensors(weights), config, facts)


def weights_of(run: RunFolder, checkpoint: str) -> bytes | None:
    """The content of the weights file that an index of a run's checkpoint has now; None where the run has no such checkpoint.

    Raises:
        CheckpointError: it is damaged.
    """
    files = (run.last, run.previous) if checkpoint == "last" else (run.best,)
    return save_tensors(_trained_weights(_state_of(run, checkpoint))) if any(file.exists() for file in files) else None


def source_of(bundle: Bundle) -> Source:
    """The model of an index."""
    model, preprocessing = load_embedder(bundle)
    assert bundle.model is not None
    facts = {key: value for key, value in bundle.manifest["source"].items() if key in ("dataset", "checkpoint", "step")}
    return Source(model, preprocessing, bundle.model, bundle.weights(), Config(), facts)


def device_of(source: Source, name: str | None) -> torch.device:
    """The device of that name; None for the one of the run's configuration."""
    return pick_device(source.config.device if name is None else name)


def images_in(folder: str | Path) -> ImageSet:
    """All images below a folder, at any depth; the class of each is the folder directly below it, "." outside of one.

    Raises:
        DatasetError: it does not exist or holds no image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DatasetError(f"{root}: is no folder; give the one that holds the images")
    paths = sorted(_image_paths(root))
    if not paths:
        raise DatasetError(f"{root}: holds no images; expected files *{{{','.join(sorted(SUFFIXES))}}}")
    return _image_set(root, paths)


def images_of(places: Iterable[str | Path]) -> list[Path]:
    """The image files that are named, and those below the folders that are named, in order.

    Raises:
        DatasetError: there is no such file or folder, a folder holds no image, or a name is no UTF-8.
    """
    files: list[Path] = []
    for place in map(Path, places):
        if not place.exists():
            raise DatasetError(f"{place}: does not exist; give an image, or a folder of images")
        files += [place / path for path in images_in(place).paths] if place.is_dir() else [place]
    for file in files:
        require_utf_8(file)
    return files


def folder_class(path: str) -> str:
    """The class of an image by its path below the root: the folder directly below it, "." outside of one."""
    return path.partition("/")[0] if "/" in path else "."


def listed_images(file: str | Path, root: str | Path | None = None) -> ImageSet:
    """The images of a CSV list with the columns path and label; paths start from `root`, by default the list's own folder.

    Raises:
        DatasetError: the list is missing or malformed, or an image does not exist.
    """
    file = Path(file)
    splits = read_list(file)
    entries = [entry for part in splits.values() for entry in part]
    advice = "mend the list, or give the folder that its paths start from with --root"
    return image_sets(Path(root) if root else file.parent, {"listed": entries}, advice=advice)["listed"]


def below(root: str | Path, files: Iterable[Path]) -> ImageSet:
    """Image files as paths below a root; the class of each is the folder directly below the root.

    Raises:
        ConfigError: a file lies elsewhere.
    """
    top = Path(root).resolve()
    paths = []
    for file in files:
        place = file.resolve()
        if not place.is_relative_to(top):
            raise ConfigError(
                f"{file}: does not lie below {root}, where the images of the index are; give that with --root"
            )
        paths.append(place.relative_to(top).as_posix())
    return _image_set(top, list(dict.fromkeys(paths)))


def load_weights(source: Source) -> dict[str, torch.Tensor]:
    """The weights of a source as tensors."""
    return load_tensors(source.weights)


def _image_set(root: Path, paths: Iterable[str]) -> ImageSet:
    pairs = []
    for path in paths:
        require_portable(root, path)
        pairs.append((path, folder_class(path)))
    return ImageSet.from_pairs(root, pairs)


def _image_paths(root: Path) -> Iterable[str]:
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in parts) and path.is_file():
            yield "/".join(parts)


def _state_of(run: RunFolder, checkpoint: str) -> dict[str, Any]:
    return run.load_last() if checkpoint == "last" else load_checkpoint(run.best)


def _trained_weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Of a checkpoint the weights that are measured: the average, where the run kept one."""
    if not state.get("average"):
        return dict(state["model"])
    return {name.removeprefix("module."): tensor for name, tensor in state["average"].items()}
