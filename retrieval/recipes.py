"""What the command line does: train, index, measure, search."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_tensors

from retrieval import evaluation
from retrieval.building import (
    ProgressBar,
    build_model,
    build_preprocessing,
    build_sampler,
    build_trainer,
    build_training_loader,
    embed_images,
    load_embedder,
    pick_device,
    read_splits,
    with_absolute_paths,
)
from retrieval.config import Config, load, to_yaml
from retrieval.data import ImageSet, load_image, prepare
from retrieval.errors import CheckpointError, ConfigError, RetrievalError
from retrieval.files import write_json
from retrieval.index import read_bundle, write_bundle
from retrieval.models import embed
from retrieval.report import GalleryRow, Neighbour, plot_gallery, plot_training
from retrieval.training import RunFolder, Trainer, describe_environment, load_checkpoint, save_checkpoint, write_metrics

log = logging.getLogger("retrieval")


def train(
    config: Config, out: str | Path, *, overwrite: bool = False, resume: bool = False
) -> dict[str, dict[str, float]]:
    """Trains a model and measures it on the test classes.

    Args:
        config: what to train.
        out: folder of the run.
        overwrite: replace a run that is there.
        resume: go on with the run that is there, from its last epoch.

    Returns:
        The figures of the test split for the "untrained" model, the "last" epoch and, where validation classes are held out, the
        "best" epoch on them; see `retrieval.evaluation.evaluate`.
    """
    run = RunFolder(out)
    if not resume:
        run.check_free(overwrite=overwrite)
    config = with_absolute_paths(config)
    device = pick_device(config.device)
    splits = read_splits(config)
    torch.manual_seed(config.seed)
    model = build_model(config).to(device)
    preprocessing = build_preprocessing(config, model)
    sampler = build_sampler(config, splits["train"])
    trainer = build_trainer(config, model, sampler.steps_per_epoch)

    def measure(split: str) -> tuple[np.ndarray, dict[str, float]]:
        vectors = embed_images(config, model, preprocessing, splits[split])
        return vectors, _evaluate(vectors, splits[split].labels, ks=sorted({1, *config.evaluation.ks}))

    if resume:
        rows, results = _take_up(run, config, trainer)
    else:
        rows, results = [], {"untrained": measure("test")[1]}
        fingerprints = {name: images.fingerprint() for name, images in splits.items()}
        run.create(to_yaml(config), describe_environment(device=str(device), data=fingerprints), overwrite=overwrite)
        save_checkpoint(run.last, {**trainer.state_dict(), "rows": rows, "results": results})
    log.info("untrained, test classes: %s", describe(results["untrained"]))

    num_steps = config.training.epochs * sampler.steps_per_epoch
    loader = build_training_loader(config, splits["train"], preprocessing, sampler, trainer.step)
    with ProgressBar(num_steps, "training", initial=trainer.step) as bar:
        for epoch, loss in trainer.epochs(loader, sampler.steps_per_epoch, after_step=lambda loss: bar.update()):
            row = {"epoch": epoch, "step": trainer.step, "loss": loss}
            if "validation" in splits and (epoch % config.evaluation.every == 0 or trainer.step == num_steps):
                row |= {f"validation {name}": value for name, value in measure("validation")[1].items()}
            is_best = _better_than_all(row, rows)
            rows.append(row)
            write_metrics(run.metrics, rows)
            if is_best:
                save_checkpoint(run.best, {"model": model.state_dict(), "step": trainer.step})
            save_checkpoint(run.last, {**trainer.state_dict(), "rows": rows, "results": results})
            log.info("epoch %d of %d: loss %.4f  %s", epoch, config.training.epochs, loss, describe(row))

    vectors, results["last"] = measure("test")
    draw_neighbours(vectors, splits["test"], run.gallery, seed=config.seed)
    if run.best.is_file():
        model.load_state_dict(load_checkpoint(run.best)["model"])
        results["best"] = measure("test")[1]
    plot_training(rows, run.curves)
    write_json(run.results, results)
    return results


def build_index(
    run: str | Path,
    out: str | Path | None = None,
    *,
    split: str = "test",
    checkpoint: str = "last",
    overwrite: bool = False,
) -> Path:
    """Embeds a split with a trained model and writes an index bundle.

    Args:
        run: folder of a training run.
        out: folder of the bundle; `index-<split>` in the run if left out.
        split: "train", "validation" or "test".
        checkpoint: "last" or "best".
        overwrite: replace a bundle that is there.

    Returns:
        The bundle's folder.
    """
    folder = RunFolder(run)
    folder.require()
    config = load(folder.config)
    splits = read_splits(config)
    if split not in splits:
        raise RetrievalError(f"{run}: has no split {split!r}; it has {', '.join(splits)}")
    out = Path(out) if out else folder.path / f"index-{split}"
    if out.exists() and not overwrite:
        raise RetrievalError(f"{out}: exists already; choose another --out or pass --overwrite")
    model = build_model(config, pretrained=False).to(pick_device(config.device))
    state = load_checkpoint(folder.last if checkpoint == "last" else folder.best)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{run}: its config.yaml and its checkpoint are of different models; train again"
        ) from error
    preprocessing = build_preprocessing(config, model)
    images = splits[split]
    write_bundle(
        out,
        vectors=embed_images(config, model, preprocessing, images),
        ids=np.arange(len(images)),
        labels=images.labels,
        class_names=images.class_names,
        paths=images.paths,
        model={
            "backbone": config.model.backbone,
            "embedding_dim": config.model.embedding_dim,
            "preprocessing": preprocessing.to_dict(),
        },
        weights=save_tensors(state["model"]),
        images_root=str(images.root.resolve()),
        split=split,
        source={"dataset": config.data.name, "checkpoint": checkpoint, "step": state["step"]},
        overwrite=overwrite,
    )
    return out


def evaluate(index: str | Path, ks: Sequence[int] = (1, 2, 4, 8)) -> dict[str, float]:
    """Measures an index bundle: every item against all others; see `retrieval.evaluation.evaluate`."""
    bundle = read_bundle(index)
    return _evaluate(bundle.vectors, bundle.labels, ks=ks, ids=bundle.ids)


def search(
    index: str | Path, images: Sequence[str | Path], *, k: int = 10, device: str = "auto"
) -> list[dict[str, Any]]:
    """Finds the nearest neighbours of images in an index bundle, with the bundle's own model.

    Args:
        index: folder of the bundle.
        images: image files.
        k: number of neighbours.
        device: see `pick_device`.

    Returns:
        For every image {"query": its path, "neighbours": [{"rank", "score", "id", "class", "path"}, ...]}, best first.
    """
    bundle = read_bundle(index)
    model, preprocessing = load_embedder(bundle)
    model.to(pick_device(device))
    queries = embed(model, (torch.from_numpy(prepare(load_image(path), preprocessing))[None] for path in images))
    found = evaluation.search(queries, bundle.vectors, min(k, len(bundle.ids)), gallery_ids=bundle.ids)
    position = {int(id_): i for i, id_ in enumerate(bundle.ids)}
    return [
        {
            "query": str(path),
            "neighbours": [
                {"rank": rank, "score": float(score), "id": int(id_), **bundle.describe(position[int(id_)])}
                for rank, (id_, score) in enumerate(zip(ids, scores, strict=True), start=1)
                if id_ >= 0
            ],
        }
        for path, ids, scores in zip(images, found.ids, found.scores, strict=True)
    ]


def draw_search(index: str | Path, found: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draws what `search` returned; the images are looked for where the bundle was made."""
    root = Path(read_bundle(index).manifest["images_root"])
    rows = [
        GalleryRow(
            Path(result["query"]),
            Path(result["query"]).name,
            tuple(Neighbour(root / n["path"], n["class"], n["score"], None) for n in result["neighbours"]),
        )
        for result in found
    ]
    plot_gallery(rows, path, title=f"Nearest neighbours in {index}", columns=max(len(row.neighbours) for row in rows))


