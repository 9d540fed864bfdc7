"""Generates the pages of options and commands, and formulas as MathML, so that a page asks no other host."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from latex2mathml.converter import convert

SCHEMA = Path(__file__).resolve().parent.parent / "retrieval" / "config" / "schema.py"
WORDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "object": "mapping"}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills the pages that hold a mark."""
    for mark, make in (("<!-- options -->", options), ("<!-- commands -->", commands)):
        if mark in markdown:
            markdown = markdown.replace(mark, "\n".join(make()))
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Turns the formulas of a page into MathML."""
    html = re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda it: _formula(it[1], "inline"), html, flags=re.DOTALL
    )
    return re.sub(
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', lambda it: _formula(it[1], "block"), html, flags=re.DOTALL
    )


def _formula(text: str, display: str) -> str:
    for name, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        text = text.replace(name, sign)
    return convert(text.strip(), display=display)


def options() -> Iterator[str]:
    """The tables of the options of a configuration, a section each."""
    from retrieval.config.schema import Config

    schema = Config.model_json_schema()
    remarks = dict(_remarks())
    sections = {"": "Config"} | {
        name: value["$ref"].rpartition("/")[2] for name, value in schema["properties"].items() if "$ref" in value
    }
    for section, name in sections.items():
        part = schema if name == "Config" else schema["$defs"][name]
        yield f"\n## {section or 'At the top level'}\n"
        yield f"{part.get('description', '').splitlines()[0]}\n" if part.get("description") else ""
        yield "| option | type | default | meaning |"
        yield "|---|---|---|---|"
        for option, value in part["properties"].items():
            if "$ref" in value:
                continue
            full = f"{section}.{option}" if section else option
            default = json.dumps(value.get("default"))
            cells = [
                f"`{full}`",
                _type(value),
                f"`{default}`",
                remarks.get((name, option), remarks.get(("", option), "")),
            ]
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(value: dict[str, Any]) -> str:
    if "anyOf" in value:
        return ", ".join("null" if one.get("type") == "null" else _type(one) for one in value["anyOf"])
    if "enum" in value or "const" in value:
        return ", ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}"
    if "$ref" in value:
        return {"LossTerm": "loss", "CallbackConfig": "name with options"}.get(
            value["$ref"].rpartition("/")[2], "mapping"
        )
    limits = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {value[key]:g}" for key, sign in limits.items() if key in value and abs(value[key]) < 2**40]
    return " ".join([WORDS[value["type"]], ", ".join(bounds)]).strip()


def _remarks() -> Iterator[tuple[tuple[str, str], str]]:
    """The comments of the schema by class and option: those above an option, and those beside it."""
    source = SCHEMA.read_text(encoding="utf-8")
    comments = {
        token.start[0]: (token.string.lstrip("# "), not token.line[: token.start[1]].strip())
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for node in ast.parse(source).body:
        for field in node.body if isinstance(node, ast.ClassDef) else []:
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            assert field.end_lineno is not None
            above, line = [], field.lineno - 1
            while comments.get(line, ("", False))[1]:
                above.insert(0, comments[line][0])
                line -= 1
            beside = [comments[at][0] for at in range(field.lineno, field.end_lineno + 1) if at in comments]
            text = " ".join(above + beside)
            yield (node.name, field.target.id), text
            yield ("", field.target.id), text  # of a section that another one inherits from


def commands() -> Iterator[str]:
    """The help texts of all commands."""
    from retrieval.cli import retrieval

    yield from _command(retrieval, "retrieval", None)


def _command(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(command, info_name=name.rpartition(" ")[2], parent=parent, max_content_width=100)
    yield f"\n## {name}\n"
    yield f"```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            if found is not None and not found.hidden:
                yield from _command(found, f"{name} {inner}", context)
