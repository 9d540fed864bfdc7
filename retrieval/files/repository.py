"""The names of repositories of the Hugging Face Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass

from retrieval.errors import brief

PREFIX = "hf-hub:"

_PART = r"\w(?:[\w.-]*\w)?"


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
        found = re.fullmatch(rf"(?:{PREFIX})?(datasets/)?({_PART}/{_PART})(?:@([\w.+/-]+))?", text, re.ASCII)
        if not found or ".." in text or "--" in found[2] or found[2].endswith(".git"):
            raise ValueError(
                f"{brief(text)} is no repository; give user/name or datasets/user/name, to load {PREFIX}user/name or "
                f"{PREFIX}user/name@revision"
            )
        return cls(found[2], "dataset" if found[1] else "model", found[3])

    @property
    def url(self) -> str:
        """The page of the repository."""
        return f"{endpoint()}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    def __str__(self) -> str:
        kind = "datasets/" if self.kind == "dataset" else ""
        return f"{PREFIX}{kind}{self.name}" + (f"@{self.revision}" if self.revision else "")


def is_hub_place(place: object) -> bool:
    """Whether a place is "hf-hub:..." and not a folder."""
    return str(place).startswith(PREFIX)


def endpoint() -> str:
    """The address of the hub: HF_ENDPOINT, as it was when huggingface_hub was imported."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)
