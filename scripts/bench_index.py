#!/usr/bin/env python
"""Measures an index of many vectors: made, opened, searched, changed and measured, each in a process of its own.

    python scripts/bench_index.py --vectors 10000000 --folder /somewhere/with/space

A line has the seconds of a step, the ratio to a named peer of the same run, and the peak of the memory of its process: "anonymous"
is memory of the program, "mapped" are pages of files, which the system may take back at any time. Both are looked at every 5 ms.
Seconds are without the import of packages. A "cold" step begins after the system was asked to forget the file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

BLOCK = 2**23
Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=10_000_000, metavar="N")
    parser.add_argument("--dimension", type=int, default=128, metavar="N")
    parser.add_argument("--rerank", type=int, default=60_000, metavar="N", help="items to re-rank; 0 leaves it out")
    parser.add_argument("--sample", type=int, default=1000, metavar="N", help="queries of recall")
    parser.add_argument("--type", default="IVF1024,PQ16", help='approximate index; "" leaves it out')
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measured(globals()[f"step_{options.step}"], options)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        options.folder = Path(folder)
        run_all(options)


def run_all(options: argparse.Namespace) -> None:
    megabytes = 4 * options.vectors * options.dimension / 1e6
    print(f"{options.vectors:,} x {options.dimension}: {megabytes:,.1f} MB of vectors, {os.cpu_count()} cores")
    child(options, "source")
    copied = child(options, "copy")
    line("copy of the two files, flushed", copied)
    line("index made of them", child(options, "make"), copied, "the copy")
    passes = {}
    for state in ("cold", "warm"):
        passes[state] = child(options, f"pass_{state}")
        line(f"one pass over the vectors' bytes, {state}", passes[state])
        line(f"  with their checksums, {state}", child(options, f"hash_{state}"), passes[state], "the pass")
        opened = child(options, f"open_{state}")
        line(f"opened, and one query, {state}", opened, passes[state], "the pass")
        line("  a second query", {"seconds": opened["again"]}, passes[state], "the pass")
    line("all checked by verify", child(options, "verify"), passes["warm"], "the warm pass")
    for change in ("add", "remove"):
        changed = child(options, change)
        line(f"{change} of {changed['items']:,}", changed, passes["warm"], "the warm pass")
        print(f"    {changed['written']:,} bytes written, {changed['rewritten']:,} of them in place of old ones")
    line(f"recall of {options.sample:,} queries", child(options, "recall"))
    line("compacted", child(options, "compact"), copied, "the copy")
    if options.type:
        made = child(options, "approximate")
        line(f"index of type {options.type} made", made, copied, "the copy")
        print(f"    finds {made['recall@1']:.4f} of the first, {made['recall@10']:.4f} of the first 10")
    if options.rerank:
        plain = child(options, "plain")
        line(f"exact search of {options.rerank:,} items for each other", plain)
        line("  with query expansion", child(options, "expand"), plain, "the search")
        line("  with re-ranking", child(options, "rerank"), plain, "the search")


def child(options: argparse.Namespace, step: str) -> Result:
    """Runs a step in a process of its own."""
    words = {"vectors": options.vectors, "dimension": options.dimension, "rerank": options.rerank}
    words |= {"sample": options.sample, "type": options.type, "folder": options.folder, "step": step}
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in words.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{step}: {done.stderr}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def line(name: str, result: Result, peer: Result | None = None, peer_name: str = "") -> None:
    ratio = "" if peer is None else f"{result['seconds'] / peer['seconds']:.2f} x {peer_name}"
    memory = ""
    if "anonymous" in result:
        memory = f"{result['anonymous'] / 1e9:.2f} GB anonymous, {result['mapped'] / 1e9:.2f} GB mapped"
    print(f"{name:<50} {result['seconds']:8.2f} s  {ratio:<24} {memory}".rstrip(), flush=True)


def measured(step: Any, options: argparse.Namespace) -> Result:
    """The result of a step, with its time and its peaks of memory."""
    import retrieval

    retrieval.Index  # noqa: B018 - which imports all that it needs
    import pyarrow.compute
    import pyarrow.csv  # noqa: F401

    peaks = {"anonymous": 0, "mapped": 0}
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.005):
            for key, value in zip(peaks, memory(), strict=True):
                peaks[key] = max(peaks[key], value)

    before = memory()[0]
    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        result = step(options) or {}
    finally:
        seconds = time.perf_counter() - start
        is_over.set()
        watcher.join()
    return {"seconds": seconds, "imports": before, **peaks, **result}


def memory() -> tuple[int, int]:
    """Anonymous and mapped memory of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    values = {row.split(":")[0]: row.split()[1] for row in status.splitlines() if row.startswith("Rss")}
    return 1024 * int(values["RssAnon"]), 1024 * int(values["RssFile"])


# The steps


