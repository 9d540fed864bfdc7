"""Images in tar archives, as webdataset, img2dataset and clip-retrieval write them: shards.

    shards/00000.tar        000001.jpg, 000001.cls, 000002.jpg, 000002.cls, ...
    shards/00001.tar        cats/1.jpg, dogs/2.jpg, ...

An image is a member with the suffix of an image format. Its class is the text of the member of the same name with the suffix .cls;
or else the name of the folder that the image is in; or else the name of the shard. Other members are not read.
"""

from __future__ import annotations

import io
import logging
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from retrieval.data.image_set import ImageSet, first_repeated, require_portable
from retrieval.data.images import decode_image, decoding_of
from retrieval.data.names import natural_key
from retrieval.errors import DatasetError, reason_of
from retrieval.files import open_file
from retrieval.files.image_formats import suffixes

log = logging.getLogger("retrieval")

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # "{000..127}" of a shell, of webdataset, and of img2dataset
_END = bytes(tarfile.BLOCKSIZE)  # an empty block
_MOST = 10**6  # shards of a pattern
_LONGEST = 4096  # bytes of a .cls member


class Member(NamedTuple):
    """An image in a shard.

    Args:
        shard: The archive.
        name: The name of the member.
        offset: Where its content starts.
        size: The bytes of its content.
        class_name: Its class.
    """

    shard: Path
    name: str
    offset: int
    size: int
    class_name: str

    @property
    def path(self) -> str:
        """The archive and the name in it, for messages."""
        return f"{self.shard}/{self.name}"


def find_shards(place: str | Path) -> list[Path]:
    """The shards that a place stands for, in order; none if it stands for other images.

    Args:
        place: A .tar file, a pattern such as `shards/{000..127}.tar`, or a folder of .tar files without images and folders in it.

    Raises:
        DatasetError: A shard of a pattern is missing, or the pattern has no end.
    """
    place = Path(place)
    if place.suffix.lower() == ".tar" and not place.is_dir():
        shards = _expand(place)
        for shard in shards:
            if not shard.is_file():
                raise DatasetError(f"{shard}: does not exist, but {place.name} names it; give the shards that exist")
        return shards
    if not place.is_dir():
        return []
    entries = [entry for entry in place.iterdir() if not entry.name.startswith(".")]
    if any(entry.is_dir() or entry.suffix.lower() in suffixes() for entry in entries):
        return []
    return sorted(
        (entry for entry in entries if entry.suffix.lower() == ".tar"), key=lambda path: natural_key(path.name)
    )


def read_members(shard: Path) -> list[Member]:
    """The images of a shard, in its order.

    Raises:
        DatasetError: It is not a tar archive, it is damaged or compressed, or a name cannot be stored.
    """
    found: list[tuple[str, tarfile.TarInfo]] = []
    classes: dict[str, str] = {}
    try:
        with open_file(shard) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                path = PurePosixPath(info.name)
                if not info.isfile() or path.name.startswith("."):
                    continue
                if path.suffix.lower() in suffixes():
                    found.append((path.as_posix(), info))
                elif path.suffix == ".cls" and info.size <= _LONGEST and (content := archive.extractfile(info)):
                    classes[_key(path.as_posix())] = content.read().decode().strip()
            file.seek(archive.offset)  # where the members end
            if file.read(len(_END)) != _END:  # tarfile takes the rest of a shorter archive for its end
                raise tarfile.ReadError("its end is missing")
    except OSError as error:
        raise DatasetError(
            f"{shard}: cannot be read ({error.strerror or error}); check its name and its disk"
        ) from error
    except (tarfile.TarError, EOFError, ValueError) as error:
        remedy = "write it again as a plain .tar file, without compression"
        raise DatasetError(f"{shard}: is not a whole tar archive ({reason_of(error)}); {remedy}") from error
    members = []
    for name, info in found:
        require_portable(shard, name)
        folder = PurePosixPath(name).parent.name
        class_name = classes.get(_key(name)) or folder or shard.stem
        members.append(Member(shard, name, info.offset_data, info.size, class_name))
    if not members:
        raise DatasetError(f"{shard}: contains no images; leave the shard out")
    if (repeated := first_repeated(member.name for member in members)) is not None:
        raise DatasetError(f"{shard}: holds {repeated!r} twice; give each image a name of its own")
    return members


class ShardImages:
    """A map-style data set of the images of shards, each with its class.

    Args:
        members: The images.
        prepare: What prepares an image, whose limits of reading hold; see `retrieval.data.images.decoding_of`.
    """

    def __init__(self, members: Sequence[Member], prepare: Any = None) -> None:
        self.members = list(members)
        self.labels = [member.class_name for member in self.members]
        self._decoding = decoding_of(prepare)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> tuple[Image.Image, str]:
        member = self.members[index]
        with open_file(member.shard) as file:
            file.seek(member.offset)
            content = file.read(member.size)
        return decode_image(io.BytesIO(content), member.path, **self._decoding), member.class_name

    def as_images(self) -> ImageSet:
        """The images as an image set. The path of an image in it is its position here."""
        return ImageSet.from_dataset(self, labels=self.labels)


def _key(name: str) -> str:
    """What the members of a sample have in common: the name up to the first dot of its last part."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".")[0]))


def _expand(pattern: Path) -> list[Path]:
    """The files of a pattern with one or more ranges."""
    names = [str(pattern)]
    while any(_RANGE.search(name) for name in names):
        expanded = []
        for name in names:
            found = _RANGE.search(name)
            if found is None:
                expanded.append(name)
                continue
            first, last = int(found[1]), int(found[2])
            if last < first or (last - first + 1) * len(names) > _MOST:
                raise DatasetError(f"{pattern}: the range {found[0]} stands for no shards, or for too many; correct it")
            width = len(found[1])
            expanded += [
                f"{name[: found.start()]}{number:0{width}}{name[found.end() :]}" for number in range(first, last + 1)
            ]
        names = expanded
    return [Path(name) for name in names]
