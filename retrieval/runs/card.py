"""What the card of a model says of its training run. Folders are left out: only the last part of a path is published."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from timm.models import get_pretrained_cfg

from retrieval.config import Config
from retrieval.config.imports import is_import_path
from retrieval.config.yaml_text import write
from retrieval.errors import RetrievalError, plural
from retrieval.files import read_file, read_text
from retrieval.files.repository import is_hub_place
from retrieval.index import Calibration, Index
from retrieval.model.card_sections import Training, last_part
from retrieval.report import caution_of
from retrieval.runs.record import LARGEST_RECORD, Figures, result_name

if TYPE_CHECKING:
    from retrieval.runs.run import Run

log = logging.getLogger("retrieval")

_WHAT = {"best": "best by validation", "last": "last"}
_SEED = 0  # of the intervals


def describe_training(run: Run, checkpoint: str, *, gallery: bool = True) -> Training:
    """What is known of a run and was measured of one of its checkpoints.

    Args:
        run: The run.
        checkpoint: "last" or "best".
        gallery: Whether to show the picture of queries and their neighbours.
    """
    environment, summary, config = _environment(run), run.summary, run.config
    split, figures, baseline = _measured(run, checkpoint)
    index = _index_of(run, checkpoint) if figures else None
    if index is not None:
        figures = _with_intervals(run, index, figures)
    elif figures:
        command = f"retrieval index {shlex.quote(str(run.path))} --split test"
        log.info("no index of the measured images, so the card has no intervals; `%s` makes one", command)
    picture = read_file(run.folder.gallery) if gallery and run.folder.gallery.is_file() else None
    return Training(
        dataset=(summary.dataset or "").partition(": ")[2] or last_part(config.data.name),
        measured_on=_measured_on(split, figures),
        figures=figures,
        baseline=baseline,
        caution=caution_of(split) if figures else "",
        splits=_splits(environment),
        base=_base(config),
        command=_command(environment.get("command")),
        config=write(_without_folders(config.model_dump())),
        versions=_versions(environment.get("versions")),
        gallery=picture if figures else None,
        threshold="" if index is None or index.calibration is None else _threshold(index.calibration),
    )


def _measured(run: Run, checkpoint: str) -> tuple[str, Figures, Figures]:
    """The split that a checkpoint was measured on, its figures and those of the frozen features; no figures where it was not."""
    results = run.results if run.summary.state == "finished" else {}
    for split in ("test", "validation"):
        if figures := results.get(result_name(_WHAT[checkpoint], split)):
            return split, figures, results.get(result_name("frozen features", split), {})
    return "", {}, {}


def _measured_on(split: str, figures: Mapping[str, float]) -> str:
    if split == "test":
        return "query images" if "not_in_gallery" in figures else "test classes"
    return f"{split} images" if split else ""


def _index_of(run: Run, checkpoint: str) -> Index | None:
    """The index of the measured images, if the run has one of these weights."""
    try:
        queries, gallery = run.measured_splits()
        if not all((run.path / f"index-{split}").is_dir() for split in (queries, gallery)):
            return None
        index = run.index(gallery)
    except RetrievalError as error:
        log.warning("%s; the card has no intervals", error)
        return None
    return index if index.manifest["source"].get("checkpoint") == checkpoint else None


def _with_intervals(run: Run, index: Index, figures: Figures) -> Figures:
    """The figures of the index, which are those of the run, and their intervals."""
    queries, gallery = run.measured_splits()
    ks = sorted({1, *run.config.evaluation.ks})
    other = None if queries == gallery else run.index(queries)
    try:
        measured = index.evaluate([k for k in ks if k < len(index)], queries=other, interval_seed=_SEED)
    except (RetrievalError, ValueError) as error:
        log.warning("%s: %s; the card has no intervals", index.folder, error)
        return figures
    return figures | {name: value for name, value in measured.items() if name.endswith((" low", " high"))}


def _threshold(calibration: Calibration) -> str:
    share = f"{100 * calibration.false_accept_rate:g} %"
    right = calibration.right_accept_rate
    others = "" if right is None else f"; {100 * right:.1f} % of the others reach it"
    sentence = (
        f"A score of {calibration.threshold:.4f} tells known from unknown classes among the measured images: at most {share} of "
        f"the queries whose class is not in the index reach it{others} ({plural(calibration.queries, 'query', 'queries')})."
    )
    return " ".join([sentence, *(f"Caution: {caution}." for caution in calibration.cautions)])


def _environment(run: Run) -> dict[str, Any]:
    try:
        environment = json.loads(read_text(run.folder.environment, LARGEST_RECORD))
    except (OSError, ValueError, RecursionError):
        environment = None
    return environment if isinstance(environment, dict) else {}


def _splits(environment: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """The images and classes of each split; empty for a run of an earlier version, which does not record them."""
    try:
        splits = environment["plan"]["splits"]
        return {str(name): (int(it["images"]), int(it["classes"])) for name, it in splits.items()}
    except (LookupError, TypeError, ValueError, AttributeError):
        return {}


def _versions(versions: Any) -> str:
    """The versions of the packages that decide the weights."""
    known = versions if isinstance(versions, dict) else {}
    return ", ".join(f"{name} {known[name]}" for name in ("retrieval", "torch", "timm") if known.get(name))


def _base(config: Config) -> str:
    """The weights that the training started from."""
    pretrained, backbone = config.model.pretrained, config.model.backbone
    if isinstance(pretrained, str):
        return pretrained if is_hub_place(pretrained) else Path(pretrained).name
    if not pretrained or is_import_path(backbone) or backbone.startswith("<"):
        return ""
    return str(get_pretrained_cfg(backbone).hf_hub_id or backbone)


def _command(words: Any) -> str:
    """The command line of the run; "" where it was not started by one."""
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words) or not words:
        return ""
    program, *rest = words
    path = PurePath(program)
    if path.stem != "retrieval" and path.parts[-2:] != ("cli", "__main__.py"):
        return ""
    parts = (word.partition("=") for word in rest)
    return shlex.join(["retrieval", *(f"{last_part(key)}{sign}{last_part(value)}" for key, sign, value in parts)])


def _without_folders(value: Any) -> Any:
    """A configuration with the last part of every absolute path."""
    if isinstance(value, Mapping):
        return {key: _without_folders(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folders(inner) for inner in value]
    return last_part(value)
