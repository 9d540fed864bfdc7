"""How fast an index is made of large photographs, against its bare parts and against the former way.

    python scripts/bench_embedding.py --out bench                    # MobileNetV2, 2,000 JPEG files of 1,600 x 1,200 pixels
    python scripts/bench_embedding.py --backbone resnet50 --workers 1 --threads 1

The photographs are drawn: smooth noise of several sizes, as JPEG files of quality 90; or those of `--root`. The candidates take
turns for `--repeats` rounds after one of warming up, on the same files and weights:
- index: `Index.build` as `retrieval index` calls it: the folder is listed, the files are read by `--workers` processes, embedded
  and written as an index. The packages are imported and the model is loaded before.
- bare decoding: as many processes decode, resize and crop the same files with Pillow, at the size that the index decodes them at.
- bare network: the network alone, on tensors in memory, in the same batches and in the setting that the index takes.
- both at once: the two bare parts at the same time, without anything that an index adds.
- former index: the index with JPEG files decoded at their full size, the network in torch's default layout, BatchNorm
  layers that are not folded, and batches that pass the network as a whole.
`--precision bfloat16` holds for the index and the bare network. The ratios are of medians: of the index to the slower of its bare
parts, to both at once, and of the former index to the index. Where decoding and the network share the cores of the processor, no
index can be faster than both at once.
`--out` is the folder of the table, bench_embedding.csv.
"""
# ruff: noqa: E402 - torch reads the settings of the process when it is loaded

from __future__ import annotations

from retrieval.cli import processor

processor.prepare()

import argparse
import copy
import csv
import io
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from retrieval import Index, Model, Preprocessing, RetrievalError
from retrieval.data import ImageSet, images_in
from retrieval.networks import create_embedder, pretraining_statistics

INDEX, DECODING, NETWORK, BOTH, FORMER = "index", "bare decoding", "bare network", "both at once", "former index"
WIDTH, HEIGHT = 1600, 1200
DRAWN = 32  # different photographs; the files repeat them
CLASSES = 10


@dataclass
class Row:
    """A line of the table; the ratio is of the seconds to those of the index."""

    candidate: str
    seconds: float
    images_per_second: float
    ratio: float


