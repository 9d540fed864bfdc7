"""Calls of huggingface_hub: limited in time, and with errors of one line."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any, TypeVar

from retrieval.errors import RetrievalError
from retrieval.files.repository import Repository, endpoint

log = logging.getLogger("retrieval")

TOKEN = "HF_TOKEN"

PATIENCE = 4.0  # seconds to wait for the first answer of the hub
STALL = 30.0  # seconds without progress after which an upload fails

Answer = TypeVar("Answer")


class MissingRepositoryError(RetrievalError):
    """A repository that does not exist, or that the token cannot read."""


class UnreachableHubError(RetrievalError):
    """A hub that does not answer, or only with a server error."""


def token() -> str | None:
    """The token of the environment."""
    return os.environ.get(TOKEN, "").strip() or None


def within_patience(question: Callable[[], Answer]) -> Answer:
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
def limited() -> Iterator[None]:
    """Limits the time that a request of the block waits without progress. huggingface_hub waits for ever."""
    from huggingface_hub import get_session

    session: Any = get_session()
    before = getattr(session, "timeout", None)
    session.timeout = STALL
    try:
        yield
    finally:
        session.timeout = before


@contextlib.contextmanager
def in_one_line(repository: Repository, work: str) -> Iterator[None]:
    """Turns every error of huggingface_hub into one line, and keeps its own lines from the screen."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

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
    reason = ": ".join(map(_first_line, filter(None, (error, error.__cause__))))
    if isinstance(error, errors.RevisionNotFoundError):
        return RetrievalError(
            f"{repository}: has no revision {repository.revision!r}; give a branch, a tag or a commit"
        )
    if isinstance(error, errors.GatedRepoError):
        return RetrievalError(f"{repository}: its owner has to allow you to read it; ask on {repository.url}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return MissingRepositoryError(
            f"{repository}: {endpoint()} has no such repository, or it is private and {_reader()}; check the name"
        )
    if status == 401:
        state = f"does not accept {TOKEN}" if token() else f"asks for a token, and {TOKEN} is not set"
        return RetrievalError(f"{repository}: {endpoint()} {state}; set it to one of {endpoint()}/settings/tokens")
    if status == 403:
        return RetrievalError(
            f"{repository}: {_reader().replace('read', work)} ({endpoint()} answers 403); take another repository or token"
        )
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        reason = _first_line(error.__cause__)
    absent = isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)) or _is_silence(error)
    if absent or (status is not None and status >= 500):
        return UnreachableHubError(f"{repository}: {endpoint()} cannot be reached ({reason}); try again later")
    return RetrievalError(f"{repository}: the {work} failed ({reason}); try again")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _is_silence(error: Exception) -> bool:
    """Whether no connection was made or no answer came. httpx, httpx2 and requests have own classes of these names."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return not names.isdisjoint({"ConnectError", "ConnectionError", "TimeoutException", "Timeout", "TimeoutError"})


def _reader() -> str:
    return f"the token in {TOKEN} cannot read it" if token() else f"{TOKEN}, which could read it, is not set"
