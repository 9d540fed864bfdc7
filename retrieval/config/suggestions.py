"""Guesses which option of the configuration an unknown key means."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from retrieval.config.schema import Config
from retrieval.errors import did_you_mean

# Names that other tools use.
ALIASES = {
    "lr": ("training.learning_rate",),
    "wd": ("training.weight_decay",),
    "batch_size": ("batch.size", "evaluation.batch_size"),
    "bs": ("batch.size",),
    "num_epochs": ("training.epochs",),
    "num_workers": ("data.workers",),
    "image_size": ("image.size",),
    "img_size": ("image.size",),
    "dim": ("model.embedding_dim",),
    "embedding_size": ("model.embedding_dim",),
    "arch": ("model.backbone",),
    "dataset": ("data.name",),
    "scheduler": ("training.schedule",),
    "k": ("evaluation.ks",),
}


def suggest(key: str) -> str:
    """A hint of the options that are nearest to an unknown key, ready to append; "" where none is near.

    An option of the same section is preferred, then one of another section with the same name, then a similar one.
    """
    section, _, name = key.rpartition(".")
    options = list(option_names(Config))
    near = did_you_mean(name, [option.rpartition(".")[2] for option in options if option.rpartition(".")[0] == section])
    if section and near:
        return near
    known = ALIASES.get(name) or [option for option in options if option.rpartition(".")[2] == name]
    if known:
        return f"; did you mean {' or '.join(map(shlex.quote, known))}?"
    return near or did_you_mean(key, options)


def option_names(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of all options and sections; those in lists are left out."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        kind: Any = field.annotation
        if isinstance(kind, type) and get_origin(kind) is None and not get_args(kind) and issubclass(kind, BaseModel):
            yield from option_names(kind, f"{prefix}{name}.")
