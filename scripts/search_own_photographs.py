"""The search behind configs/photos.yaml: one thing changed at a time, on class-disjoint folds of the training classes.

    python scripts/own_photographs.py SHARED_DATA --out own --seeds    # writes the folders of images, own/images
    python scripts/search_own_photographs.py SHARED_DATA own/images --out search.jsonl
    python scripts/search_own_photographs.py SHARED_DATA own/images --out search.jsonl --data cub --settings "random head"

The training classes are those of `retrieval train FOLDER`; the test classes are not looked at. One half of them trains, and the
other half (its first 2,000 images) measures: after 0 steps, after half and after all. Images of 128 pixels, in bfloat16; batches of
64, four of a class; 6,000 images in all. A minute or two each on one core. What `--out` holds is not run again. Prints a Markdown
table.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval import evaluate
from retrieval.data import ImageSet, MPerClassSampler, Preprocessing, fold_classes, make_augmentation, read_dataset
from retrieval.losses import RecallLoss
from retrieval.networks import Embedder, create_embedder, freeze_batchnorm, pretraining_statistics, start_head

IMAGES, PIXELS, BATCH, MOST_MEASURED = 6_000, 128, 64, 2_000


@dataclass(frozen=True)
class Setting:
    """What is changed. The defaults are those of the search, not all of them those of configs/photos.yaml."""

    learning_rate: float = 5e-5
    head_init: str = "whiten"
    head_lr_multiplier: float = 1.0
    batchnorm: str = "statistics"
    temperature: float = 0.7
    area: float = 0.4
    backbone: str = "mobilenetv2_100"


SETTINGS = {
    "as in photos.yaml": Setting(),
    "random head": Setting(head_init="random"),
    "principal directions": Setting(head_init="pca"),
    "BatchNorm in training mode": Setting(batchnorm="none"),
    "learning rate 3e-5": Setting(learning_rate=3e-5),
    "learning rate 1e-4": Setting(learning_rate=1e-4),
    "learning rate 3e-4": Setting(learning_rate=3e-4),
    "head 3 times as fast": Setting(head_lr_multiplier=3.0),
    "temperature 0.5": Setting(temperature=0.5),
    "temperature 1": Setting(temperature=1.0),
    "crops of 16 % and more": Setting(area=0.16),
    "EfficientNet-Lite0": Setting(backbone="tf_efficientnet_lite0"),
    "EfficientNet-Lite2": Setting(backbone="tf_efficientnet_lite2"),
}


class Trial:
    """A setting on a data set.

    Args:
        setting: What is changed.
        folder: The images.
        weights: The folder of the weights.
    """

    def __init__(self, setting: Setting, folder: Path, weights: Path) -> None:
        torch.manual_seed(0)
        self.setting = setting
        train = read_dataset("folder", folder)["train"]
        self.images, measured = fold_classes(train, 2, 0, seed=0)
        ends = np.cumsum(measured.class_sizes())
        self.measured = measured.select(np.arange(ends[ends <= MOST_MEASURED][-1]))
        self.network = create_embedder(
            setting.backbone, pretrained=weights / f"{setting.backbone}.safetensors", image_size=PIXELS
        ).to(memory_format=torch.channels_last)
        mean, std, interpolation = pretraining_statistics(self.network)
        self.preprocessing = Preprocessing(round(1.14 * PIXELS), PIXELS, mean, std, interpolation)
        self.augmentation = make_augmentation("photo", self.preprocessing, area=(setting.area, 1.0))

    def run(self) -> dict[str, tuple[float, float]]:
        """The figures of the frozen features, of the start, at half of the steps, and at the end."""
        network, setting = self.network, self.setting
        frozen = Embedder(network.backbone, network.head.in_features, None)
        start_head(network.head, self.embed(frozen, self.images), setting.head_init)
        found = {"frozen": self.measure(frozen), "start": self.measure(network)}
        rate = setting.learning_rate
        groups = [
            {"params": list(network.backbone.parameters()), "lr": rate},
            {"params": list(network.head.parameters()), "lr": rate * setting.head_lr_multiplier},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
        steps = IMAGES // BATCH
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
        )
        loss_function = RecallLoss(projection="softmax", weighting="sqrt", temperature=setting.temperature)
        for step, batch in zip(range(steps), self.batches(), strict=False):
            if step == steps // 2:
                found["half"] = self.measure(network)
            network.train()
            freeze_batchnorm(network, setting.batchnorm)
            views = [torch.from_numpy(self.augmentation(self.images.load(int(i)), [0, step, int(i)])) for i in batch]
            with torch.autocast("cpu", torch.bfloat16):
                vectors = network(_stack(views))
            optimizer.zero_grad()
            loss_function(vectors, torch.from_numpy(self.images.labels[batch])).backward()
            optimizer.step()
            schedule.step()
        return found | {"end": self.measure(network)}

    def batches(self) -> Iterator[np.ndarray]:
        """Positions of images, for ever."""
        sampler = MPerClassSampler(self.images.labels, min(BATCH, 4 * self.images.num_classes), 4, seed=0)
        epoch = 0
        while True:
            yield from sampler.epoch(epoch)
            epoch += 1

    def measure(self, network: nn.Module) -> tuple[float, float]:
        """recall@1 and MAP@R in percent."""
        figures = evaluate(self.embed(network, self.measured), self.measured.labels, ks=[1])
        return round(100 * figures["recall@1"], 2), round(100 * figures["map@r"], 2)

    @torch.no_grad()
    def embed(self, network: nn.Module, images: ImageSet) -> Tensor:
        """The vectors (len(images), dim) of a network."""
        network.eval()
        parts = []
        for start in range(0, len(images), BATCH):
            positions = range(start, min(start + BATCH, len(images)))
            with torch.autocast("cpu", torch.bfloat16):
                parts.append(network(_stack([self.preprocessing(images.load(i)) for i in positions])))
        return functional.normalize(torch.cat(parts), dim=1)


def _stack(images: list[Tensor]) -> Tensor:
    return torch.stack(images).contiguous(memory_format=torch.channels_last)


def table(rows: list[dict[str, Any]], data: list[str]) -> str:
    """A row for each setting, with the figures at the end and, in brackets, at half of the steps."""
    lines = ["| | " + " | ".join(data) + " |", "|---|" + "---|" * len(data)]
    found = {(row["name"], row["data"]): row for row in rows}
    before = {name: row for (_, name), row in found.items() if row["name"] == "as in photos.yaml"}
    for what in ("frozen", "start"):
        cells = [" / ".join(map(str, before[name][what])) if name in before else "" for name in data]
        lines.append(f"| {'frozen features' if what == 'frozen' else 'start, untrained'} | " + " | ".join(cells) + " |")
    for setting in SETTINGS:
        cells = []
        for name in data:
            row = found.get((setting, name))
            cells.append("" if row is None else "{} / {} ({} / {})".format(*row["end"], *row["half"]))
        if any(cells):
            lines.append(f"| {setting} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared_data", type=Path)
    parser.add_argument("images", type=Path, help="folder of the folders of images")
    parser.add_argument("--out", type=Path, required=True, help="the file of results, one JSON object a line")
    parser.add_argument("--data", nargs="+", default=["cub", "cars", "emoji", "glyphs"])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    arguments = parser.parse_args()
    arguments.out.touch()
    rows = [json.loads(line) for line in arguments.out.read_text().splitlines()]
    done = {(row["name"], row["data"]) for row in rows}
    for name in arguments.settings:
        for data in arguments.data:
            if (name, data) in done:
                continue
            found = Trial(SETTINGS[name], arguments.images / data, arguments.shared_data / "weights").run()
            rows.append({"name": name, "data": data, **asdict(SETTINGS[name]), **found})
            with arguments.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows, arguments.data))


if __name__ == "__main__":
    main()
