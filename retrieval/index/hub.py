"""An index as a data set of the Hugging Face Hub: the files of its folder, and a card."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCardData

from retrieval.errors import IndexFormatError, RetrievalError, plural
from retrieval.files import claim_folder, folder_in_one_piece
from retrieval.files.hub import CARD, Snapshot, require_writable, upload
from retrieval.files.manifest import MANIFEST, manifest_text
from retrieval.files.repository import Repository
from retrieval.index.manifest import INDEX_FOLDER, THUMBNAILS
from retrieval.index.writing import require_replaceable
from retrieval.model.card import card_with_fields, kept_fields

if TYPE_CHECKING:
    from retrieval.index.index import Index

log = logging.getLogger("retrieval")


def push(index: Index, name: str, *, private: bool = False) -> str:
    """Writes the files of an index into a repository; see `retrieval.Index.push_to_hub`."""
    repository = index_repository(name)
    if index.folder is None:
        raise RetrievalError("this index is in memory only; write it into a folder first, with `out`")
    text = manifest_text(index.folder)
    manifest = INDEX_FOLDER.parse(index.folder, text)
    present = require_writable(repository, private=private)
    fields: dict[str, Any] = {}
    if present is not None and CARD in present.files:
        fields = kept_fields((present.fetch(CARD) / CARD).read_text(encoding="utf-8", errors="replace"))
    log.info(
        "%s: the repository will name the path of every image and their folder, %s%s",
        repository,
        manifest["images_root"],
        ", and hold a small picture of each" if THUMBNAILS in manifest["files"] else "",
    )
    contents: dict[str, bytes | Path] = {file: index.folder / file for file in manifest["files"]}
    contents |= {MANIFEST: text or b"", CARD: _card(repository, manifest, fields).encode()}
    message = f"Index of {plural(manifest['count'], 'vector')}"
    return upload(repository, contents, message=message, private=private, replaced=INDEX_FOLDER.files)


def pull(name: str, out: str | Path, *, overwrite: bool = False) -> Path:
    """Downloads an index into a new folder, after checking every file of it.

    Args:
        name: "datasets/user/name", which may end in "@" and a branch, a tag or a commit.
        out: The new folder.
        overwrite: Replace an index in that folder.

    Returns:
        The folder.

    Raises:
        RetrievalError: There is no such repository or revision, it holds no index, a file of it was altered, the hub cannot be
            reached, or the folder cannot be written.
    """
    repository, out = index_repository(name), Path(out)
    with claim_folder(out, overwrite, require_replaceable):
        snapshot = Snapshot.open(repository)
        if MANIFEST not in snapshot.files:
            raise IndexFormatError(f"{repository}: has no {MANIFEST}, so it holds no index; give another repository")
        folder = snapshot.fetch(MANIFEST)
        files = INDEX_FOLDER.parse(folder, manifest_text(folder))["files"]
        snapshot.fetch(MANIFEST, *files)
        for file in INDEX_FOLDER.read(folder).mapped.values():
            file.check()
        with folder_in_one_piece(out, overwrite=overwrite, check=require_replaceable) as new:
            for file in (*files, MANIFEST):  # the cache holds links
                shutil.copyfile(folder / file, new / file)
    return out


def index_repository(name: str) -> Repository:
    """The repository of an index.

    Raises:
        RetrievalError: The name is none, or that of a model.
    """
    try:
        repository = Repository.parse(name)
    except ValueError as error:
        raise RetrievalError(str(error)) from error
    if repository.kind != "dataset":
        raise RetrievalError(f"{repository}: is the name of a model; an index is datasets/{repository.name}")
    return repository


def _card(repository: Repository, manifest: dict[str, Any], fields: dict[str, Any]) -> str:
    """The text of README.md."""
    name = repository.name
    vectors, classes = plural(manifest["count"], "vector"), plural(manifest["num_classes"], "class", "classes")
    has_model = any(file.startswith("model.") for file in manifest["files"])
    queries = (
        "It holds the model that embeds queries." if has_model else "It holds no model: only vectors are searched."
    )
    data = DatasetCardData(tags=["image-retrieval", "retrieval-index"], **fields)
    sections = [
        f"# {name}",
        f"An index for image retrieval: {vectors} of {plural(manifest['dimension'], 'number')}, of images of {classes}. {queries}",
        "## Use",
        f"```bash\nretrieval hub pull datasets/{name} --out index\nretrieval search index photo.jpg\n```",
        "## Data set and licence",
        f"- Licence of the vectors and pictures: {fields.get('license') or 'fill in'}.\n- Origin of the images: fill in.",
    ]
    return card_with_fields(data, fields, sections, ("license",))
