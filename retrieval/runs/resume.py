"""Checks whether a run can be resumed with a configuration."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection

from retrieval.config import Config
from retrieval.config.reading import load_of_run
from retrieval.errors import CheckpointError
from retrieval.files import read_text
from retrieval.runs.record import LARGEST_RECORD
from retrieval.training import RunFolder
from retrieval.training.callbacks.tracker import flatten_options

# Options that may change, because they change no step. Images that have moved are compared by `retrieval.runs.images`.
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
    if changed := changed_options(config, load_of_run(folder.config), free):
        differences = ", ".join(changed)
        given = shlex.quote(str(folder.config))
        raise CheckpointError(
            f"{folder.path}: was started with another configuration ({differences}); resume it with config={given}"
        )


def changed_options(config: Config, before: Config, free: Collection[str]) -> list[str]:
    """The options that differ from those of an earlier configuration, each with both values; without those that may change."""
    now, then = flatten_options(config.model_dump()), flatten_options(before.model_dump())
    changed = sorted(key for key in now.keys() | then.keys() if now.get(key) != then.get(key) and key not in free)
    return [f"{key}: {then.get(key)!r}, now {now.get(key)!r}" for key in changed]


def known_unreadable(folder: RunFolder) -> dict[str, str] | None:
    """The images that a run skips because they could not be read at its start; None where the run does not record them."""
    try:
        known = json.loads(read_text(folder.environment, LARGEST_RECORD))["unreadable"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return known if isinstance(known, dict) else None
