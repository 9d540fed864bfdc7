"""The options that `retrieval tune` searches, and the values that each may take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.config.losses import own_temperature
from retrieval.config.network import head_start
from retrieval.config.reading import flatten, load
from retrieval.config.schema import Config
from retrieval.config.yaml_text import LARGEST, parse
from retrieval.errors import ConfigError, brief, did_you_mean
from retrieval.files import read_text
from retrieval.networks import HEAD_STARTS

# What these options change would make two trials incomparable.
_FIXED = ("data", "evaluation", "seed", "device", "training.callbacks")
_EDGE = 0.1  # the part of a range at each end that counts as its edge


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Args:
        low: The smallest number.
        high: The largest number.
        log: Whether numbers are sampled evenly by their logarithm.
        whole: Whether only whole numbers are sampled.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        return type(value) in (int, float) and self.low <= value <= self.high  # type: ignore[operator]

    def __str__(self) -> str:
        return f"{self.low:g} .. {self.high:g}"

    def edge(self, value: float) -> float | None:
        """The end of the range that a value is close to, within a tenth of the range; None for other values."""
        scale = math.log if self.log else float
        low, high, place = scale(self.low), scale(self.high), scale(value)
        margin = _EDGE * (high - low)
        return self.low if place - low < margin else self.high if high - place < margin else None

    def to_dict(self) -> dict[str, Any]:
        """The range as a space file has it."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Choices:
    """Some values, in no order.

    Args:
        values: The values, each once.
    """

    values: tuple[Any, ...]

    def __contains__(self, value: object) -> bool:
        return any(_same(value, other) for other in self.values)

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


Space = dict[str, Range | Choices]


def read_space(source: str | Path | Mapping[str, Any] | None, config: Config) -> Space:
    """The options to search by their dotted names, and the values that each may take.

    Args:
        source: A YAML file, or a mapping as it holds one: from options to a list of values or to `{low: 1e-5, high: 1e-3, log:
            true}`. Sections may be nested. None: see `default_space`.
        config: The configuration that is searched around. The space must contain its own values, which are those of trial 0.

    Raises:
        ConfigError: With one line for each mistake in the space.
    """
    if source is None:
        return default_space(config)
    mistakes: list[str] = []
    if isinstance(source, Mapping):
        origin, values = "space", dict(source)
    else:
        origin = str(source)
        values, mistakes = parse(_read(Path(source)), origin)
    space: Space = {}
    for key, value in flatten(values):
        try:
            space[key] = _read_option(key, value, config)
        except ConfigError as error:
            mistakes += [f"{origin}: {line}" for line in error.mistakes]
    if not values:
        mistakes.append(f"{origin}: names no option; give some, e.g. training.learning_rate: {{low: 1e-5, high: 1e-3}}")
    if mistakes:
        raise ConfigError(mistakes)
    return space


def default_space(config: Config) -> Space:
    """What is searched where no space is given.

    The learning rate from a tenth to ten times that of the configuration; the temperature of the loss from a quarter to four times
    its own, if the loss has one; and the start of the head, if a pretrained backbone has a head.
    """
    rate = config.training.learning_rate
    space: Space = {"training.learning_rate": Range(rate / 10, rate * 10, log=True)}
    if not config.loss.terms and (temperature := own_temperature(config.loss)):
        key, value = temperature
        space[key] = Range(value / 4, value * 4, log=True)
    if config.model.embedding_dim and config.model.pretrained:
        space["model.head_init"] = Choices(HEAD_STARTS)
    return space


def own_values(space: Space, config: Config) -> dict[str, Any]:
    """The values of a configuration for the options of a space."""
    return {key: _own_value(key, config) for key in space}


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with these values of options.

    Raises:
        ConfigError: The values do not go together.
    """
    return load(config, dict(values))


def describe_space(space: Space) -> dict[str, Any]:
    """The space as a space file has it."""
    return {key: item.to_dict() if isinstance(item, Range) else list(item.values) for key, item in space.items()}


def _read(path: Path) -> str:
    try:
        return read_text(path, LARGEST)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason}); give a YAML file of options and their values") from error


def _read_option(key: str, value: Any, config: Config) -> Range | Choices:
    """The values of an option; each is checked as if it was set in the configuration."""
    fixed = next((name for name in _FIXED if f"{key}.".startswith(f"{name}.")), None)
    if fixed:
        raise ConfigError(f"{key}: cannot be searched, since trials with another {fixed} cannot be compared")
    read = _read_range(key, value) if isinstance(value, Mapping) else _read_choices(key, value)
    mistakes: list[str] = []
    for each in (read.low, read.high) if isinstance(read, Range) else read.values:
        mistakes += [line for line in _mistakes(key, each, config) if line not in mistakes]
    if mistakes:
        raise ConfigError(mistakes)
    own = _own_value(key, config)
    if own not in read:
        found = f"the configuration's own value, {brief(own)}, is not among {read}"
        raise ConfigError(f"{key}: {found}; add it, or set {key} to one of them, since trial 0 is the configuration")
    if isinstance(read, Range) and type(read.low) is type(read.high) is int:
        whole = ".options." in key or bool(_mistakes(key, read.low + 0.5, config))
        return Range(read.low, read.high, read.log, whole)
    return read


def _read_range(key: str, value: Mapping[str, Any]) -> Range:
    known = ("low", "high", "log")
    if unknown := [name for name in value if name not in known]:
        hint = did_you_mean(str(unknown[0]), known) or "; a range has low, high and, if you like, log"
        raise ConfigError(f"{key}: unknown key {brief(unknown[0])}{hint}")
    low, high = (_number(key, name, value.get(name)) for name in ("low", "high"))
    log = value.get("log", False)
    if type(log) is not bool:
        raise ConfigError(f"{key}.log: expected true or false, found {brief(log)}")
    if not low < high:
        raise ConfigError(f"{key}: low is {low:g}, expected a number below high, which is {high:g}")
    if log and low <= 0:
        raise ConfigError(f"{key}: low is {low:g}, expected a number above 0 for log: true")
    return Range(low, high, log)


def _number(key: str, name: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ConfigError(f"{key}.{name}: expected a number, found {brief(value)}")
    number: float = value
    return number


def _read_choices(key: str, value: Any) -> Choices:
    if not isinstance(value, (list, tuple)) or len(value) < 2:
        expected = "a list of two or more values, or a range {low: 1e-5, high: 1e-3, log: true}"
        raise ConfigError(f"{key}: expected {expected}, found {brief(value)}")
    for position, each in enumerate(value):
        if any(_same(each, other) for other in value[:position]):
            raise ConfigError(f"{key}: {brief(each)} is there twice; leave one out")
    return Choices(tuple(value))


def _mistakes(key: str, value: Any, config: Config) -> list[str]:
    """What the schema says of a value."""
    try:
        load(config, {key: value})
    except ConfigError as error:
        return [line.removeprefix("arguments: ").removeprefix("configuration: ") for line in error.mistakes]
    return []


def _own_value(key: str, config: Config) -> Any:
    if key == "model.head_init":
        return head_start(config.model)
    value: Any = config.model_dump()
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    temperature = own_temperature(config.loss)
    return temperature[1] if value is None and temperature and key == temperature[0] else value


def _same(one: object, other: object) -> bool:
    """Whether two values are equal and of one type: true is not 1; but 1 is 1.0."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
