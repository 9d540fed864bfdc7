"""Indices: written, measured, searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_tensors

from retrieval import evaluation
from retrieval.building import (
    build_model,
    build_preprocessing,
    describe_model,
    embed_images,
    load_embedder,
    measured_splits,
    pick_device,
    read_splits,
)
from retrieval.config import load
from retrieval.data import load_image, prepare
from retrieval.errors import CheckpointError, RetrievalError
from retrieval.index import read_bundle, write_bundle
from retrieval.models import embed
from retrieval.recipes.figures import figures_of
from retrieval.training import RunFolder, load_checkpoint


def build_index(
    run: str | Path,
    out: str | Path | None = None,
    *,
    split: str | None = None,
    checkpoint: str = "last",
    overwrite: bool = False,
) -> Path:
    """Embeds a split with a trained model and writes an index bundle.

    Args:
        run: folder of a training run.
        out: folder of the bundle; `index-<split>` in the run if left out.
        split: "train", "validation", "test", "query" or "gallery", whichever the run has; if left out the one that is searched:
            "test" or "gallery".
        checkpoint: "last" or "best", by the validation classes.
        overwrite: replace a bundle that is there.

    Returns:
        The bundle's folder.
    """
    folder = RunFolder(run)
    folder.require()
    config = load(folder.config)
    splits = read_splits(config)
    split = split or measured_splits(splits)[1]
    if split not in splits:
        raise RetrievalError(f"{run}: has no split {split!r}; it has {', '.join(splits)}")
    out = Path(out) if out else folder.path / f"index-{split}"
    if out.exists() and not overwrite:
        raise RetrievalError(f"{out}: exists already; choose another --out or pass --overwrite")
    model = build_model(config, pretrained=False).to(pick_device(config.device))
    state = folder.load_last() if checkpoint == "last" else load_checkpoint(folder.best)
    weights = _trained_weights(state)
    try:
        model.load_state_dict(weights)
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
        model=describe_model(model, preprocessing),
        weights=save_tensors(weights),
        images_root=str(images.root.resolve()),
        split=split,
        source={"dataset": config.data.name, "checkpoint": checkpoint, "step": state["step"]},
        overwrite=overwrite,
    )
    return out


def evaluate(
    index: str | Path, ks: Sequence[int] = (1, 2, 4, 8), *, queries: str | Path | None = None
) -> dict[str, float]:
    """Measures an index bundle; see `retrieval.evaluation.evaluate`.

    Args:
        index: folder of the bundle: every item is a query against all others.
        ks: cut-offs of recall@k.
        queries: folder of another bundle, whose items are the queries instead; classes of one name are the same.
    """
    bundle = read_bundle(index)
    if queries is None:
        return figures_of(bundle.vectors, bundle.labels, ks=ks, ids=bundle.ids)
    asked = read_bundle(queries)
    number = {name: i for i, name in enumerate(dict.fromkeys((*bundle.class_names, *asked.class_names)))}
    labels, gallery_labels = (np.array([number[name] for name in part.class_names]) for part in (asked, bundle))
    return figures_of(
        asked.vectors, labels, ks=ks, ids=bundle.ids, gallery=bundle.vectors, gallery_labels=gallery_labels
    )


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


def _trained_weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Of a checkpoint the weights that are measured: the average, where the run kept one."""
    if not state.get("average"):
        return dict(state["model"])
    return {name.removeprefix("module."): tensor for name, tensor in state["average"].items()}
