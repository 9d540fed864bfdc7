"""Draws which folder of the package imports which, as SVG.

    python scripts/draw_architecture.py --out docs/assets/architecture.svg

Rows are the layers of setup.cfg, from the command line down. An arrow stands for an import. Arrows that follow from others
are left out: if a imports b and b imports c, there is no arrow from a to c.
"""

from __future__ import annotations

import argparse
import ast
import configparser
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, GAP = 110, 36, 34  # of a box, and between two rows


def layers() -> list[list[str]]:
    """The folders of the package by layer, the highest first."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    rows = settings["importlinter:contract:layers"]["layers"].split("\n")
    return [[name.strip().rpartition(".")[2] for name in row.split("|")] for row in rows if row.strip()]


def imports(folders: set[str]) -> set[tuple[str, str]]:
    """Pairs of folders of which the first imports the second."""
    found = set()
    for folder in folders:
        place = ROOT / "cli" if folder == "cli" else ROOT / "retrieval" / folder
        for path in [place.with_suffix(".py")] if not place.is_dir() else place.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("retrieval"):
                    names = [node.module] if "." in node.module else [f"retrieval.{it.name}" for it in node.names]
                    found |= {(folder, name.split(".")[1]) for name in names}
    return {(start, end) for start, end in found if start != end and end in folders}


def reduced(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that do not follow from others."""
    reached: dict[str, set[str]] = {}

    def reach(start: str) -> set[str]:
        if start not in reached:
            ends = {end for first, end in arrows if first == start}
            reached[start] = ends.union(*(reach(end) for end in ends))
        return reached[start]

    return {
        (start, end)
        for start, end in arrows
        if not any(end in reach(middle) for first, middle in arrows if first == start and middle != end)
    }


def draw() -> str:
    """The picture."""
    rows = layers()
    widest = max(len(row) for row in rows)
    width = widest * (WIDTH + 30) + 240
    places = {}
    for top, row in enumerate(rows):
        left = (width - len(row) * (WIDTH + 30) + 30) / 2
        for place, name in enumerate(row):
            places[name] = (left + place * (WIDTH + 30), 20 + top * (HEIGHT + GAP))
    depth = {name: top for top, row in enumerate(rows) for name in row}
    height = 20 + len(rows) * (HEIGHT + GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="14">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#7a8288"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for start, end in sorted(reduced(imports(set(places)))):
        (x1, y1), (x2, y2) = places[start], places[end]
        x1, y1, x2 = x1 + WIDTH / 2, y1 + HEIGHT, x2 + WIDTH / 2
        steps = depth[end] - depth[start]
        if steps < 1:
            raise SystemExit(f"error: {start} imports {end}, which is not below it")
        if steps == 1:
            path = f"M{x1:g} {y1:g} L{x2:g} {y2:g}"
        else:  # around the boxes between them, on the side that is nearer
            side = (20 + 12 * steps) if x1 + x2 < width else width - (20 + 12 * steps)
            path = f"M{x1:g} {y1:g} C{side:g} {y1 + 30:g} {side:g} {y2 - 30:g} {x2:g} {y2:g}"
        lines.append(f'<path d="{path}" fill="none" stroke="#7a8288" stroke-opacity="0.55" marker-end="url(#tip)"/>')
    for name, (x, y) in places.items():
        lines.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#e0f2ef" stroke="#00796b"/>'
            f'<text x="{x + WIDTH / 2:g}" y="{y + HEIGHT / 2 + 5:g}" text-anchor="middle" fill="#10312d">{escape(name)}</text>'
        )
    return "\n".join([*lines, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "assets" / "architecture.svg", help="the file")
    parser.parse_args().out.write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