def draw_neighbours(
    vectors: np.ndarray, images: ImageSet, path: str | Path, *, seed: int, num_queries: int = 8, k: int = 8
) -> None:
    """Draws some queries of a split, drawn by lot, with their nearest neighbours.

    Args:
        vectors: unit vectors (len(images), dim) of the images.
        images: the split.
        path: the PNG file.
        seed: of the lot.
        num_queries: rows of the picture.
        k: neighbours of each.
    """
    queries = np.sort(np.random.default_rng(seed).permutation(len(images))[:num_queries])
    found = evaluation.search(vectors[queries], vectors, min(k, len(images) - 1), query_ids=queries)
    names, labels = images.class_names, images.labels
    rows = [
        GalleryRow(
            images.root / images.paths[query],
            names[labels[query]],
            tuple(
                Neighbour(
                    images.root / images.paths[id_],
                    names[labels[id_]],
                    float(score),
                    bool(labels[id_] == labels[query]),
                )
                for id_, score in zip(ids, scores, strict=True)
                if id_ >= 0
            ),
        )
        for query, ids, scores in zip(queries, found.ids, found.scores, strict=True)
    ]
    plot_gallery(rows, path, title="Queries drawn by lot, and their nearest neighbours among the test images")


def describe(figures: Mapping[str, float]) -> str:
    """recall@1 and MAP@R in one line, in percent."""
    return "  ".join(
        f"{name} {100 * value:.2f}" for name, value in figures.items() if name.endswith(("recall@1", "map@r"))
    )


def _evaluate(
    vectors: np.ndarray, labels: np.ndarray, ks: Sequence[int], ids: np.ndarray | None = None
) -> dict[str, float]:
    try:
        return evaluation.evaluate(vectors, labels, ks=ks, ids=ids)
    except ValueError as error:
        raise ConfigError(f"these embeddings cannot be measured: {error}") from error


def _take_up(
    run: RunFolder, config: Config, trainer: Trainer
) -> tuple[list[dict[str, float]], dict[str, dict[str, float]]]:
    """Brings the trainer to where the run stopped; returns the run's rows and results so far."""
    run.require()
    if to_yaml(config) != to_yaml(load(run.config)):
        raise CheckpointError(f"{run.path}: was begun with another configuration; resume it with --config {run.config}")
    state = load_checkpoint(run.last)
    trainer.load_state_dict(state)
    return state["rows"], state["results"]


def _better_than_all(row: Mapping[str, float], rows: Sequence[Mapping[str, float]]) -> bool:
    """Whether no earlier row did as well on the validation classes: recall@1 decides, then MAP@R."""

    def key(row: Mapping[str, float]) -> tuple[float, float]:
        return row["validation recall@1"], row["validation map@r"]

    return "validation recall@1" in row and all(
        key(row) > key(other) for other in rows if "validation recall@1" in other
    )
