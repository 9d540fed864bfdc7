"""Indexes of the images of a run, or of other images with the model of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrieval.data import images_in, listed_images, pixel_limit, readable
from retrieval.errors import ConfigError
from retrieval.files.repository import is_hub_place
from retrieval.index import Index
from retrieval.model import Model
from retrieval.runs.run import Run
from retrieval.training import RunFolder


def build_index(
    source: str | Path,
    out: str | Path | None = None,
    *,
    split: str | None = None,
    images: str | Path | None = None,
    listed: str | Path | None = None,
    root: str | Path | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    skip_unreadable: bool = False,
    **options: Any,
) -> Index:
    """Embeds a split of a run, a folder or a list of images, and writes an index of it.

    Args:
        source: The folder of a run, or of an index or a saved model, whose model embeds the images; or "hf-hub:user/name".
        out: The folder of the index; by default `index-<split>` in the run, or `index-images` and `index-list`.
        split: A split of the run, or "all"; see `Run.build_index` for the default.
        images: A folder of images in place of a split; its subfolders are the classes.
        listed: A CSV list of images in place of a split, with the columns path and label.
        root: The folder that the paths of the list are relative to.
        checkpoint: The weights of a run; see `retrieval.Model.load`.
        device: The device; by default that of the run's configuration.
        precision: "float32" or "bfloat16"; by default that of the run's configuration. See `retrieval.Model.at`.
        skip_unreadable: Leave out the images of a folder or list that cannot be read, which are logged.
        options: `kind`, `thumbnails` and `overwrite`; see `retrieval.Index.build`.

    Raises:
        RetrievalError: The images cannot be read, or the folder cannot be written.
    """
    if sum(value is not None for value in (split, images, listed)) > 1:
        raise ConfigError("a split, a folder of images and a list exclude each other; give one of them")
    if root is not None and listed is None:
        raise ConfigError("--root belongs to --list, whose paths start from there")
    if skip_unreadable and images is None and listed is None:
        raise ConfigError(
            "--skip-unreadable belongs to --images and --list; the images of a run are skipped by data.unreadable"
        )
    is_run = RunFolder(source).config.exists()
    if images is None and listed is None:
        if not is_run:
            Model.load(source)  # an error if it is neither an index nor a saved model
            raise ConfigError(f"{source}: is not a run, so it has no splits; give the images with --images or --list")
        options |= {"checkpoint": checkpoint, "device": device, "precision": precision}
        return Run.open(source).build_index(split, out, **options)
    if out is None and is_hub_place(source):
        raise ConfigError(f"{source}: is no folder that an index could be in; give one with --out")
    name = "images" if images is not None else "list"
    image_set = images_in(images) if images is not None else listed_images(str(listed), root)
    if is_run and device is None:  # then the device of the run's configuration
        device = Run.open(source).config.device
    model = Model.load(source, checkpoint=checkpoint, device=device or "auto").at(precision)
    if skip_unreadable:
        image_set = readable(image_set, model.workers, max_pixels=pixel_limit(model.preprocessing))
    return Index.build(model, image_set, out or Path(source) / f"index-{name}", split=name, **options)
