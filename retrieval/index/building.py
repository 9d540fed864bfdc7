"""Makes bundles from images and a model, or from vectors."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from retrieval import evaluation
from retrieval.data import ImageSet, given_images, images_in, listed_images, pixel_limit, readable
from retrieval.data.image_set import first_repeated
from retrieval.data.names import refuse_alike
from retrieval.errors import ConfigError, IndexFormatError, RetrievalError
from retrieval.files import require_free_folder
from retrieval.index import approximate, arrays, editing
from retrieval.index.bundle import Bundle, read_bundle
from retrieval.index.items import check_names
from retrieval.index.parts import embed_in_parts, parts_folder, thumbnails_of
from retrieval.index.writing import make_bundle, require_replaceable, write_bundle
from retrieval.model import Model, precision
from retrieval.model.description import StoredModel
from retrieval.training import distributed

log = logging.getLogger("retrieval")


def build(
    model: Model,
    images: ImageSet,
    out: Path | None,
    *,
    kind: str,
    thumbnails: bool,
    split: str,
    unseen: tuple[int, int] | None,
    overwrite: bool,
) -> Bundle:
    """Embeds images and makes a bundle of them; see `retrieval.Index.build`."""
    if kind != approximate.EXACT:
        with usage_errors():
            kind = approximate.factory_string(kind, len(images), model.embedding_dim)
    check_names(out or Path("index"), images.class_names, images.paths)
    refuse_alike(images.class_names, images.origin)
    stored = stored_model(model, out)

    def make(vectors: np.ndarray, cost: dict[str, Any]) -> Bundle:
        return make_bundle(
            vectors=vectors,
            ids=np.arange(len(images)),
            labels=images.labels,
            class_names=images.class_names,
            paths=images.paths,
            model=stored,
            images_root=str(images.root.resolve()),
            split=split,
            source=model.source | model.ran | cost,
            kind=kind,
            pictures=thumbnails_of(images, pixel_limit(model.preprocessing))
            if thumbnails or not images.is_on_disk
            else None,
            unseen=unseen,
            where=out or "index",
        )

    if out is None:
        vectors = model.encode(images)
        return make(vectors, precision.measure(model, images, vectors))
    with distributed.joined(model.device) as device, contextlib.ExitStack() as stack:
        folder = stack.enter_context(parts_folder(out))
        # Again, since another call may just have written it.
        distributed.on_main(lambda: require_free_folder(out, overwrite, require_replaceable))
        model.to(device)
        in_parts = None if not images.is_on_disk else stored
        vectors = (
            model.encode(images) if in_parts is None else model.unit(embed_in_parts(model, in_parts, images, folder))
        )
        cost = precision.measure(model, images, vectors)
        written: list[Bundle] = []  # in rank 0 only; the others read it
        distributed.on_main(lambda: written.append(write_bundle(make(vectors, cost), out, overwrite=overwrite)))
        return written[0] if written else read_bundle(out)


@contextlib.contextmanager
def from_vectors(
    vectors: Any,
    labels: Iterable[Any],
    *,
    ids: Sequence[int] | None,
    paths: Sequence[str] | None,
    root: Path,
    model: Model | None,
    kind: str,
    out: Path | None,
) -> Iterator[Bundle]:
    """Makes a bundle of vectors; see `retrieval.Index.from_vectors`. It can be written inside the block."""
    with arrays.units("vectors", vectors, out) as rows:
        if labels is None:
            raise ValueError("labels is None; give the class of every vector")
        labels = [label.item() if isinstance(label, Tensor) else label for label in labels]
        names = [str(label) for label in labels]
        numbers = np.unique(evaluation.number_labels(labels)[0], return_inverse=True)[1]
        if len(numbers) != len(rows):
            raise ValueError(f"{len(rows)} vectors and {len(numbers)} labels; give one label for each vector")
        name_of = dict(zip(numbers.tolist(), names, strict=True))
        refuse_alike(name_of.values(), out or "index")
        if len(set(name_of.values())) < len(name_of):
            raise ValueError("two different labels have the same text, such as 1 and '1'; give all of one type")
        if model is not None and model.embedding_dim != rows.shape[1]:
            raise ValueError(f"the model makes vectors of {model.embedding_dim} numbers, these have {rows.shape[1]}")
        if paths is not None and (repeated := first_repeated(map(str, paths))) is not None:
            raise ValueError(f"paths holds {repeated!r} twice; give each image once")
        with usage_errors():
            bundle = make_bundle(
                vectors=rows,
                ids=np.arange(len(rows)) if ids is None else np.asarray(ids),
                labels=numbers,
                class_names=[name_of[number] for number in sorted(name_of)],
                paths=None if paths is None else [str(path) for path in paths],
                model=None if model is None else stored_model(model, out),
                images_root=str(root.resolve()),
                split="vectors",
                source={} if model is None else model.source,
                kind=kind,
                where=out or "index",
            )
        yield bundle


@contextlib.contextmanager
def from_files(vectors: Path, labels: Path, *, kind: str, out: Path | None) -> Iterator[Bundle]:
    """Makes a bundle of files of another program; see `retrieval.Index.from_files`. It can be written inside the block."""
    with arrays.read_vectors(vectors, out) as rows:
        items = arrays.read_labels(labels, len(rows), vectors)
        with usage_errors():
            bundle = make_bundle(
                vectors=rows,
                **items,
                model=None,
                images_root=str(labels.resolve().parent),
                split="vectors",
                source={"vectors": str(vectors), "labels": str(labels)},
                kind=kind,
                where=out or "index",
            )
        yield bundle


def add(
    bundle: Bundle,
    model: Model,
    images: Any,
    *,
    class_name: str | None,
    root: str | Path | None,
    skip_unreadable: bool,
) -> tuple[int, Bundle]:
    """Embeds images and adds those to a bundle that it does not hold; see `retrieval.Index.add`.

    Returns:
        The number of images that were added, and the new bundle.
    """
    added = images if isinstance(images, ImageSet) else given_images(_paths(images))
    if skip_unreadable:
        added = readable(added, model.workers, max_pixels=pixel_limit(model.preprocessing))
    images_root = bundle.manifest["images_root"] if root is None else _moved_root(bundle, Path(root))
    paths: Sequence[str] = added.paths
    if added.is_on_disk:
        paths = [_stored_path(Path(images_root), added.root / path) for path in added.paths]
    names = [class_name or added.class_names[label] for label in added.labels]
    check_names(Path(str(bundle)), names, paths)
    editing.require_class_names(bundle, names)
    held = editing.positions_held(bundle, names, paths)
    with contextlib.ExitStack() as stack:
        folder = None if bundle.folder is None else stack.enter_context(parts_folder(bundle.folder))
        if folder is None or bundle.model is None or not model.takes_tensors or not added.is_on_disk:
            vectors = model.encode(added)
        else:
            vectors = model.unit(embed_in_parts(model, bundle.model, added, folder))
        try:
            editing.require_same_content(bundle, vectors, paths, held)
        except IndexFormatError:
            if folder is not None:  # the same call would be refused again
                shutil.rmtree(folder, ignore_errors=True)
            raise
        new = [i for i in range(len(paths)) if i not in held]
        if held:
            log.info("%s: holds %d of %d images already, which are not added again", bundle, len(held), len(paths))
        if not new:
            return 0, bundle
        limit = pixel_limit(model.preprocessing)
        pictures = thumbnails_of(added.select(new), limit) if bundle.has_thumbnails else None
        changed = editing.add(
            bundle, vectors[new], [names[i] for i in new], [paths[i] for i in new], pictures, images_root=images_root
        )
    return len(new), changed


def _stored_path(root: Path, file: Path) -> str:
    """The path of an image in a bundle; see `editing.path_below`. Links to folders are followed where it is not below the root."""
    file = file.absolute()
    return editing.path_below(root, file if file.is_relative_to(root) else file.parent.resolve() / file.name)


def _moved_root(bundle: Bundle, root: Path) -> str:
    """The new folder of the images of a bundle, checked for all of them: the folder is that of every item.

    Raises:
        ConfigError: An image of the bundle is not there.
    """
    missing = [path for path in bundle.paths if not (root / path).is_file()]
    if missing:
        raise ConfigError(
            f"{root}: is not the folder of all images of {bundle}: {missing[0]!r} and {len(missing) - 1} more are not there; "
            "leave --root out to add images from anywhere"
        )
    return str(root.resolve())


def image_set_of(images: Any) -> ImageSet:
    """The images that a caller names, as an image set.

    Args:
        images: An `ImageSet`, a folder, a CSV list, a list of image files and folders, or a `torch.utils.data.Dataset`.
    """
    if isinstance(images, ImageSet):
        return images
    if isinstance(images, (str, Path)):
        path = Path(images)
        return listed_images(path) if path.suffix.lower() == ".csv" else images_in(path)
    if hasattr(images, "__getitem__") and not isinstance(images, (list, tuple)):
        return ImageSet.from_dataset(images)
    return given_images(_paths(images))


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turns a ValueError of the block into an error of the arguments that a user gave."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _paths(images: Any) -> list[str | Path]:
    """Image files and folders, or one of them, as a list."""
    places = list(images) if isinstance(images, Iterable) and not isinstance(images, str) else [images]
    wrong = [place for place in places if not isinstance(place, (str, Path))]
    if wrong:
        kind = type(wrong[0]).__name__
        raise ConfigError(f"the images are of type {kind}; give paths, or a Dataset of (image, label)")
    return places


def stored_model(model: Model, out: Path | None) -> StoredModel | None:
    """The model as files hold it; None, with a warning, where no file can hold it.

    An index in memory holds its model as it is, so that nothing is exported before the index is saved.
    """
    if out is None and not model.is_described:
        return None
    try:
        return model.stored()
    except IndexFormatError:
        raise
    except RetrievalError as error:
        log.warning("%s: will hold no model: %s; open it with Index.open(%r, model=model)", out, error, str(out))
        return None
