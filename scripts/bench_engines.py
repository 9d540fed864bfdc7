"""What an index costs on a Milvus server and in memory: time, memory, and the share of the exact neighbours that is found.

    python scripts/milvus_server.py install .milvus
    python scripts/bench_engines.py .milvus --sizes 10000 100000

The vectors are random around one centre for ten. "push" is the time of `index.push`, with the measurement at its end; "server" is
the memory of the server's process after it. A query is one of 200, alone ("single") or all in one call ("batch"), through
`engines.search` or `Index.search`; "ratio" is its time by that of the exact search of the bundle in the same run. The server
and the search share the processors.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from milvus_server import Server

from retrieval import Index
from retrieval.index import engines

QUERIES = 200
K = 10
WIDTHS, DIGITS = (8, 9, 12, 11, 7, 10, 7, 8), (1, 0, 0, 2, 2, 3, 2, 4)  # of the columns


def make_index(count: int, dimension: int, kind: str = "exact") -> tuple[Index, np.ndarray]:
    """An index of random vectors, and queries that are near its items."""
    generator = np.random.default_rng(0)
    of = np.arange(count) // 10
    centers = generator.normal(size=(of[-1] + 1, dimension)).astype(np.float32)
    vectors = centers[of] + generator.normal(size=(count, dimension)).astype(np.float32)
    near = vectors[generator.integers(count, size=QUERIES)]
    queries = near + 0.5 * generator.normal(size=near.shape).astype(np.float32)
    return Index.from_vectors(vectors, of, kind=kind), queries


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The median time of a call, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def query_times(search: Callable[[np.ndarray], object], queries: np.ndarray, repeats: int) -> tuple[float, float]:
    """Milliseconds of a query alone, and of one of a batch."""
    single = seconds(lambda: [search(query[None]) for query in queries[:20]], repeats) / 20
    return 1000 * single, 1000 * seconds(lambda: search(queries), repeats) / len(queries)


def memory(server: Server) -> float:
    """MiB of the server's process."""
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def bench(server: Server, count: int, kinds: list[str], dimension: int, repeats: int) -> None:
    """Prints the rows of one size."""
    index, queries = make_index(count, dimension)
    exact = query_times(lambda rows: index.search(rows, K), queries, repeats)
    print(f"\n{count:,} items of {dimension} numbers, k = {K}")
    print(
        f"{'':14}{'push s':>8}{'items/s':>9}{'server MiB':>12}{'single ms':>11}{'ratio':>7}{'batch ms':>10}{'ratio':>7}{'found':>8}"
    )
    row(["bundle, exact", None, None, None, exact[0], 1.0, exact[1], 1.0, 1.0])
    for kind in kinds:
        url = f"milvus://127.0.0.1:{server.port}/bench"
        start = time.perf_counter()
        result = index.push(url, kind=kind, replace=True)
        took = time.perf_counter() - start
        with engines.open(url) as engine:
            times = query_times(lambda rows: engines.search(engine, index, rows, K), queries, repeats)
        ratios = times[0] / exact[0], times[1] / exact[1]
        figures = [took, count / took, memory(server), times[0], ratios[0], times[1], ratios[1], result[f"found@{K}"]]
        row([f"Milvus, {kind}", *figures])


def row(cells: list[object]) -> None:
    """Prints a row."""
    columns = zip(cells[1:], WIDTHS, DIGITS, strict=True)
    texts = ["-".rjust(width) if cell is None else f"{cell:{width}.{digits}f}" for cell, width, digits in columns]
    print(f"{cells[0]:14}" + "".join(texts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of `milvus_server.py install`")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], help="numbers of items")
    parser.add_argument("--kinds", nargs="+", default=["exact", "hnsw", "ivf"], help="types of the index on the server")
    for name, default in (("dim", 128), ("repeats", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{default} if left out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as data:
        server = Server(options.folder, Path(data))
        server.start()
        try:
            print(f"server alone: {memory(server):.0f} MiB")
            for count in options.sizes:
                bench(server, count, options.kinds, options.dim, options.repeats)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
