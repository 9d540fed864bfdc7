"""Reads a configuration from defaults, a file and overrides, and reports all mistakes at once.

Overrides take precedence over the file, and the file over the defaults of the schema. Nothing changes a value afterwards.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from retrieval.config.mistakes import mistake
from retrieval.config.schema import Config
from retrieval.config.suggestions import suggest
from retrieval.config.yaml_text import LARGEST, UNREADABLE, missing_space, parse, parse_value, shorten, write
from retrieval.errors import CheckpointError, ConfigError, brief, did_you_mean
from retrieval.files import read_text
from retrieval.files.reading import IMPOSSIBLE

log = logging.getLogger("retrieval")

Overrides = Sequence[str] | Mapping[str, Any]

# Parts by name, and the options that belong to what the name stands for.
_OPTIONS_OF = {
    "data.name": "data.options",
    "image.augmentation": "image.augmentation_options",
    "model.backbone": "model.backbone_options",
    "training.optimizer": "training.optimizer_options",
}

# What pydantic puts into the location of an error besides keys: the members of a union.
_UNION_MEMBER = re.compile(r"bool|int|float|str|CallbackConfig|constrained-\w+|literal\[.*\]")


def config_names() -> dict[str, str]:
    """The configurations that ship with the package: from name to description, the second line of the file's comment."""
    files = (file for file in resources.files("retrieval.configs").iterdir() if file.name.endswith(".yaml"))
    lines = {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8").splitlines() for file in files}
    return {name: lines[name][1].lstrip("# ") for name in sorted(lines)}


def load(source: str | Path | Config, overrides: Overrides = (), data: str | Path | None = None) -> Config:
    """Reads a configuration.

    Args:
        source: A name of `config_names()`, the path of a YAML file, or a configuration to change.
        overrides: Strings of the form `key=value`, e.g. `loss.projection=std`, whose values are YAML; or a mapping of keys to
            Python values, e.g. `{"loss.projection": "std"}` or `{"loss": {"projection": "std"}}`. An override that chooses
            another loss, data set, augmentation, backbone or optimiser than that of the file drops the file's options of it.
        data: A folder of images, or a CSV list, in place of the data set of the configuration. Overrides take precedence over it.

    Raises:
        ConfigError: With one line for every mistake in the file and in the overrides.
    """
    if isinstance(source, Config):
        origin, values = "configuration", source.model_dump()
        mistakes: list[str] = []
    else:
        origin, text = _read(source)
        values, mistakes = parse(text, origin)
        if _is_of_an_earlier_run(source, values):
            values["image"]["decoding"] = "full"
    if isinstance(overrides, Mapping):
        changes: dict[str, Any] = dict(flatten(overrides))
        kind = "arguments"
    else:
        changes, unreadable = _parse_overrides(overrides)
        mistakes += unreadable
        kind = "command line"
    if data is not None:
        mistakes += [
            f"{key}: the images are given already ({data}); leave out one of them"
            for key in ("data.name", "data.root")
            if key in changes
        ]
        changes = data_options(data) | changes
    if _chooses_another(changes, "loss.name", values.get("loss")) or "loss.terms" in changes:
        values.pop("loss", None)
    _drop_options_of_replaced_parts(values, changes)
    mistakes += [mistake for key, value in changes.items() if (mistake := _assign(values, key, value))]
    mistakes += [f"{key}: holds the character U+{ord(found):04X}; remove it" for key, found in _impossible(values)]
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(mistakes + _mistakes(error, origin, set(changes), kind)) from None
    if mistakes:
        raise ConfigError(mistakes)
    return config


def _is_of_an_earlier_run(source: str | Path, values: Any) -> bool:
    """Whether these are the values of the configuration of a run of an earlier version, which decoded every pixel."""
    path = Path(source)
    is_run = path.name == "config.yaml" and (path.parent / "environment.json").is_file()
    image = values.get("image") if isinstance(values, dict) else None
    return is_run and isinstance(image, dict) and "decoding" not in image


def load_of_run(path: Path) -> Config:
    """Reads the configuration in the folder of a run, which `to_yaml` has written.

    Raises:
        ConfigError: See `load`.
        CheckpointError: A part of the file is gone: it would be replaced by defaults.
    """
    config = load(path)
    if "decoding" not in config.image.model_fields_set:  # a run of an earlier version
        config = config.model_copy(update={"image": config.image.model_copy(update={"decoding": "full"})})
    missing = [name for name in Config.model_fields if name not in config.model_fields_set]
    if missing or not _read(path)[1].endswith("\n"):
        gone = f"it lacks {missing[0]}" if missing else "its last line has no end"
        raise CheckpointError(f"{path}: is not whole ({gone}); restore it, or train again")
    return config


def data_options(path: str | Path) -> dict[str, Any]:
    """The options of the data section that read a folder of images, or a CSV list.

    Raises:
        ConfigError: The path does not exist, or is another file.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return {"data.name": "folder", "data.root": str(path)}
    if path.suffix.lower() != ".csv" or not path.is_file():
        problem = "is no folder and no .csv file" if path.exists() else "does not exist"
        raise ConfigError(f"{path}: {problem}; give a folder of images, or a CSV list of paths and labels")
    return {"data.name": "csv", "data.root": str(path.parent), "data.options.file": path.name}


def option_keys(overrides: Mapping[str, Any]) -> list[str]:
    """The options that overrides set, by dotted keys."""
    return [key for key, _ in flatten(overrides)]


def flatten(overrides: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Mappings of sections as dotted keys; a mapping that is the value of an option stays whole."""
    for key, value in overrides.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and _section(name.split(".")):
            yield from flatten(value, f"{name}.")
        else:
            yield name, _plain(value)


def to_yaml(config: Config) -> str:
    """The configuration with all its values, as YAML that `load` reads back."""
    return write(config.model_dump())


def _read(source: str | Path) -> tuple[str, str]:
    """The origin of a configuration, for messages, and its text."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        try:
            return str(path), read_text(path, LARGEST)
        except (OSError, UnicodeDecodeError) as error:
            if (path / "config.yaml").is_file():
                raise ConfigError(f"{path}: is a folder; give {path / 'config.yaml'}") from error
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            advice = "give a YAML file, or a name from `retrieval config list`"
            raise ConfigError(f"{path}: cannot be read ({reason}); {advice}") from error
    names = config_names()
    if str(source) not in names:
        hint = did_you_mean(str(source), names) or f"; there are {', '.join(names)}, or give a path that ends in .yaml"
        raise ConfigError(f"no configuration is called {str(source)!r}{hint}")
    return f"{source}.yaml", (resources.files("retrieval.configs") / f"{source}.yaml").read_text(encoding="utf-8")


def _parse_overrides(overrides: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """The values of `key=value` strings by key, and the mistakes."""
    values, mistakes = {}, []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            mistakes.append(f"{brief(override)}: expected key=value, e.g. loss.projection=std")
            continue
        try:
            values[key] = _read_value(key, text)
        except UNREADABLE:
            mistakes.append(f"{brief(override)}: the value is not valid YAML")
    return values, mistakes


def _plain(value: Any) -> Any:
    """A Python value as YAML would give it: no paths, tuples or NumPy numbers."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value


def _assign(values: dict[str, Any], key: str, value: Any) -> str | None:
    """Sets a dotted key of nested values; returns the mistake, if there is one."""
    *sections, name = key.split(".")
    inner: Any = values
    for section in sections:
        if inner.get(section) is None:
            inner[section] = {}
        inner = inner[section]
        if not isinstance(inner, dict):
            return f"{key!r}: {section!r} is a value, not a section"
    inner[name] = value
    return None


def _impossible(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The keys of texts with an impossible character, and the character."""
    if isinstance(value, str) and (found := IMPOSSIBLE.search(value)):
        yield shorten(IMPOSSIBLE.sub("?", key)), found[0]
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _impossible(name, f"{key}.{name}".lstrip("."))
            yield from _impossible(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _impossible(item, f"{key}.{position}")


def _chooses_another(changes: Mapping[str, Any], key: str, section: Any) -> bool:
    """Whether overrides replace a part that the section of a file names, so that its options no longer apply."""
    if not isinstance(section, dict):
        return False
    name = section.get(key.split(".")[1], _default(key))
    return bool(changes.get(key, name) != name)


def _drop_options_of_replaced_parts(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Takes the options of parts that overrides replace out of the values of a file, with a line for each."""
    for key, options in _OPTIONS_OF.items():
        section = values.get(key.split(".")[0], {})
        if _chooses_another(changes, key, section) and section.pop(options.split(".")[1], None):
            log.info("%s=%s: the configuration's own %s are left out", key, changes[key], options)


def _default(key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(Config(), section), name)


def _read_value(key: str, text: str) -> Any:
    """The value of an override: YAML, but the text itself where the schema expects a string."""
    *sections, name = key.split(".")
    section = _section(sections)
    wanted = _annotation(section, name) if section else None
    kinds = get_args(wanted) if isinstance(wanted, UnionType) else (wanted,)
    if str not in kinds:
        return parse_value(text)
    constants = {"null": None, "true": True, "false": False}
    return constants[text] if text in constants and type(constants[text]) in kinds else text


def _annotation(section: type[BaseModel], name: str) -> Any:
    return section.model_fields[name].annotation if name in section.model_fields else None


def _section(names: Sequence[str]) -> type[BaseModel] | None:
    """The schema of a section; None if there is no such section."""
    section: Any = Config
    for name in names:
        if get_origin(section) is list:  # the name is a position in the list
            (item,) = get_args(section)
            section = next((kind for kind in (item, *get_args(item)) if _is_section(kind)), None)
        else:
            section = _annotation(section, name) if _is_section(section) else None
    return section if _is_section(section) else None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _mistakes(error: ValidationError, origin: str, overridden: set[str], kind: str) -> list[str]:
    """One line for each key; the members of a union share a line."""
    lines: dict[str, str] = {}
    for item in error.errors(include_url=False):
        path = [str(part) for part in item["loc"] if not _UNION_MEMBER.fullmatch(str(part))]
        key = ".".join(path)
        is_unknown = item["type"] == "extra_forbidden"
        of_section = is_unknown or item["type"] == "value_error"
        is_overridden = any(
            f"{key}.".startswith(f"{name}.") or (of_section and name.startswith(f"{key}.")) for name in overridden
        )
        where = kind if is_overridden else origin
        message = f"{item['msg'][0].lower()}{item['msg'][1:]}"
        if is_unknown:
            for name in sorted(name for name in overridden if name.startswith(f"{key}.")) or [key]:
                lines[name] = f"{where}: unknown key {brief(name)}{_hint(name.split('.'))}"
        elif item["type"] == "model_type":
            found = f"found {brief(item['input'])}{missing_space(str(item['input']))}"
            lines[key] = f"{where}: {key}: expected a section of {', '.join(_known_keys(path))}, {found}"
        elif item["type"] == "value_error":
            text = message.removeprefix("value error, ")
            lines[key] = f"{where}: {mistake(key, text, _known_keys(path)) if key else text}"
        elif key in lines:
            lines[key] += f"; or {message}"
        else:
            lines[key] = f"{where}: {key}: {message}, found {brief(item['input'])}"
    return list(lines.values())


def _hint(path: Sequence[str]) -> str:
    """The options that an unknown key may mean; those of a list, such as loss.terms, are of its own members only."""
    if any(part.isdigit() for part in path):
        return did_you_mean(path[-1], _known_keys(path[:-1]))
    return suggest(".".join(path))


def _known_keys(sections: Sequence[str]) -> list[str]:
    section = _section(sections)
    return list(section.model_fields) if section else []
