"""Upload and download of files of the Hugging Face Hub by huggingface_hub.

An upload is one commit: the repository changes completely or not at all. The token comes from the environment variable HF_TOKEN.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.errors import CheckpointError, RetrievalError
from retrieval.files import hub_calls
from retrieval.files.hub_calls import (
    TOKEN,
    MissingRepositoryError,
    UnreachableHubError,
    in_one_line,
    limited,
    token,
    within_patience,
)
from retrieval.files.manifest import MANIFEST, FolderKind
from retrieval.files.repository import Repository, endpoint

log = logging.getLogger("retrieval")

CARD = "README.md"

_WEIGHTS = "model.safetensors"

# What `retrieval` puts into the repository of a model. The card is not among them: people edit it on the hub.
MODEL_REPOSITORY = FolderKind(
    format="retrieval model repository",
    version=1,
    noun="a model repository",
    files=("model.json", "model.safetensors", "head.safetensors", "model.onnx", "config.json", "gallery.png"),
    facts={"dimension": int, "source": dict},
    remedy="remove this folder from the cache and load the model again, or push the model again",
    error=CheckpointError,
)


@dataclass(frozen=True)
class Snapshot:
    """The files of a repository at one commit.

    Args:
        repository: The repository.
        commit: The commit.
        files: The names of its files.
        private: Whether only its owners can read the repository.
        folder: The folder of the local cache that is read because the hub cannot be reached; None: files are downloaded.
    """

    repository: Repository
    commit: str
    files: tuple[str, ...]
    private: bool = False
    folder: Path | None = None

    @classmethod
    def open(cls, repository: Repository) -> Snapshot:
        """The present files of a repository. If the hub cannot be reached, those of the local cache.

        Raises:
            RetrievalError: There is no such repository or revision, or the hub cannot be reached and the cache is empty.
        """
        try:
            return ask(repository)
        except UnreachableHubError as error:
            if (cached := _cached(repository)) is None:
                raise
            log.info("%s: the hub cannot be reached; the copy in the cache is used, %s", repository, cached.folder)
            log.debug("%s", error)
            return cached

    def fetch(self, *names: str) -> Path:
        """Downloads files, as far as the cache lacks them, and returns the folder that holds them.

        Raises:
            RetrievalError: The download was interrupted, or the repository lacks a file.
        """
        from huggingface_hub import hf_hub_download

        for name in names:
            if name not in self.files:
                raise CheckpointError(f"{self.repository}: has no {name}; give another repository or revision")
        if self.folder is not None:
            return self.folder
        options: dict[str, Any] = {
            "repo_type": self.repository.kind,
            "token": token() or False,
            "etag_timeout": hub_calls.PATIENCE,
        }
        with in_one_line(self.repository, "download"):
            files = [hf_hub_download(self.repository.name, name, revision=self.commit, **options) for name in names]
            # Asked for by the name of the branch, the cache also keeps which commit it is, for a time without the hub.
            hf_hub_download(self.repository.name, names[0], revision=self.repository.revision, **options)
        return Path(files[0]).parents[names[0].count("/")]


def weights_file(repository: Repository) -> Path:
    """The file model.safetensors of a repository, in the local cache. Where `retrieval` pushed it, its sha256 is checked.

    Raises:
        RetrievalError: There is none, it was altered, or it cannot be downloaded.
    """
    snapshot = Snapshot.open(repository)
    folder = snapshot.fetch(_WEIGHTS, *({MANIFEST} & set(snapshot.files)))
    if MODEL_REPOSITORY.claims(folder):
        MODEL_REPOSITORY.read(folder, [_WEIGHTS])
    return folder / _WEIGHTS


def ask(repository: Repository) -> Snapshot:
    """The files of a repository, as the hub answers within `PATIENCE` seconds.

    Raises:
        MissingRepositoryError: There is no such repository.
        UnreachableHubError: The hub does not answer.
        RetrievalError: There is no such revision, or the token is not accepted.
    """
    from huggingface_hub import HfApi

    def question() -> Any:
        api = HfApi(token=token() or False)
        options: dict[str, Any] = {"revision": repository.revision, "timeout": hub_calls.PATIENCE}
        return api.repo_info(repository.name, repo_type=repository.kind, **options)

    with in_one_line(repository, "download"):
        info = within_patience(question)
    files = tuple(file.rfilename for file in info.siblings or ())
    return Snapshot(repository, info.sha or "", files, bool(info.private))


def upload(
    repository: Repository,
    contents: Mapping[str, bytes | Path],
    *,
    message: str,
    private: bool = False,
    replaced: Collection[str] = (),
) -> str:
    """Writes files into a repository, which is made where it does not exist, as one commit.

    Args:
        repository: The repository.
        contents: The content, or the file, of each name.
        message: The message of the commit.
        private: Whether a new repository is private.
        replaced: Names that are removed where they are not among the contents.

    Returns:
        The page of the repository.

    Raises:
        RetrievalError: There is no token, or it may not write; the hub cannot be reached; or the upload was interrupted.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    present = require_writable(repository, private=private)
    api = HfApi(token=token())
    with in_one_line(repository, "upload"), limited():
        if present is None:
            api.create_repo(repository.name, repo_type=repository.kind, private=private, exist_ok=True)
        files = () if present is None else present.files
        gone = [CommitOperationDelete(name) for name in files if name in replaced and name not in contents]
        added = [CommitOperationAdd(name, content) for name, content in contents.items()]
        api.create_commit(repository.name, [*added, *gone], commit_message=message, repo_type=repository.kind)
    return repository.url


def require_writable(repository: Repository, *, private: bool = False) -> Snapshot | None:
    """Checks before any work that a push can begin; returns what the repository holds, None if it does not exist yet.

    Raises:
        RetrievalError: There is no token, or it is not accepted; the hub cannot be reached; or the repository is public, although
            a private one is asked for.
    """
    if repository.revision is not None:
        raise RetrievalError(f"{repository}: a push goes to the main branch; leave out @{repository.revision}")
    if token() is None:
        raise RetrievalError(
            f"{repository}: a push needs a token; set {TOKEN} to one that may write, of {endpoint()}/settings/tokens"
        )
    try:
        present = ask(repository)
    except MissingRepositoryError:
        return None
    if private and not present.private:
        raise RetrievalError(f"{repository}: exists and is public; make it private on {repository.url}/settings first")
    return present


def _cached(repository: Repository) -> Snapshot | None:
    """The files of a repository in the local cache; None where it was never loaded."""
    from huggingface_hub import try_to_load_from_cache

    place = {"repo_type": repository.kind, "revision": repository.revision}
    for name in (MANIFEST, _WEIGHTS):
        found = try_to_load_from_cache(repository.name, name, **place)
        if isinstance(found, str):
            folder = Path(found).parent
            files = tuple(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            return Snapshot(repository, folder.name, files, folder=folder)
    return None
