"""Checks whether a run can be resumed with a configuration."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping

from retrieval.config import Config
from retrieval.config.reading import load_of_run
from retrieval.data import ImageSet
from retrieval.errors import CheckpointError
from retrieval.files import read_text
from retrieval.runs.record import LARGEST_RECORD
from retrieval.training import RunFolder
from retrieval.training.callbacks.tracker import flatten_options

log = logging.getLogger("retrieval")

# Options that may change, because they change no step. Images that have moved are compared by `require_same_images`.
FREE_TO_CHANGE = (
    *("device", "data.root", "data.workers", "data.timeout"),
    *("training.max_steps", "training.patience", "training.callbacks"),
)


def require_same(config: Config, folder: RunFolder) -> None:
    """Checks that a run was started with this configuration, except for the options that may change.

    Raises:
        CheckpointError: It was not; the message names the options that differ.
    """
    free = set(FREE_TO_CHANGE)
    if config.training.schedule not in ("cosine", "tanh"):  # these depend on the number of epochs
        free.add("training.epochs")
    now, then = flatten_options(config.model_dump()), flatten_options(load_of_run(folder.config).model_dump())
    changed = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key) and key not in free)
    if changed:
        differences = ", ".join(f"{key}: {then.get(key)!r}, now {now.get(key)!r}" for key in changed)
        given = shlex.quote(str(folder.config))
        raise CheckpointError(
            f"{folder.path}: was started with another configuration ({differences}); resume it with --config {given}"
        )


def require_same_images(splits: Mapping[str, ImageSet], folder: RunFolder) -> None:
    """Checks that a run was started with the same lists of images: otherwise the batches would differ.

    Raises:
        CheckpointError: It was not; the message names the splits that differ.
    """
    try:
        then = dict(json.loads(read_text(folder.environment, LARGEST_RECORD))["data"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # no reason to lose a run
        log.warning("%s: cannot be read, so it is not known whether the images are still the same", folder.environment)
        return
    changed = sorted(name for name, images in splits.items() if images.fingerprint() != then.get(name))
    if changed:
        raise CheckpointError(
            f"{folder.path}: was started with other images or classes ({', '.join(changed)}); restore the data, "
            "or start a new run"
        )