def step_source(options: argparse.Namespace) -> None:
    random = np.random.default_rng(0)
    count, dimension = options.vectors, options.dimension
    labels = random.integers(0, max(2, count // 20), count)
    centres = random.standard_normal((4096, dimension)).astype(np.float32)
    vectors = np.lib.format.open_memmap(options.folder / "vectors.npy", "w+", np.float32, (count, dimension))
    for start in range(0, count, 2**16):
        part = centres[labels[start : start + 2**16] % 4096]
        part = part + 0.7 * random.standard_normal(part.shape, dtype=np.float32)
        vectors[start : start + 2**16] = part / np.linalg.norm(part, axis=1, keepdims=True)
    vectors.flush()
    np.save(options.folder / "labels.npy", labels)
    os.sync()


def step_copy(options: argparse.Namespace) -> None:
    for name in ("vectors.npy", "labels.npy"):
        copy = shutil.copyfile(options.folder / name, options.folder / f"copy-{name}")
        with copy.open("rb") as file:
            os.fsync(file.fileno())
        copy.unlink()


def step_make(options: argparse.Namespace) -> None:
    from retrieval import Index

    Index.from_files(options.folder / "vectors.npy", options.folder / "labels.npy", options.folder / "index")


def step_approximate(options: argparse.Namespace) -> Result:
    from retrieval import Index

    files = (options.folder / "vectors.npy", options.folder / "labels.npy", options.folder / "approximate")
    facts = Index.from_files(*files, kind=options.type).manifest["approximate"]
    shutil.rmtree(files[-1])
    return dict(facts)


def forget(options: argparse.Namespace) -> None:
    for path in (options.folder / "index").iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(options: argparse.Namespace) -> None:
    buffer = bytearray(BLOCK)
    with (options.folder / "index" / "vectors.npy").open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def hash_all(options: argparse.Namespace) -> None:
    path = options.folder / "index" / "vectors.npy"

    def digest(start: int) -> bytes:
        with path.open("rb", buffering=0) as file:
            return xxhash.xxh3_128(os.pread(file.fileno(), BLOCK, start)).digest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(digest, range(0, path.stat().st_size, BLOCK)))


def open_and_search(options: argparse.Namespace) -> Result:
    from retrieval import Index

    queries = np.random.default_rng(1).standard_normal((2, options.dimension))
    start = time.perf_counter()
    index = Index.open(options.folder / "index")
    index.search(queries[0], k=10)
    first = time.perf_counter() - start
    start = time.perf_counter()
    index.search(queries[1], k=10)
    return {"seconds": first, "again": time.perf_counter() - start}


def step_pass_cold(options: argparse.Namespace) -> Result:
    return cold(options, read_all)


def step_hash_cold(options: argparse.Namespace) -> Result:
    return cold(options, hash_all)


def step_open_cold(options: argparse.Namespace) -> Result:
    forget(options)
    return open_and_search(options)


def cold(options: argparse.Namespace, work: Any) -> Result:
    forget(options)
    start = time.perf_counter()
    work(options)
    return {"seconds": time.perf_counter() - start}


def step_pass_warm(options: argparse.Namespace) -> Result:
    read_all(options)
    start = time.perf_counter()
    read_all(options)
    return {"seconds": time.perf_counter() - start}


def step_hash_warm(options: argparse.Namespace) -> None:
    hash_all(options)


def step_open_warm(options: argparse.Namespace) -> Result:
    return open_and_search(options)


def step_verify(options: argparse.Namespace) -> None:
    from retrieval import Index

    Index.open(options.folder / "index").verify()


def step_add(options: argparse.Namespace) -> Result:
    from retrieval.index import editing

    vectors = np.random.default_rng(2).standard_normal((1000, options.dimension))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    paths = [f"new/{i}" for i in range(1000)]
    return changed(options, lambda bundle: editing.add(bundle, vectors, ["new"] * 1000, paths)) | {"items": 1000}


def step_remove(options: argparse.Namespace) -> Result:
    from retrieval.index import editing

    positions = np.random.default_rng(3).choice(options.vectors, 1000, replace=False)
    return changed(options, lambda bundle: editing.remove(bundle, positions)) | {"items": 1000}


def changed(options: argparse.Namespace, change: Any) -> Result:
    """Makes a change, and counts the bytes that were written, and those of them that took the place of others."""
    from retrieval.index.bundle import read_bundle

    folder = options.folder / "index"
    large = [path for path in folder.iterdir() if path.suffix in (".npy", ".arrows")]
    before = {path: (path.stat().st_size, digests(path)) for path in large}
    written = bytes_written()
    start = time.perf_counter()
    change(read_bundle(folder))
    seconds = time.perf_counter() - start
    written = bytes_written() - written
    rewritten = 0
    for path, (size, old) in before.items():
        new = digests(path, size)
        rewritten += sum(BLOCK for one, other in zip(old, new, strict=True) if one != other)
    return {"seconds": seconds, "written": written, "rewritten": rewritten}


def bytes_written() -> int:
    rows = dict(row.split(": ") for row in Path("/proc/self/io").read_text().splitlines())
    return int(rows["wchar"])


def digests(path: Path, size: int | None = None) -> list[bytes]:
    """The checksum of each block of the first bytes of a file."""
    content = np.memmap(path, np.uint8, "r")[:size]
    return [xxhash.xxh3_128(content[start : start + BLOCK]).digest() for start in range(0, len(content), BLOCK)]


def step_recall(options: argparse.Namespace) -> None:
    from retrieval import Index

    Index.open(options.folder / "index").evaluate(sample=options.sample)


def step_compact(options: argparse.Namespace) -> None:
    from retrieval import Index

    Index.open(options.folder / "index").compact()


def few(options: argparse.Namespace) -> np.ndarray:
    """Vectors in clumps of eight, as many as are re-ranked."""
    random, count = np.random.default_rng(4), options.rerank
    centres = random.standard_normal((-(-count // 8), options.dimension))
    vectors = centres[np.arange(count) // 8] + 0.9 * random.standard_normal((count, options.dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def step_plain(options: argparse.Namespace) -> Result:
    return ranked(options)


def step_expand(options: argparse.Namespace) -> Result:
    return ranked(options, qe=5)


def step_rerank(options: argparse.Namespace) -> Result:
    return ranked(options, rerank=20)


def ranked(options: argparse.Namespace, **parts: int) -> Result:
    from retrieval.index.recall import Ranking

    vectors = few(options)
    start = time.perf_counter()
    for _ in Ranking(**parts).nearest(vectors, vectors, np.arange(len(vectors)), 10):
        pass
    return {"seconds": time.perf_counter() - start}


if __name__ == "__main__":
    main()
