"""What the service answers in a second, against a naive one; and whether it endures hostile clients and a changing index.

    python scripts/bench_serving.py                                   # 1, 16 and 64 clients, mobilenetv2_100
    python scripts/bench_serving.py --endure 20000 --replacements 50  # a tenth of the requests are hostile

Speed: both servers are processes on this machine, with the same model (random weights, 224 pixels), the same index and the same
JPEG files of 500 x 375. The naive one is a FastAPI app of ten lines that embeds one image in one forward of torch for each request.
The clients run in this process. The two servers take turns for `--rounds` rounds; the figures are medians over them.

Endurance: the answer to every good request is compared with that of the index in this process. The memory of the server is its
resident size; it is compared between the second and the last fifth of the requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from serving_load import Load, endure, form_of, measure, photographs, request_of

import retrieval
from retrieval.data import Preprocessing
from retrieval.networks import create_embedder

NAIVE = """
import io, sys
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image
from starlette.concurrency import run_in_threadpool
import retrieval

index = retrieval.Index.open(sys.argv[1])
app = FastAPI()

def find(content):
    image = Image.open(io.BytesIO(content)).convert("RGB")
    return [hit.to_dict() for hit in index.search(image, k=10)]

@app.post("/v1/search")
async def search(request: Request):
    return await run_in_threadpool(find, await request.body())

index.search(Image.new("RGB", (64, 64)))
print("ready", flush=True)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error", access_log=False)
"""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--size", type=int, default=224, help="pixels")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=8.0, help="of a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a small network and a short time, to see that it works")
    parser.add_argument("--endure", type=int, default=0, metavar="N", help="send N requests, a tenth of them hostile")
    parser.add_argument("--replacements", type=int, default=50, help="of the index, while --endure runs")
    options = parser.parse_args(words)
    if options.quick:
        options.backbone, options.size = "test_resnet", 64
        options.clients, options.seconds, options.rounds = [1, 4], 0.5, 1
    with tempfile.TemporaryDirectory() as folder:
        return endurance(Path(folder), options) if options.endure else speed(Path(folder), options)


def make_model(backbone: str, size: int) -> retrieval.Model:
    torch.manual_seed(0)
    network = create_embedder(backbone, embedding_dim=128, image_size=size)
    return retrieval.Model(network.eval(), Preprocessing(size, size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


def make_index(
    folder: Path, model: retrieval.Model, count: int, seed: int, *, overwrite: bool = False
) -> retrieval.Index:
    """An index of random vectors in ten classes."""
    vectors = np.random.default_rng(seed).normal(size=(count, model.embedding_dim)).astype(np.float32)
    classes = [f"class {i % 10}" for i in range(count)]
    return retrieval.Index.from_vectors(vectors, classes, folder, model=model, overwrite=overwrite)


@contextlib.contextmanager
def service(index: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`retrieval serve` on a free port."""
    command = [sys.executable, "-m", "retrieval.cli", "serve", str(index), "--port", "0", *words]
    with process(command) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+) (.*)", line)
        if found is None:
            raise SystemExit(f"the service did not start: {line}")
        print(line.strip(), flush=True)
        yield server, int(found[1])


