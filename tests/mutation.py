"""Random changes of files and values, for tests that no altered input crashes, hangs or deceives."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

VALUES = [
    *(None, True, False, 0, -1, 1, 7, 8, 9, 33, 2049, 10**9, -(10**9), 10**400, 0.5, -0.5, 8.0, 1e-300, 1e300),
    *(
        "",
        "8",
        "test_resnet",
        "test_vit",
        "resnet18",
        "hf-hub:x/y",
        "local-dir:/tmp",
        "os:system",
        "my.py:f",
        "gem",
        "cls",
    ),
    *("bicubic", "/etc/passwd", "\0", "\ud800", "日本語", "x" * 1000, [], {}, [[]], [0.5, 0.5, 0.5], {"a": {"b": []}}),
]
KEYS = ["pretrained", "backbone", "embedding_dim", "size", "resize", "mean", "std", "__proto__", "pooling", "a", ""]


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a JSON value, with each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in items for place in [(value, key), *places_in(part)]]


def mutate_tree(given: Any, rng: random.Random) -> Any:
    """A JSON value with one to three random changes of keys and values."""
    given = copy.deepcopy(given)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = places_in(given)
        if not places:
            return rng.choice(VALUES)
        container, key = rng.choice(places)
        way = rng.randrange(8)
        if way <= 2:
            container[key] = copy.deepcopy(rng.choice(VALUES))
        elif way == 3:
            del container[key]
        elif way == 4 and isinstance(container, dict):
            container[rng.choice(KEYS)] = container.pop(key)
        elif way == 5 and isinstance(container, dict):
            container[rng.choice(KEYS)] = copy.deepcopy(rng.choice(VALUES))
        elif way == 6 and type(container[key]) in (int, float):
            container[key] += rng.choice([-1, 1, 0.5, -1000])
        elif isinstance(container[key], str) and container[key]:
            text = container[key]
            place = rng.randrange(len(text))
            container[key] = text[:place] + rng.choice(["", "x", ".", ":", "/", "\n"]) + text[place + 1 :]
        else:
            other_container, other = rng.choice(places)
            if other in (other_container if isinstance(other_container, dict) else range(len(other_container))):
                container[key] = copy.deepcopy(other_container[other])
    return given


def mutate_bytes(content: bytes, rng: random.Random, pieces: Sequence[bytes] = ()) -> bytes:
    """A file with one to three random changes: of bits and bytes, cuts, repeats, and given pieces put into it."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        place = rng.randrange(len(changed) + 1)
        way = rng.randrange(7 if pieces else 6)
        if way == 0 and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        elif way == 1:
            changed[place : place + 8] = rng.randbytes(8)
        elif way == 2:
            del changed[place : place + rng.choice([1, 2, 8, len(changed)])]
        elif way == 3:
            changed[place:place] = changed[: rng.randrange(64)]
        elif way == 4:
            header = rng.randrange(min(200, len(changed) + 1))
            changed[header : header + 1] = bytes([rng.choice([0, 1, 127, 128, 255])])
        elif way == 5:
            changed += rng.randbytes(rng.randrange(1, 9))
        else:
            changed[place : place + rng.choice([0, 0, 1, 5])] = rng.choice(pieces)
    return bytes(changed)
