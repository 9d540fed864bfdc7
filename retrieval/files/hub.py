"""Repositories of the Hugging Face Hub: their names, and the upload and download of files by huggingface_hub.

An upload is one commit: the repository changes completely or not at all. The token comes from the environment variable HF_TOKEN only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from retrieval.errors import CheckpointError, RetrievalError, brief
from retrieval.files.manifest import MANIFEST, FolderKind

log = logging.getLogger("retrieval")

PREFIX = "hf-hub:"
CARD = "README.md"
TOKEN = "HF_TOKEN"

PATIENCE = 4.0  # seconds to wait for the first answer of the hub
STALL = 60.0  # seconds without progress after which an upload fails

_WEIGHTS = "model.safetensors"

Answer = TypeVar("Answer")

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


class MissingRepositoryError(RetrievalError):
    """A repository that does not exist, or that the token cannot read."""


class UnreachableHubError(RetrievalError):
    """A hub that does not answer, or only with a server error."""


@dataclass(frozen=True)
class Repository:
    """The name of a repository.

    Args:
        name: "user/name".
        kind: "model" or "dataset".
        revision: A branch, a tag or a commit; None is the main branch.
    """

    name: str
    kind: str = "model"
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Repository:
        """The repository of "hf-hub:user/name@revision" or "datasets/user/name"; prefix and revision may be missing.

        Raises:
            ValueError: The text is no such name.
        """
        found = re.fullmatch(rf"(?:{PREFIX})?(datasets/)?([\w.-]+/[\w.-]+)(?:@([\w.+/-]+))?", text, re.ASCII)
        if not found or not _is_name(found[2]):
            raise ValueError(
                f"{brief(text)} is no repository; give user/name or datasets/user/name, to load {PREFIX}user/name or "
                f"{PREFIX}user/name@revision"
            )
        return cls(found[2], "dataset" if found[1] else "model", found[3])

    @property
    def url(self) -> str:
        """The page of the repository."""
        return f"{_endpoint()}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    def __str__(self) -> str:
        kind = "datasets/" if self.kind == "dataset" else ""
        return f"{PREFIX}{kind}{self.name}" + (f"@{self.revision}" if self.revision else "")


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
            "etag_timeout": PATIENCE,
        }
        with _in_one_line(self.repository, "download"):
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


def is_hub_place(place: object) -> bool:
    """Whether a place is "hf-hub:..." and not a folder."""
    return str(place).startswith(PREFIX)


def token() -> str | None:
    """The token of the environment."""
    return os.environ.get(TOKEN, "").strip() or None


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
        options: dict[str, Any] = {"revision": repository.revision, "timeout": PATIENCE}
        return api.repo_info(repository.name, repo_type=repository.kind, **options)

    with _in_one_line(repository, "download"):
        info = _within_patience(question)
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
    with _in_one_line(repository, "upload"), _limited():
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
            f"{repository}: a push needs a token; set {TOKEN} to one that may write, of {_endpoint()}/settings/tokens"
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


def _within_patience(question: Callable[[], Answer]) -> Answer:
    """The answer to a question. It is asked in a thread, because the time limit of a request does not include the DNS lookup."""
    answers: list[Answer] = []
    failures: list[Exception] = []

    def ask() -> None:
        try:
            answers.append(question())
        except Exception as error:  # noqa: BLE001 - raised by the caller
            failures.append(error)

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE + 1)
    if answers:
        return answers[0]
    raise failures[0] if failures else TimeoutError(f"no answer within {PATIENCE:g} s")


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Limits the time that a request of the block waits without progress. huggingface_hub waits for ever."""
    from huggingface_hub.utils import get_session

    session: Any = get_session()
    before = getattr(session, "timeout", None)
    session.timeout = STALL
    try:
        yield
    finally:
        session.timeout = before


@contextlib.contextmanager
def _in_one_line(repository: Repository, work: str) -> Iterator[None]:
    """Turns every error of huggingface_hub into one line, and keeps its own lines from the screen."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger = logging.getLogger("huggingface_hub")
    level, hidden = logger.level, are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    quiet = not hidden and not (log.isEnabledFor(logging.INFO) and sys.stderr.isatty())
    if quiet:
        disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RetrievalError:
        raise
    except Exception as error:  # the exceptions depend on the version of huggingface_hub
        raise _translated(error, repository, work) from error
    finally:
        logger.setLevel(level)
        if quiet:
            enable_progress_bars()


def _translated(error: Exception, repository: Repository, work: str) -> RetrievalError:
    """The line that says what went wrong, and what to do."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    cause = error.__cause__ or error.__context__
    if isinstance(error, errors.RevisionNotFoundError):
        return RetrievalError(
            f"{repository}: has no revision {repository.revision!r}; give a branch, a tag or a commit"
        )
    if isinstance(error, errors.GatedRepoError):
        return RetrievalError(f"{repository}: its owner has to allow you to read it; ask on {repository.url}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return MissingRepositoryError(
            f"{repository}: {_endpoint()} has no such repository, or it is private and {_reader()}; check the name"
        )
    if status == 401:
        state = f"does not accept {TOKEN}" if token() else f"asks for a token, and {TOKEN} is not set"
        return RetrievalError(f"{repository}: {_endpoint()} {state}; set it to one of {_endpoint()}/settings/tokens")
    if status == 403:
        return RetrievalError(
            f"{repository}: {_reader().replace('read', work)} ({_endpoint()} answers 403); take another repository or token"
        )
    if isinstance(error, errors.LocalEntryNotFoundError) and cause is not None:
        reason = (str(cause).strip().splitlines() or [reason])[0]
    absent = isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)) or _is_silence(error)
    if absent or (status is not None and status >= 500):
        return UnreachableHubError(f"{repository}: {_endpoint()} cannot be reached ({reason}); try again later")
    return RetrievalError(f"{repository}: the {work} failed ({reason}); try again")


def _is_silence(error: Exception) -> bool:
    """Whether no connection was made or no answer came. httpx, httpx2 and requests have own classes of these names."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return not names.isdisjoint({"ConnectError", "ConnectionError", "TimeoutException", "Timeout", "TimeoutError"})


def _reader() -> str:
    return f"the token in {TOKEN} cannot read it" if token() else f"{TOKEN}, which could read it, is not set"


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _is_name(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
