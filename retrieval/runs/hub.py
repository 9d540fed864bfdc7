"""Models and indexes to the Hugging Face Hub and back."""

from __future__ import annotations

import shlex
from pathlib import Path

from retrieval.errors import RetrievalError
from retrieval.files import require_free_folder
from retrieval.files.hub import require_writable
from retrieval.files.repository import Repository
from retrieval.index import Index
from retrieval.index import hub as indexes
from retrieval.model import Model
from retrieval.model.places import INDEX_FOLDER, require_replaceable
from retrieval.runs.run import Run
from retrieval.training import RunFolder


def push(
    place: str | Path,
    repository: str,
    *,
    checkpoint: str | None = None,
    private: bool = False,
    gallery: bool = True,
) -> str:
    """Writes the model of a run, a saved model or an index into a repository of the Hugging Face Hub.

    Args:
        place: The folder of either.
        repository: "user/name" for a model, "datasets/user/name" for an index.
        checkpoint: The weights of a run; see `retrieval.Model.load`.
        private: Whether a new repository is private.
        gallery: Whether the card of a run shows its picture of queries and their neighbours.

    Returns:
        The page of the repository.

    Raises:
        RetrievalError: The folder is none of these or does not fit the name, the token may not write, or the hub cannot be reached.
    """
    require_writable(_parse(repository), private=private)  # before any work
    if _parse(repository).kind == "dataset":
        if checkpoint is not None:
            raise RetrievalError(f"{place}: an index has no {checkpoint} checkpoint; leave it out")
        return Index.open(place).push_to_hub(repository, private=private)
    if RunFolder(place).config.exists():
        return Run.open(place).push_to_hub(repository, checkpoint=checkpoint, private=private, gallery=gallery)
    if INDEX_FOLDER.claims(Path(place)):
        name = _parse(repository).name
        raise RetrievalError(
            f"{place}: is an index; give datasets/{name}, or push its model alone after "
            f"`retrieval export model {shlex.quote(str(place))} --out MODEL`"
        )
    return Model.load(place, checkpoint=checkpoint, device="cpu").push_to_hub(repository, private=private)


def pull(repository: str, out: str | Path, *, overwrite: bool = False) -> Model | Index:
    """Downloads a model or an index from the Hugging Face Hub into a new folder, after checking every file.

    Args:
        repository: "user/name" for a model, "datasets/user/name" for an index; with "@" and a branch, a tag or a commit at the end.
        out: The new folder: of a saved model, or of an index.
        overwrite: Replace a saved model, or an index, in that folder.

    Returns:
        The model or the index.

    Raises:
        RetrievalError: There is no such repository or revision, a file was altered, the hub cannot be reached, or the folder cannot
            be written.
    """
    place = _parse(repository)
    if place.kind == "dataset":
        return Index.open(indexes.pull(repository, out, overwrite=overwrite), device="cpu")
    require_free_folder(out, overwrite, require_replaceable)  # before the download
    model = Model.load(str(place), device="cpu")
    model.save(out, overwrite=overwrite)
    return model


def _parse(repository: str) -> Repository:
    try:
        return Repository.parse(repository)
    except ValueError as error:
        raise RetrievalError(str(error)) from error
