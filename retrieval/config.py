"""Reading a configuration: from defaults, a file and overrides, with all mistakes reported at once.

Values come from the schema's defaults, then the file, then `key=value` overrides, and nothing changes them afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from retrieval.errors import ConfigError, did_you_mean
from retrieval.schema import Config
from retrieval.yaml_text import parse, parse_value, write

__all__ = ["Config", "config_names", "load", "to_yaml"]


def config_names() -> dict[str, str]:
    """The configurations that ship with the project: name to what it is, the second line of its comment."""
    files = (file for file in resources.files("retrieval.configs").iterdir() if file.name.endswith(".yaml"))
    lines = {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8").splitlines() for file in files}
    return {name: lines[name][1].lstrip("# ") for name in sorted(lines)}


def load(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration.

    Args:
        source: a name from `config_names()`, or the path of a YAML file.
        overrides: words of the form `key=value`, e.g. `loss.projection=std`; the value is YAML. Where one of them chooses another
            loss than the file, what the file says of its own loss does not count.

    Raises:
        ConfigError: with one line for every mistake, in the file and in the overrides.
    """
    place, text = _find(source)
    values, mistakes = parse(text, place)
    if _choose_another_loss(overrides, values.get("loss")):
        del values["loss"]
    mistakes += _apply(values, overrides)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        overridden = {override.partition("=")[0] for override in overrides}
        raise ConfigError(mistakes + _mistakes(error, place, overridden)) from None
    if mistakes:
        raise ConfigError(mistakes)
    return config


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML that `load` reads back."""
    return write(config.model_dump())


def _find(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        try:
            return str(path), path.read_text(encoding="utf-8-sig")
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


def _apply(values: dict[str, Any], overrides: Iterable[str]) -> list[str]:
    """Writes the overrides into the nested values; returns the mistakes."""
    mistakes = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            mistakes.append(f"{override!r}: expected key=value, e.g. loss.projection=std")
            continue
        try:
            value = _read_value(key, text)
        except (yaml.YAMLError, ValueError):
            mistakes.append(f"{override!r}: the value is not valid YAML")
            continue
        *sections, name = key.split(".")
        inner: Any = values
        for section in sections:
            if inner.get(section) is None:
                inner[section] = {}
            inner = inner[section]
            if not isinstance(inner, dict):
                mistakes.append(f"{override!r}: {section!r} is a value, not a section")
                break
        else:
            inner[name] = value
    return mistakes


def _choose_another_loss(overrides: Iterable[str], loss: Any) -> bool:
    """Whether the options of the file's loss would be those of a loss that is no longer there."""
    if not isinstance(loss, dict):
        return False
    chosen = dict(override.partition("=")[::2] for override in overrides)
    return "loss.terms" in chosen or chosen.get("loss.name", loss.get("name", "recall")) != loss.get("name", "recall")


def _read_value(key: str, text: str) -> Any:
    """The value of an override: YAML, but the text as it stands where the schema wants a word or a path."""
    *sections, name = key.split(".")
    section = _section(sections)
    wanted = _annotation(section, name) if section else None
    kinds = get_args(wanted) if isinstance(wanted, UnionType) else (wanted,)
    if str not in kinds:
        return parse_value(text)
    words = {"null": None, "true": True, "false": False}
    return words[text] if text in words and type(words[text]) in kinds else text


def _annotation(section: type[BaseModel], name: str) -> Any:
    return section.model_fields[name].annotation if name in section.model_fields else None


def _section(names: Sequence[str]) -> type[BaseModel] | None:
    """The schema of a section, None if there is none of these names."""
    section: Any = Config
    for name in names:
        if get_origin(section) is list:  # the name is a place in it
            section = get_args(section)[0]
        else:
            section = _annotation(section, name) if _is_section(section) else None
    return section if _is_section(section) else None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _mistakes(error: ValidationError, place: str, overridden: set[str]) -> list[str]:
    """One line per key; the members of a union are reported in one."""
    lines: dict[str, str] = {}
    for item in error.errors(include_url=False):
        path = [str(part) for part in item["loc"] if part not in ("bool", "str")]
        key = ".".join(path)
        is_unknown = item["type"] == "extra_forbidden"
        is_overridden = any(
            f"{key}.".startswith(f"{word}.") or (is_unknown and word.startswith(f"{key}.")) for word in overridden
        )
        where = "command line" if is_overridden else place
        message = f"{item['msg'][0].lower()}{item['msg'][1:]}"
        if is_unknown:
            lines[key] = f"{where}: unknown key {key!r}{did_you_mean(path[-1], _known_keys(path[:-1]))}"
        elif item["type"] == "model_type":
            lines[key] = (
                f"{where}: {key}: expected a section of {', '.join(_known_keys(path))}, found {_shorten(item['input'])}"
            )
        elif item["type"] == "value_error":
            lines[key] = ": ".join(filter(None, (where, key, message.removeprefix("value error, "))))
        elif key in lines:
            lines[key] += f"; or {message}"
        else:
            lines[key] = f"{where}: {key}: {message}, found {_shorten(item['input'])}"
    return list(lines.values())


def _known_keys(sections: Sequence[str]) -> list[str]:
    section = _section(sections)
    return list(section.model_fields) if section else []


def _shorten(value: Any, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 1] + "…"
