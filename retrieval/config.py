"""The configuration: a typed schema, its files, and mistakes reported all at once.

Values come from the schema's defaults, then the file, then `key=value` overrides, and nothing changes them afterwards. YAML is
read by the rules of YAML 1.2: `1e-4` is a number and `no` is a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from retrieval.errors import ConfigError, did_you_mean

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Rgb = Annotated[list[float], Field(min_length=3, max_length=3)]


class Section(BaseModel):
    """A part of the configuration: unknown keys and wrong types are mistakes, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """Which images, and how they are split."""

    name: str = "glyphs"
    root: str | None = None
    options: dict[str, Any] = {}
    validation_share: Share = 0.1  # of the training classes, held out to choose the best checkpoint
    workers: Annotated[int, Field(ge=0)] = 2
    timeout: NotNegative = 120.0  # seconds until a worker that hangs ends the run


class ImageConfig(Section):
    """From an image file to the network's input. Statistics left at null are those of the backbone's pretraining."""

    resize: Positive = 256  # shorter side
    size: Positive = 224  # centre crop
    mean: Rgb | None = None
    std: Rgb | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    augmentation: Literal["none", "character", "photo"] = "photo"

    @model_validator(mode="after")
    def _crop_inside_the_image(self) -> Self:
        if self.size > self.resize:
            raise ValueError(f"size is {self.size}, expected at most resize, which is {self.resize}")
        return self


class ModelConfig(Section):
    """The embedding network."""

    backbone: str = "resnet50"
    pretrained: bool | str = True  # true: timm's weights from the hub; or the path of a weights file
    embedding_dim: Positive | None = 512
    freeze_batchnorm: bool = False


class LossConfig(Section):
    """`retrieval.losses.RecallLoss`: see there for what the words mean."""

    projection: Literal["none", "mean", "norm", "std", "local"] = "std"
    weighting: Literal["loglog", "log", "sqrt", "linear"] = "loglog"
    ks: Annotated[list[Positive], Field(min_length=1)] | None = None
    tau: Annotated[float, Field(gt=0)] = 1.0
    noise: NotNegative = 0.0
    margin: NotNegative = 0.0
    local_margin: NotNegative = 1.0
    gradient: Literal["identity", "blackbox"] = "identity"


class BatchConfig(Section):
    """How a training batch is drawn."""

    size: Annotated[int, Field(ge=4)] = 128
    samples_per_class: Annotated[int, Field(ge=2)] = 4


class TrainingConfig(Section):
    """The optimiser, by its name in timm, with a cosine schedule down to zero."""

    epochs: Positive = 20
    optimizer: str = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: NotNegative = 1e-4
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    clip_norm: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _leave_epochs_after_the_warmup(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}, expected fewer than the {self.epochs} epochs")
        return self


class EvaluationConfig(Section):
    """How embeddings are measured."""

    every: Positive = 1  # epochs between two looks at the validation classes
    ks: Annotated[list[Positive], Field(min_length=1)] = [1, 2, 4, 8]
    batch_size: Positive = 256


class Config(Section):
    """Everything that decides a run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "auto"  # auto, cpu, cuda, ...
    data: DataConfig = DataConfig()
    image: ImageConfig = ImageConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    batch: BatchConfig = BatchConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def config_names() -> dict[str, str]:
    """The configurations that ship with the project: name to what it is, the second line of its comment."""
    files = (file for file in resources.files("retrieval.configs").iterdir() if file.name.endswith(".yaml"))
    lines = {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8").splitlines() for file in files}
    return {name: lines[name][1].lstrip("# ") for name in sorted(lines)}


def load(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration.

    Args:
        source: a name from `config_names()`, or the path of a YAML file.
        overrides: words of the form `key=value`, e.g. `loss.projection=std`; the value is YAML.

    Raises:
        ConfigError: with one line for every mistake, in the file and in the overrides.
    """
    place, text = _find(source)
    values, mistakes = _parse(text, place)
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
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def _find(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        try:
            return str(path), path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(f"{path}: cannot be read ({reason})") from error
    names = config_names()
    if str(source) not in names:
        hint = did_you_mean(str(source), names) or f"; there are {', '.join(names)}, or give a path that ends in .yaml"
        raise ConfigError(f"no configuration is called {str(source)!r}{hint}")
    return f"{source}.yaml", (resources.files("retrieval.configs") / f"{source}.yaml").read_text()


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars, and a list of the keys that stand twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - pyyaml's own name; emptied of the YAML 1.1 rules

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.doubled: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(problem="a key that is no word", problem_mark=key.start_mark)
            if key.value in seen:
                self.doubled.append(f"line {key.start_mark.line + 1}: key {key.value!r} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [*_first, ""] if _tag == "null" else list(_first)
    )


def _parse(text: str, place: str) -> tuple[dict[str, Any], list[str]]:
    loader = _Loader(text)
    try:
        values = loader.get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise ConfigError(
            f"{place}:{line} not valid YAML ({getattr(error, 'problem', None) or 'unreadable'})"
        ) from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{place}: expected sections such as `data:` and `model:`, found a {type(values).__name__}")
    return values, [f"{place}: {doubled}" for doubled in loader.doubled]


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


def _read_value(key: str, text: str) -> Any:
    """The value of an override: YAML, but the text as it stands where the schema wants a word or a path."""
    *sections, name = key.split(".")
    section = _section(sections)
    wanted = _annotation(section, name) if section else None
    kinds = get_args(wanted) if isinstance(wanted, UnionType) else (wanted,)
    if str not in kinds:
        return _Loader(text).get_single_data()
    words = {"null": None, "true": True, "false": False}
    return words[text] if text in words and type(words[text]) in kinds else text


def _annotation(section: type[BaseModel], name: str) -> Any:
    return section.model_fields[name].annotation if name in section.model_fields else None


def _section(names: Sequence[str]) -> type[BaseModel] | None:
    """The schema of a section, None if there is none of these names."""
    section: Any = Config
    for name in names:
        section = _annotation(section, name)
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return None
    return section


def _mistakes(error: ValidationError, place: str, overridden: set[str]) -> list[str]:
    """One line per key; the members of a union are reported in one."""
    lines: dict[str, str] = {}
    for item in error.errors(include_url=False):
        path = [str(part) for part in item["loc"] if part not in ("bool", "str")]
        key = ".".join(path)
        where = "command line" if any(".".join(path[:n]) in overridden for n in range(1, len(path) + 1)) else place
        message = f"{item['msg'][0].lower()}{item['msg'][1:]}"
        if item["type"] == "extra_forbidden":
            lines[key] = f"{where}: unknown key {key!r}{did_you_mean(path[-1], _known_keys(path[:-1]))}"
        elif item["type"] == "model_type":
            lines[key] = (
                f"{where}: {key}: expected a section of {', '.join(_known_keys(path))}, found {_shorten(item['input'])}"
            )
        elif item["type"] == "value_error":
            lines[key] = f"{where}: {key}: {message.removeprefix('value error, ')}"
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
