"""The images of one of several parts: part i of n of a folder, a CSV list, some files, or tar shards."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.data import ImageSet, given_images, images_in, listed_images, pixel_limit, readable
from retrieval.data.shards import Member, ShardImages, find_shards, read_members
from retrieval.errors import ConfigError


@dataclass(frozen=True)
class Part:
    """Part `number`, from 1, of `count`.

    Raises:
        ConfigError: There is no such part.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"part is {self}; give a number from 1 to {self.count}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def slice_of(self, length: int) -> slice:
        """The part of a sequence of this length. Parts differ by at most one item."""
        first, last = (length * end // self.count for end in (self.number - 1, self.number))
        return slice(first, last)


@dataclass(frozen=True)
class Share:
    """The images of a part.

    Args:
        images: The images.
        paths: The path of every image in the index, relative to `root`.
        root: The folder that the paths start from.
        files: The files that are read, each with its size and time.
        whole: A digest of what all parts are parts of.
    """

    images: ImageSet
    paths: tuple[str, ...]
    root: Path
    files: list[Any]
    whole: str

    def without_unreadable(self, model: Any) -> Share:
        """The share without the images that cannot be read, which are logged."""
        kept = readable(self.images.with_transform(None), model.workers, max_pixels=pixel_limit(model.preprocessing))
        if self.images.is_on_disk:
            return replace(self, images=kept, paths=kept.paths)
        return replace(self, images=kept, paths=tuple(self.paths[int(path)] for path in kept.paths))


def share_of(places: Sequence[str | Path], part: Part, prepare: Any) -> Share:
    """The images of a part of some places.

    Args:
        places: A folder of images, a CSV list, image files and folders, or tar shards; see `retrieval.data.shards`.
        part: The part. Of shards, a part is some whole shards.
        prepare: The preprocessing of the model.

    Raises:
        RetrievalError: The images cannot be read, or there are more parts than images or shards.
    """
    shards = [find_shards(place) for place in places]
    if any(shards):
        if not all(shards):
            raise ConfigError(f"{places[shards.index([])]}: is no tar shard, but the others are; give shards only")
        return _share_of_shards([shard for found in shards for shard in found], part, prepare)
    images = _image_set(places)
    _require_enough(part, len(images), "images")
    indices = np.arange(len(images))[part.slice_of(len(images))]
    share = images.select(indices)
    root = images.root.resolve()
    return Share(share, share.paths, root, [_state(root / path) for path in share.paths], images.fingerprint())


def _image_set(places: Sequence[str | Path]) -> ImageSet:
    if len(places) > 1:
        return given_images(places)
    place = Path(places[0])
    if place.is_dir():
        return images_in(place)
    return listed_images(place) if place.suffix.lower() == ".csv" else given_images([place])


def _share_of_shards(shards: list[Path], part: Part, prepare: Any) -> Share:
    _require_enough(part, len(shards), "shards")
    shards = [shard.absolute() for shard in shards]
    if len(set(shards)) < len(shards):
        raise ConfigError("a shard is given twice; give each once")
    root = Path(os.path.commonpath([shard.parent for shard in shards]))
    names = [shard.relative_to(root).as_posix() for shard in shards]
    own = shards[part.slice_of(len(shards))]
    members: list[Member] = [member for shard in own for member in read_members(shard)]
    paths = tuple(f"{member.shard.relative_to(root).as_posix()}/{member.name}" for member in members)
    images = ShardImages(members, prepare).as_images()
    return Share(images, paths, root, [_state(shard) for shard in own], _digest(names))


def _require_enough(part: Part, count: int, what: str) -> None:
    if part.count > count:
        raise ConfigError(f"part {part} of {count} {what}: a part would be empty; make at most {count} parts")


def _state(file: Path) -> tuple[str, int, int]:
    state = file.stat()
    return str(file), state.st_size, state.st_mtime_ns


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode(errors="surrogateescape")).hexdigest()