@contextlib.contextmanager
def process(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield server
    finally:
        server.terminate()
        server.communicate(timeout=60)


def speed(folder: Path, options: argparse.Namespace) -> int:
    """Measures both servers; prints a table."""
    make_index(folder / "index", make_model(options.backbone, options.size), 1000, 0)
    requests = [request_of(image, "?k=10") for image in photographs(16, (500, 375))]
    plain = [request.replace(b"?k=10", b"") for request in requests]
    port = _free_port()
    naive = [sys.executable, "-c", NAIVE, str(folder / "index"), str(port)]
    found: dict[tuple[str, int], list[tuple[float, Load]]] = {}
    with service(folder / "index") as (_, own_port), process(naive) as peer:
        assert peer.stdout is not None
        peer.stdout.readline()
        time.sleep(1)
        for place, sent in ((own_port, requests), (port, plain)):  # the first requests are slower
            asyncio.run(measure(place, sent, max(options.clients), min(2.0, options.seconds)))
        for _ in range(options.rounds):
            for clients in options.clients:
                for name, place, sent in (("service", own_port, requests), ("naive", port, plain)):
                    result = asyncio.run(measure(place, sent, clients, options.seconds))
                    found.setdefault((name, clients), []).append(result)
    print(f"{options.backbone}, {options.size} pixels, {torch.get_num_threads()} threads")
    print("clients   server    requests/s    p50 ms    p99 ms   ratio   faults")
    for clients in options.clients:
        base = statistics.median(rate for rate, _ in found["naive", clients])
        for name in ("naive", "service"):
            rates = [rate for rate, _ in found[name, clients]]
            loads = [load for _, load in found[name, clients]]
            half, most = (1000 * statistics.median(load.percentile(share) for load in loads) for share in (0.5, 0.99))
            rate, faults = statistics.median(rates), sum(len(load.faults) for load in loads)
            print(f"{clients:7} {name:>8} {rate:13.1f} {half:9.1f} {most:9.1f} {rate / base:7.2f} {faults:8}")
    return 1 if any(load.faults for results in found.values() for _, load in results) else 0


def endurance(folder: Path, options: argparse.Namespace) -> int:
    """Sends good and hostile requests while the index is replaced; prints what was seen, and returns 1 for a fault."""
    model = make_model("test_resnet", 64)
    sizes = {500: folder / "even", 700: folder / "odd"}
    indexes = {count: make_index(place, model, count, count) for count, place in sizes.items()}
    indexes[500].save(folder / "index")
    images = photographs(20, (200, 150))
    expected = [{count: _expected(index, image) for count, index in indexes.items()} for image in images]
    forms = [form_of if i % 2 else request_of for i in range(len(images))]
    requests = [make(image, "?k=700") for make, image in zip(forms, images, strict=True)]
    good = [(request, _comparison(answers)) for request, answers in zip(requests, expected, strict=True)]
    words = ("--reload", "--timeout", "2", "--max-mb", "1")
    memory: list[float] = []
    replaced = [0]
    done = threading.Event()
    with service(folder / "index", *words) as (server, port):

        def watch() -> None:
            while not done.wait(0.25):
                status = Path(f"/proc/{server.pid}/status")
                if status.exists() and (line := re.search(r"VmRSS:\s+(\d+)", status.read_text())):
                    memory.append(int(line[1]) / 1024)

        def replace() -> None:
            while replaced[0] < options.replacements and not done.wait(2.2):  # the service looks every two seconds
                indexes[500 if replaced[0] % 2 else 700].save(folder / "index", overwrite=True)
                replaced[0] += 1

        threads = [threading.Thread(target=work) for work in (watch, replace)]
        for thread in threads:
            thread.start()
        begin = time.perf_counter()
        load = Load()
        part = 0
        while sum(load.counts.values()) < options.endure or replaced[0] < options.replacements:
            some = asyncio.run(endure(port, good, images[0], count=min(options.endure, 500), clients=16, seed=part))
            part += 1
            load.seconds += some.seconds
            load.faults += some.faults
            for kind, count in some.counts.items():
                load.counts[kind] = load.counts.get(kind, 0) + count
        seconds = time.perf_counter() - begin
        metrics = _metrics(port)
        done.set()
        for thread in threads:
            thread.join()
        alive = server.poll() is None
    return _told(load, memory, seconds, metrics, alive=alive, replaced=replaced[0])


def _told(load: Load, memory: list[float], seconds: float, metrics: str, *, alive: bool, replaced: int) -> int:
    reloads = re.search(r"\nretrieval_index_reloads_total (\d+)", metrics)
    fifth = max(1, len(memory) // 5)
    early, late = (statistics.median(part or [0.0]) for part in (memory[fifth : 2 * fifth], memory[-fifth:]))
    total = sum(load.counts.values())
    print(
        f"requests   {total} in {seconds:.0f} s: " + ", ".join(f"{n} {kind}" for kind, n in sorted(load.counts.items()))
    )
    print(f"faults     {len(load.faults)}" + "".join(f"\n           {fault}" for fault in load.faults[:10]))
    print(f"good       p50 {1000 * load.percentile(0.5):.1f} ms, p99 {1000 * load.percentile(0.99):.1f} ms")
    print(f"replaced   {replaced} times, taken up {reloads[1] if reloads else '?'} times")
    print(
        f"memory     {early:.1f} MiB in the second fifth, {late:.1f} MiB in the last: {100 * (late / early - 1):+.1f} %"
    )
    print(f"alive      {'yes' if alive else 'no'}")
    return 0 if alive and not load.faults else 1


def _expected(index: retrieval.Index, image: bytes) -> list[tuple[int, float]]:
    with Image.open(io.BytesIO(image)) as picture:
        return [(hit.id, hit.score) for hit in index.search(picture.convert("RGB"), k=700)]


def _comparison(answers: dict[int, list[tuple[int, float]]]) -> Any:
    """A function that compares an answer with that of the index of as many items."""

    def compare(answer: Any) -> str | None:
        hits = answer["results"][0]["neighbours"]
        expected = answers.get(len(hits))
        if expected is None or len({hit["id"] for hit in hits}) != len(hits):
            return f"{len(hits)} hits, of which some may be twice"
        scores = dict(expected)
        wrong = [hit for hit in hits if abs(scores.get(hit["id"], 9.0) - hit["score"]) > 2e-4]
        return f"wrong scores: {json.dumps(wrong[:2])}" if wrong else None

    return compare


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return answer.read().decode()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
