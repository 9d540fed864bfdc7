"""Training from Python: a configuration, and objects in place of the names in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from retrieval.config import Config, load
from retrieval.config.folders import default_folder
from retrieval.config.reading import option_keys
from retrieval.config.trainer import OptimizerFactory
from retrieval.data.own_splits import NAMES
from retrieval.runs.objects import Objects
from retrieval.runs.process import run_process
from retrieval.runs.run import Run


def train(
    config: str | Path | Config | None = None,
    data: Any = None,
    out: str | Path | None = None,
    *,
    network: nn.Module | None = None,
    loss: nn.Module | Callable[..., Any] | str | Mapping[str, Any] | None = None,
    optimizer: OptimizerFactory | torch.optim.Optimizer | str | None = None,
    callbacks: Sequence[object] = (),
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    **overrides: Any,
) -> Run:
    """Trains a model and measures it on the test images.

    A run that was stopped or killed is continued by the same call with `resume=True`, bit for bit as if it had not been stopped.

    Args:
        config: A name of `retrieval config list`, a YAML file, or a `Config`; by default "photos" for images in a folder or a list,
            and "glyphs" otherwise.
        data: Your own images in place of those of the configuration: a folder of images or a CSV list; an `ImageSet` or a
            `torch.utils.data.Dataset` of (image, label); or a dict of these by split. A single set is divided as the option
            `data.split` says. A mapping of options is the data section, whose `root` is the folder of a published data set.
        out: The folder of the run; by default `runs/<name of the folder or list>`, or `runs/<config>`.
        network: A module from images (batch, 3, height, width) to vectors (batch, dim). It replaces the backbone and the head.
        loss: A loss of pytorch-metric-learning, any module or function of embeddings (batch, dim) and labels (batch,) to a scalar,
            the name of a loss, or options of the loss section.
        optimizer: A function from parameter groups to an optimiser, such as `torch.optim.AdamW`; an optimiser over the parameters
            of `network`; or the name of an optimiser.
        callbacks: Objects with some of the methods of `retrieval.training.callbacks.Callback`.
        resume: Continue the run in the folder.
        overwrite: Replace the run in the folder.
        dry_run: Build everything, but train nothing and write nothing.
        overrides: Options of the configuration: a section as a mapping, `training={"epochs": 5}`, or `seed` and `device`.

    Returns:
        The run, with its figures in `results`, and in `plan` the summary that is logged before the first step. After a dry run
        there is no folder, and only `plan` and `splits` have values.

    Raises:
        ConfigError: An option is unknown or cannot be used; one line for each mistake.
        ValueError: An object is of the wrong type.
        RetrievalError: The images cannot be read, or the folder cannot be written.
        SystemExit: By SIGTERM or Ctrl-C, after everything was saved.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> import retrieval
        >>> pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 40, 3), dtype=np.uint8)
        >>> images = retrieval.ImageSet.from_dataset(pixels, labels=[i // 4 for i in range(48)])
        >>> options = {"data.validation_share": 0.0, "data.workers": 0, "batch.size": 16, "training.max_steps": 2}
        >>> run = retrieval.train("glyphs", images, tempfile.mkdtemp(), loss="contrastive", **options)
        >>> 0 <= run.results["last"]["recall@1"] <= 1
        True
    """
    changes = dict(overrides)
    if is_options(data):
        changes["data"], data = data, None
    if isinstance(loss, str):
        changes["loss.name"], loss = loss, None
    elif is_options(loss):
        changes["loss"], loss = loss, None
    if isinstance(optimizer, str):
        changes["training.optimizer"], optimizer = optimizer, None
    root, data = (data, None) if isinstance(data, (str, Path)) else (None, data)
    if config is None:
        config = "glyphs" if root is None else "photos"
    if not isinstance(config, (str, Path, Config)):
        raise ValueError(f"config is of type {type(config).__name__}; give a name, a YAML file or a Config")
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other")
    if isinstance(callbacks, str) or not isinstance(callbacks, Iterable):
        raise ValueError(f"callbacks is of type {type(callbacks).__name__}; give a list of callbacks")
    objects = Objects(data, network, loss, optimizer, tuple(callbacks))  # type: ignore[arg-type]
    objects.warn_of_options(option_keys(changes))
    settings = load(config, changes, root)
    if out is None:
        out = default_folder(config.data.name if isinstance(config, Config) else config, root, resume=resume)
    return run_process(settings, out, overwrite=overwrite, resume=resume, dry_run=dry_run, objects=objects)


def is_options(value: Any) -> bool:
    """Whether a value is a mapping of options, and not a dict of data sets by split."""
    return isinstance(value, Mapping) and not NAMES.keys() & value.keys()
