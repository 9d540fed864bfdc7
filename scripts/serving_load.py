"""Clients for `bench_serving.py`: plain HTTP over asyncio, kept alive, light enough to share the machine with the server."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

EDGE = "edge-of-a-part"
HOSTILE = ("bomb", "truncated", "no image", "wrong type", "too large", "broken form", "cut", "slow")


def request_of(image: bytes, options: str, *, kind: str = "image/jpeg") -> bytes:
    """A request that searches with an image."""
    head = f"POST /v1/search{options} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image


def form_of(image: bytes, options: str) -> bytes:
    """The same as a form."""
    head = f'--{EDGE}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'.encode()
    body = head + image + f"\r\n--{EDGE}--\r\n".encode()
    return request_of(body, options, kind=f"multipart/form-data; boundary={EDGE}")


def photographs(count: int, size: tuple[int, int], seed: int = 0) -> list[bytes]:
    """JPEG files of smooth noise."""
    generator = np.random.default_rng(seed)
    files = []
    for _ in range(count):
        coarse = generator.integers(0, 256, (size[1] // 25, size[0] // 25, 3), dtype=np.uint8)
        content = io.BytesIO()
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
        files.append(content.getvalue())
    return files


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return int(head[9:12]), await reader.readexactly(length)


@dataclass
class Load:
    """What clients have seen.

    Args:
        seconds: The time of every good answer.
        faults: What was not as expected.
        counts: Requests by kind.
    """

    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.seconds, 100 * share)) if self.seconds else float("nan")


async def measure(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> tuple[float, Load]:
    """Lets clients ask, one request after the other each; returns the answers a second, and what they saw."""
    load = Load()
    begin = time.perf_counter()

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        turn = number
        while (now := time.perf_counter()) - begin < seconds:
            writer.write(requests[turn % len(requests)])
            status, body = await answer_of(reader)
            turn += 1
            if status == 200:
                load.seconds.append(time.perf_counter() - now)
            else:
                load.faults.append(f"{status} {body[:200]!r}")
        writer.close()

    await asyncio.gather(*map(client, range(clients)))
    return len(load.seconds) / (time.perf_counter() - begin), load


async def endure(
    port: int,
    good: Sequence[tuple[bytes, Callable[[Any], str | None]]],
    image: bytes,
    *,
    count: int,
    clients: int,
    seed: int = 0,
) -> Load:
    """Sends requests of which a tenth are hostile.

    Args:
        port: The port of the server on this machine.
        good: Requests, and for each a function that says what is wrong with its answer.
        image: An image for the hostile ones to damage.
        count: The number of requests.
        clients: How many at a time.
        seed: Of the order.
    """
    load = Load()
    order = random.Random(seed)
    kinds = [order.choice(HOSTILE) if order.random() < 0.1 else "good" for _ in range(count)]
    jobs = iter(enumerate(kinds))

    async def client() -> None:
        for number, kind in jobs:
            load.counts[kind] = load.counts.get(kind, 0) + 1
            try:
                async with asyncio.timeout(60):
                    fault = await _one(port, kind, good[number % len(good)], image, load)
            except (OSError, EOFError, TimeoutError, ValueError, StopIteration) as error:
                fault = f"{type(error).__name__}: {error}"
            if fault:
                load.faults.append(f"{kind}: {fault}")

    await asyncio.gather(*(client() for _ in range(clients)))
    return load


async def _one(
    port: int, kind: str, good: tuple[bytes, Callable[[Any], str | None]], image: bytes, load: Load
) -> str | None:
    """Sends one request; returns what is wrong with its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if kind == "good":
            begin = time.perf_counter()
            writer.write(good[0])
            status, body = await answer_of(reader)
            load.seconds.append(time.perf_counter() - begin)
            return f"{status} {body[:200]!r}" if status != 200 else good[1](json.loads(body))
        content, expected = _hostile(kind, image)
        writer.write(content)
        if not expected:
            return None  # cut
        if kind == "slow":
            for byte in b"abc":
                await asyncio.sleep(0.2)
                writer.write(bytes([byte]))
        status, _ = await answer_of(reader)
        return None if status in expected else f"{status}, expected {expected}"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _hostile(kind: str, image: bytes) -> tuple[bytes, tuple[int, ...]]:
    """A request, and the statuses that it may be answered by; none if the connection is cut."""
    whole = request_of(image, "")
    return {
        "bomb": (request_of(bomb(), "", kind="image/png"), (422,)),
        "truncated": (request_of(image[: len(image) // 3], ""), (422,)),
        "no image": (request_of(b"%PDF-1.7 " + image[:100], ""), (422,)),
        "wrong type": (request_of(b'{"k": 3}', "", kind="application/json"), (415,)),
        "too large": (request_of(b"\0" * 3_000_000, ""), (413,)),
        "broken form": (request_of(b"x" * 500, "", kind=f"multipart/form-data; boundary={EDGE}"), (400,)),
        "cut": (whole[: len(whole) // 2], ()),
        "slow": (whole[: len(whole) // 2], (408,)),
    }[kind]


def bomb() -> bytes:
    """A PNG of some bytes that says that it has 3.6 billion pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
