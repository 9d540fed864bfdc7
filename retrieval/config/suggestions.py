"""Guesses which option of the configuration an unknown key means."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from retrieval.config.schema import Config
from retrieval.config.yaml_text import missing_space

# Names that other tools use for an option.
_OTHER_NAMES = {
    "device": "gpu gpus cuda accelerator",
    "seed": "random_seed manual_seed",
    "data.name": "dataset dataset_name",
    "data.options": "test_share",
    "data.root": "path folder dir data_dir data_root data_path image_folder",
    "data.validation_share": "val validation val_share val_split valid_share validation_split",
    "data.workers": "num_workers n_workers loader_workers",
    "image.size": "image_size img_size imgsz input_size crop crop_size pixels resolution",
    "image.augmentation": "transform transforms",
    "model.backbone": "arch architecture network model_name model.name",
    "model.pretrained": "weights pretrained_weights",
    "model.embedding_dim": "dim embedding_size emb_dim embed_dim feature_dim num_features",
    "model.freeze_backbone_epochs": "freeze freeze_backbone",
    "model.freeze_batchnorm": "freeze freeze_bn bn",
    "loss.name": "criterion loss_fn loss_name loss_function",
    "loss.terms": "losses",
    "batch.size": "batch_size bs batchsize",
    "batch.samples_per_class": "m samples images_per_class num_instances",
    "training.epochs": "num_epochs n_epochs max_epochs",
    "training.max_steps": "steps num_steps iterations max_iter",
    "training.optimizer": "optim opt optimiser",
    "training.optimizer_options": "momentum betas",
    "training.learning_rate": "lr",
    "training.weight_decay": "wd",
    "training.schedule": "scheduler lr_scheduler lr_schedule",
    "training.min_learning_rate": "min_lr lr_min",
    "training.warmup_epochs": "warmup warmup_steps",
    "training.amp": "precision mixed_precision fp16 bf16",
    "training.clip_norm": "clip grad_clip clip_grad clip_grad_norm gradient_clip_val max_grad_norm",
    "training.patience": "early_stopping early_stop",
    "training.callbacks": "logger loggers tensorboard wandb mlflow",
    "evaluation.ks": "k",
    "loss.ks": "k",
    "evaluation.batch_size": "batch_size",
}
ALIASES: dict[str, list[str]] = {}
for _option, _names in _OTHER_NAMES.items():
    for _name in _names.split():
        ALIASES.setdefault(_name, []).append(_option)


def suggest(key: str) -> str:
    """A hint of the options that are nearest to an unknown key, ready to append; "" where none is near."""
    if ":" in key:
        return missing_space(key.rpartition(".")[2])
    near = nearest(key)
    return f"; did you mean {' or '.join(map(shlex.quote, near))}?" if near else ""


def nearest(key: str) -> list[str]:
    """The options that an unknown key may mean, by their dotted names; at most three.

    Options of the same section come first, then options of other sections with the same name or known to other tools by it, then
    options with a similar name.
    """
    key = key.replace("-", "_").lower()
    section, _, name = key.rpartition(".")
    names = {option: option.rpartition(".")[2] for option in option_names(Config)}
    known = ALIASES.get(key) or ALIASES.get(name) or [option for option in names if names[option] == name]
    inside = {option: name for option, name in names.items() if section and option.startswith(f"{section}.")}
    found = [option for option in known if option in inside]
    found = found or _similar(name, inside) or known or _similar(name, names)
    return found[:3]


def option_names(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of all options and sections; those in lists are left out."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        kind: Any = field.annotation
        if isinstance(kind, type) and get_origin(kind) is None and not get_args(kind) and issubclass(kind, BaseModel):
            yield from option_names(kind, f"{prefix}{name}.")


def _similar(word: str, names: dict[str, str]) -> list[str]:
    """The options with the name that is most similar to a word."""
    near = get_close_matches(word, dict.fromkeys(names.values()), n=1, cutoff=0.65)
    return [option for option, name in names.items() if name in near]
