"""What `retrieval train FOLDER` makes of a folder of images, for several data sets, backbones and seeds.

    python scripts/own_photographs.py SHARED_DATA --out own --page docs/own_photographs.md
    python scripts/own_photographs.py SHARED_DATA --out own --data cub --seeds 0 --jobs 1

Each data set becomes a plain folder with a folder a class: CUB-200-2011 (classes 1-50), Cars196 (the 196 classes of the
devkit's training images), emoji (1,906 classes) and glyphs (1,200 characters, which are generated). Each run is the command
`retrieval train FOLDER --out RUN --seed N model.backbone=NAME model.pretrained=FILE` with the configuration `photos` as it is:
half of the classes are tested, and nothing is chosen on them. A finished run in `--out` is not run again. `--jobs` runs share
the cores. The table has a row for each run. Minutes are wall time with that many runs at a time.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from interval import half_width

from retrieval.data import read_dataset
from retrieval.files import folder_in_one_piece

NAMES = {"cub": "CUB, classes 1-50", "cars": "Cars196", "emoji": "emoji", "glyphs": "glyphs"}
BACKBONES = ("mobilenetv2_100", "tf_efficientnet_lite0")
BEGIN, END = "<!-- runs -->", "<!-- end of runs -->"
ROWS = ("frozen features", "untrained", "best by validation", "last")


@dataclass(frozen=True)
class Job:
    """A run of the table."""

    data: str
    backbone: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.data}-{self.backbone}-{self.seed}"


def unpack_cub(shared: Path, folder: Path) -> None:
    """Writes the images of CUB."""
    with tarfile.open(shared / "cub200" / "images_classes_1_to_50.tar") as archive:
        for member in archive.getmembers():
            if member.isfile():
                member.name = "/".join(Path(member.name).parts[-2:])
                archive.extract(member, folder, filter="data")


def unpack_cars(shared: Path, folder: Path) -> None:
    """Writes the images of Cars196."""
    with (shared / "cars196" / "cars_train_to_car_ims.csv").open(newline="") as file:
        class_of = {row["cars_train"]: row["class"] for row in csv.DictReader(file)}
    _unpack(shared / "cars196" / "images_train_long160.tar", folder, class_of)


def unpack_emoji(shared: Path, folder: Path) -> None:
    """Writes the images of the emoji."""
    class_of = {}
    for name in ("Ebay_train.txt", "Ebay_test.txt"):
        for line in (shared / "emoji" / name).read_text().splitlines()[1:]:
            _, class_id, _, path = line.split()
            class_of[Path(path).name] = class_id
    _unpack(shared / "emoji" / "emoji_images_64.tar", folder, class_of)


def unpack_glyphs(shared: Path, folder: Path) -> None:
    """Writes the characters."""
    for images in read_dataset("glyphs").values():
        for path in images.paths:
            target = folder / Path(path).parent.name / Path(path).name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes((Path(images.root) / path).read_bytes())


UNPACK = {"cub": unpack_cub, "cars": unpack_cars, "emoji": unpack_emoji, "glyphs": unpack_glyphs}


def run(job: Job, folder: Path, weights: Path, out: Path, threads: int) -> None:
    """Trains, unless the run is finished."""
    place = out / job.name
    if (place / "minutes.json").is_file():
        return
    options = [f"model.backbone={job.backbone}", f"model.pretrained={weights / (job.backbone + '.safetensors')}"]
    command = [
        sys.executable,
        "-m",
        "retrieval.cli",
        "train",
        str(folder),
        "--out",
        str(place),
        "--seed",
        str(job.seed),
    ]
    print(shlex.join([*command[2:], *options]), flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    begun = time.perf_counter()
    again = ["--overwrite"] if place.is_dir() else []
    done = subprocess.run([*command, *again, *options], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{job.name}: {done.stderr}")
    minutes = (time.perf_counter() - begun) / 60
    (place / "minutes.json").write_text(
        json.dumps({"minutes": minutes, "warned": "below the frozen features" in done.stderr})
    )


def summary(jobs: list[Job], out: Path) -> str:
    """The means over the seeds, in Markdown: a row for each data set and backbone."""
    lines = [
        "| data | backbone | frozen features | trained | gain in R@1 | gain in MAP@R |",
        "|---|---|---|---|---|---|",
    ]
    for data, backbone in dict.fromkeys((job.data, job.backbone) for job in jobs):
        runs = [job for job in jobs if (job.data, job.backbone) == (data, backbone)]
        results = [json.loads((out / job.name / "results.json").read_text()) for job in runs]
        frozen, model = (
            np.array([[100 * row[what][name] for name in ("recall@1", "map@r")] for row in results])
            for what in ("frozen features", "best by validation")
        )
        figures = [" / ".join(f"{mean:.1f}" for mean in values.mean(axis=0)) for values in (frozen, model)]
        gains = [f"{gain.mean():+.1f} ± {half_width(gain):.1f}" for gain in (model - frozen).T]
        lines.append(f"| {NAMES[data]} | `{backbone}` | {' | '.join(figures + gains)} |")
    return "\n".join(lines) + "\n"


def page(jobs: list[Job], out: Path) -> str:
    """The table of all runs, in Markdown."""
    heads = ["data", "backbone", "seed", *(f"{row}, R@1 / MAP@R" for row in ROWS), "best epoch", "above", "minutes"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for job in jobs:
        place = out / job.name
        results = json.loads((place / "results.json").read_text())
        extra = json.loads((place / "minutes.json").read_text())
        rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        best = max(rows, key=lambda row: row["validation recall@1"] + row["validation map@r"])
        frozen, end = results["frozen features"], results["best by validation"]
        above = all(end[name] > frozen[name] for name in ("recall@1", "map@r"))
        figures = [f"{100 * results[row]['recall@1']:.1f} / {100 * results[row]['map@r']:.1f}" for row in ROWS]
        said = "yes" if above else "no, and says so" if extra["warned"] else "no"
        epochs = f"{best['epoch']:g} of {max(row['epoch'] for row in rows):g}"
        cells = [NAMES[job.data], f"`{job.backbone}`", str(job.seed), *figures, epochs, said, f"{extra['minutes']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _unpack(archive_path: Path, folder: Path, class_of: dict[str, str]) -> None:
    """Writes each file of an archive into the folder of its class."""
    with tarfile.open(archive_path) as archive:
        for member in archive.getmembers():
            name = Path(member.name).name
            if member.isfile() and name in class_of:
                member.name = f"{class_of[name]}/{name}"
                archive.extract(member, folder, filter="data")


def main() -> None:
    """Runs what the arguments ask for, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared_data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the images and runs")
    parser.add_argument("--page", type=Path, help="a Markdown file, whose table between its marks is replaced")
    parser.add_argument("--data", nargs="+", choices=UNPACK, default=list(UNPACK))
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    arguments = parser.parse_args()
    for name in arguments.data:
        if not (folder := arguments.out / "images" / name).is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with folder_in_one_piece(folder) as new:
                UNPACK[name](arguments.shared_data, new)
    jobs = [Job(data, net, seed) for data in arguments.data for net in arguments.backbones for seed in arguments.seeds]
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    weights = (arguments.shared_data / "weights").resolve()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        # Seeds come last, so that a table that is cut short has every data set and backbone.
        ordered = sorted(jobs, key=lambda job: arguments.seeds.index(job.seed))
        list(
            pool.map(
                lambda job: run(job, arguments.out / "images" / job.data, weights, arguments.out, threads), ordered
            )
        )
    table = page(jobs, arguments.out)
    if len(arguments.seeds) > 1:
        table = f"{summary(jobs, arguments.out)}\n{table}"
    print(table)
    if arguments.page:
        before, rest = arguments.page.read_text().split(BEGIN)
        arguments.page.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
