"""The default folder of a run, and the configuration in it."""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.yaml"


def default_folder(
    source: str | Path, data: str | Path | None = None, *, resume: bool = False, parent: str = "runs"
) -> Path:
    """The folder of a run or another output that is not given.

    Args:
        source: A name of a configuration, or the path of a YAML file.
        data: The folder or the CSV list of the images, if they are given.
        resume: Whether a run is continued: that of a `<folder>/config.yaml` is then in this folder.
        parent: The folder that it is in.

    Returns:
        `<parent>/<name>` of the images, if they are given, or of the configuration; for a `<folder>/config.yaml`,
        `<parent>/<folder>`.
    """
    if data is not None:
        path = Path(data).expanduser().resolve()
        return Path(parent) / (path.name if path.is_dir() else path.stem)
    file = Path(source)
    if file.name != CONFIG:
        return Path(parent) / file.stem
    return file.parent if resume else Path(parent) / file.absolute().parent.name


def config_of(folder: str | Path) -> str | None:
    """The configuration in the folder of a run; None where there is none."""
    file = Path(folder) / CONFIG
    return str(file) if file.is_file() else None
