"""The Dockerfile can be parsed, and fits the files, the extras, the Python and the command of setup.cfg. Nothing is built."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import command_words
import pytest
from packaging.specifiers import SpecifierSet

docker = pytest.importorskip(
    "dockerfile_parse", reason="dockerfile-parse is not installed; it comes with the extra test"
)

ROOT = Path(__file__).resolve().parent.parent
PARSER = docker.DockerfileParser(str(ROOT / "Dockerfile"))
SETTINGS = configparser.ConfigParser()
SETTINGS.read(ROOT / "setup.cfg")


def values(instruction: str) -> list[str]:
    """The arguments of every such instruction."""
    return [part["value"] for part in PARSER.structure if part["instruction"] == instruction]


def pairs(section: str, key: str) -> dict[str, str]:
    """The lines "a = b" of an option of setup.cfg."""
    return dict(line.split(" = ") for line in SETTINGS[section][key].strip().splitlines())


def copied() -> list[str]:
    """The files and folders that are copied into the image, each to its own name."""
    found = []
    for value in values("COPY"):
        *sources, target = value.split()
        assert target == "./" or sources == [target], value
        found += sources
    return found


def is_ignored(path: str) -> bool:
    """Whether .dockerignore leaves out a file or a folder: the last line that matches it, or a folder above it, decides."""
    names = [path, *map(str, PurePosixPath(path).parents)][:-1]
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split():
        if any(fnmatchcase(name, line.removeprefix("!")) for name in names):
            ignored = not line.startswith("!")
    return ignored


def test_every_instruction_is_one_of_dockers():
    known = {
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "ONBUILD",
        "RUN",
    }
    known |= {"SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}  # https://docs.docker.com/reference/dockerfile/
    found = [part["instruction"] for part in PARSER.structure if part["instruction"] != "COMMENT"]
    assert found[0] == "FROM"
    assert set(found) <= known


def test_every_file_that_the_package_is_built_from_is_copied_and_sent_to_docker():
    metadata = SETTINGS["metadata"]
    files = [
        "setup.cfg",
        "pyproject.toml",
        metadata["license_files"],
        metadata["long_description"].removeprefix("file: "),
    ]
    folders = pairs("options", "package_dir")
    for package in SETTINGS["options"]["packages"].split():
        parent = max((name for name in folders if f"{package}.".startswith(f"{name}.")), key=len)
        files.append(f"{folders[parent]}{package.removeprefix(parent)}".replace(".", "/"))
    for file in [*files, *copied()]:
        assert (ROOT / file).exists(), file
        assert any(PurePosixPath(file).is_relative_to(source) for source in copied()), file
        assert not is_ignored(file), file


def test_other_files_are_not_sent_to_docker():
    for path in (".git", ".venv", "runs", "tests", "retrieval/model/__pycache__"):
        assert is_ignored(path), path


def test_python_and_extras_are_those_of_the_package():
    image, _, tag = PARSER.baseimage.partition(":")
    assert image == "python"
    assert SpecifierSet(SETTINGS["options"]["python_requires"]).contains(tag.partition("-")[0])
    extras = ",".join(re.findall(r'pip install .*"\.\[(.*?)\]"', "\n".join(values("RUN")))).split(",")
    assert set(extras) <= set(SETTINGS["options.extras_require"])


def test_the_entry_point_is_the_command_and_its_arguments_are_understood():
    (entry,), (arguments,) = map(json.loads, values("ENTRYPOINT")), map(json.loads, values("CMD"))
    assert set(entry) <= set(pairs("options.entry_points", "console_scripts"))
    example = re.search(r"docker run .* retrieval (.*)", PARSER.content)
    for words in (arguments, shlex.split(example[1])):
        command_words.check(words)
