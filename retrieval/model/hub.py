"""A model as a repository of the Hugging Face Hub.

    README.md           the model card
    config.json         what timm reads; see `retrieval.model.timm_layout`
    model.json          what `retrieval` reads; see `retrieval.model.description`
    model.safetensors   the weights, for both
    head.safetensors    pooling, norm and head, where timm cannot hold them
    model.onnx          in place of weights: a network that is not one of timm
    gallery.png         queries and their neighbours, of a training run
    manifest.json       size and sha256 of every file except the card, which people edit

A repository may come from anyone. The files are checked against the manifest, and the description against a list of keys, types and
ranges, before anything is built: it can name neither code, nor another file, nor another download.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from retrieval.errors import CheckpointError, RetrievalError
from retrieval.files.hub import CARD, MODEL_REPOSITORY, Snapshot, require_writable, upload
from retrieval.files.manifest import MANIFEST, Files, manifest_text
from retrieval.files.repository import Repository
from retrieval.model import timm_layout
from retrieval.model.card import kept_fields, write_card
from retrieval.model.card_sections import GALLERY, Training, last_part
from retrieval.model.description import DESCRIPTION, ONNX, WEIGHTS, StoredModel, check_description
from retrieval.model.places import Loaded, check_source, load_stored

if TYPE_CHECKING:
    from retrieval.model.model import Model

log = logging.getLogger("retrieval")

_NEEDED = (DESCRIPTION, WEIGHTS, timm_layout.HEAD, ONNX)


def push(model: Model, name: str, *, private: bool = False, training: Training | None = None) -> str:
    """Writes a model into a repository; see `retrieval.Model.push_to_hub`."""
    repository = model_repository(name)
    present = require_writable(repository, private=private)
    files = _files(model.stored())
    source = {key: last_part(value) for key, value in model.source.items()}
    facts = {"dimension": model.embedding_dim, "source": source}
    card = write_card(
        repository.name,
        model,
        loads_with_timm=timm_layout.gives_vectors(files),
        training=training,
        fields=_fields_of(present),
    )
    if training is not None and training.gallery is not None:
        files[GALLERY] = training.gallery
    contents = {CARD: card.encode(), **files, MANIFEST: MODEL_REPOSITORY.text(facts, files)}
    message = f"Model of {model.embedding_dim} dimensions"
    return upload(repository, contents, message=message, private=private, replaced=MODEL_REPOSITORY.files)


def load(place: str) -> Loaded:
    """Loads the model of a repository; see `retrieval.Model.load`.

    Raises:
        RetrievalError: There is no such repository or revision, it holds no such model, a file of it was altered, or the hub cannot
            be reached.
    """
    repository = model_repository(place)
    snapshot = Snapshot.open(repository)
    if MANIFEST not in snapshot.files:
        raise CheckpointError(
            f"{repository}: has no {MANIFEST}, so it was not pushed by retrieval; to start a training with its weights, "
            f"set model.pretrained={repository}"
        )
    folder = snapshot.fetch(MANIFEST)
    manifest = MODEL_REPOSITORY.parse(folder, manifest_text(folder))
    snapshot.fetch(*(name for name in manifest["files"] if name in _NEEDED))
    contents = MODEL_REPOSITORY.read(folder, _NEEDED)
    try:
        check_source(contents.manifest["source"])
        stored = _stored(contents.files)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{repository}: {error}; {MODEL_REPOSITORY.remedy}") from error
    log.info("%s: loaded commit %s", repository, snapshot.commit[:12])
    return load_stored(str(repository), contents.manifest, stored, MODEL_REPOSITORY)


def model_repository(name: str) -> Repository:
    """The repository of a model.

    Raises:
        RetrievalError: The name is none, or that of an index.
    """
    try:
        repository = Repository.parse(name)
    except ValueError as error:
        raise RetrievalError(str(error)) from error
    if repository.kind != "model":
        raise RetrievalError(f"{repository}: is the name of an index; a model is user/name, without datasets/")
    return repository


def _files(stored: StoredModel) -> Files:
    """The files of a repository besides card, picture and manifest."""
    files = stored.to_files()
    if not stored.is_onnx:
        files |= timm_layout.split(stored)
    return files


def _stored(files: Files) -> StoredModel | None:
    """The model in the files of a repository.

    Raises:
        ValueError: They do not fit together.
    """
    stored = StoredModel.from_files(files)
    if stored is None or stored.is_onnx:
        return stored
    check_description(stored.description, is_onnx=False)  # before a name of it is looked up
    return StoredModel(stored.description, timm_layout.join(stored.description, files))


def _fields_of(present: Snapshot | None) -> dict[str, object]:
    """The fields that people filled in on the present card, so that another push keeps them."""
    if present is None or CARD not in present.files:
        return {}
    folder = present.fetch(CARD)
    return kept_fields((folder / CARD).read_text(encoding="utf-8", errors="replace"))
