"""YAML 1.2, in which `1e-4` is a number, `010` is ten and `no` is a string; repeated keys are mistakes.

PyYAML follows YAML 1.1. ruamel.yaml follows YAML 1.2, but stops at the first repeated key, while here all mistakes are reported at
once.

Aliases and tags are refused: a few aliases of one another stand for more values than any memory holds, and tags make values that no
option takes. Size and depth are bounded, so that any text is read or refused in a few seconds.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from retrieval.errors import ConfigError, reason_of

LARGEST = 2**17  # bytes of a configuration; one with every option has 3,000
_DEEPEST = 20  # lists and mappings inside one another
UNREADABLE = (yaml.YAMLError, ValueError, OverflowError)  # what PyYAML raises; the last for "\\UFFFFFFFF"

_MISSING_SPACE = re.compile(r"^[ \t]*([A-Za-z]\w*):([^\s:/#][^\n#]*)", re.MULTILINE)


def parse(text: str, origin: str) -> tuple[dict[str, Any], list[str]]:
    """The mapping in a text, and a line for every repeated key.

    Args:
        text: The text.
        origin: The file that it was read from, for messages.

    Raises:
        ConfigError: The text is not YAML, or not a mapping.
    """
    if len(text) > LARGEST:
        raise ConfigError(f"{origin}: has {len(text):,} characters, more than the {LARGEST:,} of a configuration")
    try:
        loader = _Loader(text)
        values = loader.get_single_data()
    except UNREADABLE as error:
        raise ConfigError(f"{origin}:{_problem(error, text)}{missing_space(text)}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        found = f"found a {type(values).__name__}{missing_space(text)}"
        raise ConfigError(f"{origin}: expected sections such as `data:` and `model:`, {found}")
    return values, [f"{origin}: {doubled}" for doubled in loader.doubled]


def missing_space(text: str) -> str:
    """A hint of the first key without a space after its colon, ready to append; "" where there is none."""
    found = _MISSING_SPACE.search(text)
    return f"; put a space after the colon: `{shorten(f'{found[1]}: {found[2].strip()}')}`" if found else ""


def shorten(text: str, length: int = 60) -> str:
    """The beginning of a text, for messages."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def parse_value(text: str) -> Any:
    """A single value.

    Raises:
        UNREADABLE: One of these classes: the text is not YAML.
    """
    return _Loader(text).get_single_data()


def write(values: dict[str, Any]) -> str:
    """A mapping as YAML that `parse` reads."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _problem(error: Exception, text: str) -> str:
    """The line and the problem of an error of PyYAML."""
    if isinstance(error, yaml.reader.ReaderError):
        number = text.count("\n", 0, error.position) + 1
        return f" line {number}: not valid YAML (the control character U+{error.character:04X}); remove it"
    mark = getattr(error, "problem_mark", None)
    line = f" line {mark.line + 1}:" if mark else ""
    return f"{line} not valid YAML ({shorten(getattr(error, 'problem', None) or reason_of(error), 200)})"


class _Loader(yaml.SafeLoader):
    """Reads the scalars of YAML 1.2, refuses aliases and tags, and lists repeated keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the name that PyYAML looks for; without the rules of YAML 1.1

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.doubled: list[str] = []
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        tag = getattr(event, "tag", None)
        problem = None
        if isinstance(event, yaml.AliasEvent):
            problem = f"the alias *{shorten(str(event.anchor))}; write the value out"
        elif tag is not None and tag != "!":
            problem = f"the tag {shorten(tag.replace('tag:yaml.org,2002:', '!!'))!r}; leave it out"
        elif self._depth > _DEEPEST:
            problem = f"more than {_DEEPEST} lists or mappings inside one another"
        if problem:
            raise yaml.composer.ComposerError(problem=problem, problem_mark=event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(problem="a key that is no word", problem_mark=key.start_mark)
            if key.value in seen:
                self.doubled.append(f"line {key.start_mark.line + 1}: key {shorten(key.value)!r} stands twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A decimal number; in YAML 1.1 a leading zero makes it octal."""
        return int(self.construct_scalar(node))


class _Dumper(yaml.SafeDumper):
    """Quotes strings that either version would read as another type, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


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
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}",
            re.compile(f"^(?:{_pattern})$"),
            [*_first, ""] if _tag == "null" else list(_first),
        )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
