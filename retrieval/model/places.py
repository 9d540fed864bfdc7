"""The folders that a model is loaded from: a training run, an index, or a saved model."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from retrieval.config import Config
from retrieval.config.imports import is_import_path, require_trusted
from retrieval.config.network import build_network, build_preprocessing, own_network
from retrieval.config.reading import load_of_run
from retrieval.data import Preprocessing
from retrieval.errors import CheckpointError, ConfigError, IndexFormatError, brief, reason_of
from retrieval.files import require_only
from retrieval.files.manifest import MANIFEST, FolderKind
from retrieval.model.description import DESCRIPTION, MODEL_FILES, StoredModel, require_finite
from retrieval.model.precision import check_cost
from retrieval.training import RunFolder, load_checkpoint

log = logging.getLogger("retrieval")

_SOURCE = {"dataset": str, "checkpoint": str, "step": int, "vectors": str, "labels": str, "runtime": str}


def check_source(source: Mapping[str, Any]) -> None:
    """Checks the values of a source that are printed.

    Raises:
        ValueError: One is of another type; the message names it.
    """
    for key, type_ in _SOURCE.items():
        if key in source and type(source[key]) is not type_:
            raise ValueError(f"source.{key} is {brief(source[key])}, expected a value of type {type_.__name__}")
    if "checkpoint" in source and "step" not in source:
        raise ValueError(f"source is {brief(source)}, expected the step of its checkpoint, too")
    if "precision" in source:
        check_cost(source["precision"])


def _check_facts(manifest: Mapping[str, Any]) -> None:
    check_source(manifest["source"])
    for key, value in manifest.get("approximate", {}).items():
        if type(value) not in (int, float) or not 0 <= value < 2**63:
            raise ValueError(f"approximate.{key} is {brief(value)}, expected a number")


MODEL_FOLDER = FolderKind(
    format="retrieval model",
    version=1,
    noun="a saved model",
    files=MODEL_FILES,
    facts={"dimension": int, "source": dict},
    remedy="save the model again",
    error=CheckpointError,
    check=_check_facts,
)

# The rest of an index is not read for its model.
INDEX_FOLDER = FolderKind(
    format="retrieval index",
    version=3,
    noun="an index",
    files=(
        "vectors.npy",
        "items.arrows",
        "items.csv",  # of version 2
        *MODEL_FILES,
        "approximate.faiss",
        "thumbnails.arrows",
        "thumbnails.zip",  # of version 2
        "removed-0.bits",
        "removed-1.bits",
    ),
    facts={
        "created": str,
        "versions": dict,
        "metric": str,
        "normalised": bool,
        "dimension": int,
        "count": int,
        "num_classes": int,
        "images_root": str,
        "split": str,
        "source": dict,
        "type": str,
        "approximate": dict,
    },
    remedy="build the index again with `retrieval index`",
    error=IndexFormatError,
    check=_check_facts,
    earlier=(2,),
    mapped=("vectors.npy", "items.arrows", "approximate.faiss", "thumbnails.arrows"),
)


@dataclass(frozen=True)
class Loaded:
    """The parts of a `retrieval.Model`.

    Args:
        network: A network that takes tensors.
        preprocessing: How an image becomes its input.
        source: Where the model comes from, for the manifest of an index.
        settings: Further arguments of `retrieval.Model`.
    """

    network: Any
    preprocessing: Preprocessing
    source: dict[str, Any]
    settings: dict[str, Any]


def load_place(place: Path, checkpoint: str | None) -> Loaded:
    """The model in a folder; see `retrieval.Model.load`."""
    if (place / MANIFEST).exists():
        kind = MODEL_FOLDER if MODEL_FOLDER.claims(place) else INDEX_FOLDER
        contents = kind.read(place, MODEL_FILES)
        try:
            stored = StoredModel.from_files(contents.files)
        except ValueError as error:
            raise kind.error(f"{place / DESCRIPTION}: {error}; {kind.remedy}") from error
        return load_stored(place, contents.manifest, stored, kind)
    if not RunFolder(place).config.exists():
        raise CheckpointError(
            f"{place}: not the folder of a training run, an index or a saved model (it has neither config.yaml nor {MANIFEST})"
        )
    return load_run(place, checkpoint)


def load_stored(
    place: str | Path,
    manifest: Mapping[str, Any],
    stored: StoredModel | None,
    kind: FolderKind = INDEX_FOLDER,
) -> Loaded:
    """The model that an index or a saved model holds.

    Args:
        place: The folder, for messages.
        manifest: The manifest of the folder.
        stored: The model as its files hold it.
        kind: The kind of the folder, for messages.

    Raises:
        RetrievalError: There is no model, or it is one that this version cannot build.
    """
    if stored is None:
        if kind is MODEL_FOLDER:
            raise kind.error(f"{place}: has no {DESCRIPTION}; {kind.remedy}")
        raise kind.error(
            f"{place}: holds vectors without a model, so images cannot be searched in it; "
            "open it in Python with Index.open(..., model=model), or install 'image-retrieval-toolkit[onnx]' and build it again"
        )
    try:
        network, preprocessing = stored.build(manifest["dimension"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise kind.error(
            f"{place}/{DESCRIPTION}: its model cannot be built ({reason_of(error)}); {kind.remedy}"
        ) from error
    source = {key: value for key, value in manifest["source"].items() if key in ("dataset", "checkpoint", "step")}
    return Loaded(network, preprocessing, source, settings_of(Config()))


def load_run(place: Path, checkpoint: str | None, network: torch.nn.Module | None = None) -> Loaded:
    """The model of a training run.

    Args:
        place: The folder of the run.
        checkpoint: See `retrieval.Model.load`.
        network: The network to load the weights into; by default the one that the run's configuration describes.

    Raises:
        ConfigError: There is no checkpoint of that name.
        CheckpointError: The folder is not that of a run, its checkpoint is missing or damaged, or does not fit the network.
    """
    if checkpoint not in (None, "last", "best"):
        raise ConfigError(f"checkpoint is {checkpoint!r}; give last or best")
    folder = RunFolder(place)
    folder.require()
    config = load_of_run(folder.config)
    if network is None:
        require_known([config.model.backbone], folder.path)
        embedder = build_network(config, pretrained=False)
        if embedder.is_described:  # the layout of `create_embedder`, whatever the run was trained with
            embedder.to(memory_format=torch.channels_last)
    else:
        # A copy: the models of two checkpoints must not share their weights, nor change those of the caller.
        embedder = own_network(copy.deepcopy(network), config)
    name = checkpoint or ("best" if folder.best.exists() else "last")
    needs = ("model", "step")
    state = folder.load_last(needs) if name == "last" else load_checkpoint(folder.best, needs)
    try:
        embedder.load_state_dict(trained_weights(state))
        require_finite(embedder)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{place}: its config.yaml and its checkpoint are of different models ({reason_of(error)}); train again"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{place}: its {name} checkpoint: {error}; choose another checkpoint, or train again"
        ) from error
    log.info("%s: loaded the weights of the %s checkpoint, of step %s", place, name, f"{state['step']:,}")
    source = {"dataset": config.data.name, "checkpoint": name, "step": state["step"]}
    return Loaded(embedder, build_preprocessing(config, embedder), source, settings_of(config))


def settings_of(config: Config) -> dict[str, Any]:
    """How a configuration embeds images, as arguments of `retrieval.Model`."""
    return {
        "batch_size": config.evaluation.batch_size,
        "workers": config.data.workers,
        "timeout": config.data.timeout,
        "precision": "bfloat16" if config.evaluation.amp == "bfloat16" else "float32",
    }


def trained_weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint that are evaluated: the averaged ones, where the run kept an average."""
    if not state.get("average"):
        return dict(state["model"])
    return {name.removeprefix("module."): tensor for name, tensor in state["average"].items()}


def require_known(names: Iterable[str], folder: Path) -> None:
    """Checks that the names in the configuration of a run can be resolved again.

    Args:
        names: Names of parts, some of which may be import paths; see `retrieval.config.imports.require_trusted`.
        folder: The folder of the run.

    Raises:
        CheckpointError: A name stands for an object that was given in Python, or for code that is not the user's.
    """
    names = list(names)
    for name in names:
        if name.startswith("<"):
            raise CheckpointError(
                f"{folder}: was trained with an object that was given in Python, {name}; give it again, in Python"
            )
    try:
        require_trusted(filter(is_import_path, names), folder)
    except ValueError as error:
        raise CheckpointError(f"{folder}: its config.yaml names code that is missing ({error}); put it back") from error


def require_replaceable(folder: Path) -> None:
    """Checks that a folder holds nothing but a saved model.

    Raises:
        RetrievalError: Something else would be lost.
    """
    require_only(folder, (*MODEL_FILES, MANIFEST) if MODEL_FOLDER.claims(folder) else (), "a saved model")