def draw_images(root: Path, count: int) -> Path:
    """Smooth noise, coarse and fine, of as many bytes as a photograph."""
    generator = np.random.default_rng(0)
    contents = []
    for _ in range(min(count, DRAWN)):
        pixels = np.full((HEIGHT, WIDTH, 3), 128.0, dtype=np.float32)
        for columns, strength in ((4, 48), (16, 32), (64, 24), (400, 12), (1600, 3)):
            noise = generator.normal(128, strength, (3 * columns // 4, columns, 3)).clip(0, 255).astype(np.uint8)
            pixels += np.asarray(Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) - 128.0
        content = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=90)
        contents.append(content.getvalue())
    for number, content in zip(range(count), itertools.cycle(contents), strict=False):
        folder = root / f"class {number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(content)
    return root


def make_model(options: argparse.Namespace) -> Model:
    torch.manual_seed(0)
    network = create_embedder(
        options.backbone, pretrained=options.weights or False, embedding_dim=128, image_size=options.size
    ).eval()
    mean, std, interpolation = pretraining_statistics(network)
    resize = round(options.size * 8 / 7)
    preparing = Preprocessing(resize, options.size, mean, std, interpolation, decoding="reduced")  # type: ignore[arg-type]
    settings = {"batch_size": options.batch, "workers": options.workers, "precision": options.precision}
    return Model(network, preparing, **settings)


class FormerModel(Model):
    """A model whose batches pass the network as a whole, with BatchNorm layers that are not folded."""

    def embed(self, batches: Iterable[torch.Tensor], *, fold: bool) -> np.ndarray:
        with torch.inference_mode():
            return torch.cat([self.network(images) for images in batches]).numpy()


def former(model: Model) -> Model:
    """The model as it was embedded with before: torch's default layout, float32, JPEG files decoded at their full size."""
    network = copy.deepcopy(model.network).to(memory_format=torch.contiguous_format)
    preparing = replace(model.preprocessing, decoding="full")
    return FormerModel(network, preparing, batch_size=model.batch_size, workers=model.workers)


def build(model: Model, root: Path, out: Path) -> None:
    Index.build(model, root, out, overwrite=True)


def decode(path: Path, preparing: Preprocessing) -> None:
    """As few calls as make pixels of the right size from a file."""
    with Image.open(path) as file:
        if preparing.least_side is not None:
            scale = max(1, min(file.size) // preparing.least_side)
            file.draft("RGB", (file.width // scale, file.height // scale))
        scale = preparing.resize / min(file.size)
        size = (round(scale * file.width), round(scale * file.height))
        image = file.resize(size, Image.Resampling[preparing.interpolation.upper()])
    left, top = (image.width - preparing.size) // 2, (image.height - preparing.size) // 2
    _ = np.asarray(image.crop((left, top, left + preparing.size, top + preparing.size)), dtype=np.float32) / 255


def decode_all(pool: ProcessPoolExecutor, images: ImageSet, preparing: Preprocessing) -> None:
    for _ in decoding(pool, images, preparing):
        pass


def decoding(pool: ProcessPoolExecutor, images: ImageSet, preparing: Preprocessing) -> Iterator[None]:
    """Starts to decode; the work is done when the iterator has ended."""
    paths = [images.root / path for path in images.paths]
    return pool.map(partial(decode, preparing=preparing), paths, chunksize=16)


def at_once(pool: ProcessPoolExecutor, images: ImageSet, model: Model) -> None:
    """Decodes in the processes of the pool, while this one embeds tensors."""
    running = decoding(pool, images, model.preprocessing)
    embed_tensors(model, len(images))
    list(running)


def embed_tensors(model: Model, count: int) -> None:
    """The network alone, on the same tensor for every batch."""
    size = model.preprocessing.size
    batch = torch.rand(model.batch_size, 3, size, size)
    batches = (batch[: count - start] for start in range(0, count, model.batch_size))
    model.embed(batches, fold=True)


def take_turns(candidates: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """The seconds of each candidate in the rounds after the first."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(1 + rounds):
        for name, candidate in candidates.items():
            start = time.perf_counter()
            candidate()
            seconds[name].append(time.perf_counter() - start)
    return {name: found[1:] for name, found in seconds.items()}


def measure(root: Path, folder: Path, options: argparse.Namespace) -> list[Row]:
    """The table, printed."""
    model = make_model(options)
    images = images_in(root)
    before = former(model)
    with ProcessPoolExecutor(max(1, options.workers)) as pool:
        list(pool.map(abs, range(options.workers)))  # starts the processes, which have no threads of torch yet
        candidates: dict[str, Callable[[], None]] = {
            INDEX: partial(build, model, root, folder / "index"),
            DECODING: partial(decode_all, pool, images, model.preprocessing),
            NETWORK: partial(embed_tensors, model, len(images)),
            BOTH: partial(at_once, pool, images, model),
            FORMER: partial(build, before, root, folder / "former"),
        }
        turns = take_turns(candidates, options.repeats)
    seconds = {name: statistics.median(found) for name, found in turns.items()}
    rows = [Row(name, second, len(images) / second, second / seconds[INDEX]) for name, second in seconds.items()]
    width, height = images.load(0).size
    print(
        f"\n{len(images):,} images, the first {width} x {height}; {options.backbone}, {options.size} px, {options.precision}; "
        f"workers: {options.workers}, threads: {torch.get_num_threads()}\n{'':16}{'seconds':>10}{'images/s':>11}{'ratio':>8}"
    )
    for row in rows:
        print(f"{row.candidate:16}{row.seconds:10.2f}{row.images_per_second:11,.1f}{row.ratio:8.2f}")
    slower = max(seconds[DECODING], seconds[NETWORK])
    print(
        f"\nThe index takes {seconds[INDEX] / slower:.2f} times as long as the slower of its bare parts, "
        f"{seconds[INDEX] / seconds[BOTH]:.2f} times as long as both at once.\n"
        f"It is {seconds[FORMER] / seconds[INDEX]:.2f} times as fast as the former index."
    )
    return rows


def write(rows: Sequence[Row], folder: Path) -> None:
    """Writes bench_embedding.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench_embedding.csv").write_text(text.getvalue(), encoding="utf-8", newline="")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a folder of images; drawn if left out")
    parser.add_argument("--images", type=int, default=2000, help="images to draw; 2000 if left out")
    parser.add_argument("--backbone", default="mobilenetv2_100", help="a model of timm; mobilenetv2_100 if left out")
    parser.add_argument("--weights", help="its weights file; random weights if left out")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    for name, default in (("size", 224), ("batch", 64), ("workers", 2), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{default} if left out")
    parser.add_argument("--threads", type=int, help="threads of the network; as in `retrieval` if left out")
    parser.add_argument("--out", type=Path, help="folder of the table")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        try:
            root = options.root or draw_images(Path(folder) / "photos", options.images)
            rows = measure(root, Path(folder), options)
        except RetrievalError as error:
            sys.exit(f"error: {error}")
    if options.out:
        write(rows, options.out)


if __name__ == "__main__":
    main()
