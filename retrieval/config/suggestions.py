"""Guesses which option of the configuration an unknown key means."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from retrieval.config.schema import Config
from retrieval.config.yaml_text import missing_space

# Names that other tools use for an option.
_OTHER_NAMES = {
    "device": "gpu gpus cuda accelerator",
    "seed": "random_seed manual_seed seed_everything",
    "data.name": "dataset dataset_name",
    "data.options": "test_share",
    "data.root": "path folder dir data_dir data_root data_path image_folder",
    "data.validation_share": "val validation val_share val_split valid_share validation_split",
    "data.workers": "num_workers n_workers loader_workers",
    "image.size": "image_size img_size imgsz input_size crop crop_size pixels resolution",
    "image.mean": "image_mean",
    "image.std": "image_std",
    "image.augmentation": "transform transforms augment augmentations",
    "model.backbone": "arch architecture network model_name model.name",
    "model.pretrained": "weights pretrained_weights",
    "model.embedding_dim": "dim embedding_size emb_dim embed_dim feature_dim num_features",
    "model.pooling": "pool global_pool gem",
    "model.ema": "ema_decay model_ema model_ema_decay",
    "model.layer_decay": "layer_lr llrd",
    "model.gradient_checkpointing": "grad_checkpointing grad_checkpoint",
    "model.freeze_backbone_epochs": "freeze freeze_backbone",
    "model.freeze_batchnorm": "freeze freeze_bn bn",
    "loss.name": "criterion loss_fn loss_name loss_function",
    "loss.terms": "losses",
    "loss.memory": "memory_size queue_size",
    "batch.size": "batch_size bs batchsize train_batch_size",
    "batch.samples_per_class": "m samples images_per_class num_instances",
    "batch.chunk": "accumulate_grad_batches grad_accum grad_accum_steps gradient_accumulation_steps accumulation_steps",
    "training.epochs": "num_epochs n_epochs max_epochs",
    "training.max_steps": "steps num_steps iterations max_iter",
    "training.optimizer": "optim opt optimiser",
    "training.optimizer_options": "momentum betas eps nesterov amsgrad",
    "training.learning_rate": "lr",
    "training.weight_decay": "wd",
    "training.schedule": "scheduler lr_scheduler lr_schedule",
    "training.min_learning_rate": "min_lr lr_min",
    "training.decay_epochs": "milestones decay_milestones step_size",
    "training.decay_rate": "gamma",
    "training.warmup_epochs": "warmup warmup_steps",
    "training.amp": "precision mixed_precision fp16 bf16",
    "training.clip_norm": "clip grad_clip clip_grad clip_grad_norm gradient_clip_val max_grad_norm",
    "training.patience": "early_stopping early_stop patience_epochs",
    "training.callbacks": "logger loggers tensorboard wandb mlflow",
    "evaluation.every": "eval_every val_every eval_interval val_interval check_val_every_n_epoch",
    "evaluation.ks": "k",
    "loss.ks": "k",
    "evaluation.batch_size": "batch_size eval_batch_size val_batch_size test_batch_size",
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
    options whose name the key misspells. Many names of other tools, such as "dropout", have no counterpart, so nothing else is
    guessed.
    """
    key = key.replace("-", "_").lower()
    section, _, name = key.rpartition(".")
    names = {option: option.rpartition(".")[2] for option in option_names(Config)}
    known = ALIASES.get(key) or ALIASES.get(name) or [option for option in names if names[option] == name]
    inside = {option: name for option, name in names.items() if section and option.startswith(f"{section}.")}
    found = [option for option in known if option in inside]
    found = found or _misspelt(name, inside) or _begun(name, inside) or known or _misspelt(name, names)
    return found[:3]


def option_names(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of all options and sections; those in lists are left out."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        kind: Any = field.annotation
        if isinstance(kind, type) and get_origin(kind) is None and not get_args(kind) and issubclass(kind, BaseModel):
            yield from option_names(kind, f"{prefix}{name}.")


def _misspelt(word: str, names: dict[str, str]) -> list[str]:
    """The options with the name that differs least from a word: by a letter too many, missing or wrong, or by two swapped ones."""
    different = {name: _count_different(word, name) for name in names.values()}
    fewest = min(different.values(), default=3)
    if fewest > (2 if len(word) > 3 else 1):
        return []
    return [option for option, name in names.items() if different[name] == fewest]


def _count_different(left: str, right: str) -> int:
    """The number of letters of both words without their counterpart in the other one."""
    same = SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    return len(left) + len(right) - 2 * sum(block.size for block in same)


def _begun(word: str, names: dict[str, str]) -> list[str]:
    """The options whose name begins with a word, such as "batch_size" with "batch"."""
    return [option for option, name in names.items() if name.startswith(f"{word}_")]
