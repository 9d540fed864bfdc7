"""Trains with pytorch-metric-learning's own sampler, trainer and tester, and our loss in place of one of theirs.

    python scripts/train_with_pml.py [--classes 40]

Prints precision at 1 and MAP@R on unseen glyphs before and after one epoch, a minute on two cores. What differs from a script
that uses one of their losses is the import and the line that makes the loss.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from pytorch_metric_learning import samplers, testers, trainers
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from retrieval import Preprocessing, RecallLoss
from retrieval.data import read_dataset
from retrieval.networks import create_embedder

PREPROCESSING = Preprocessing(resize=32, size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def main() -> None:
    """Trains for one epoch."""
    parser = argparse.ArgumentParser(description="Trains with pytorch-metric-learning's trainer and our loss.")
    parser.add_argument("--classes", type=int, help="of each split, 32 at least; all if left out")
    classes = parser.parse_args().classes
    torch.manual_seed(0)
    splits = {name: images.with_transform(PREPROCESSING) for name, images in read_dataset("glyphs").items()}
    if classes:
        splits = {name: images.select(np.flatnonzero(images.labels < classes)) for name, images in splits.items()}
    model = create_embedder("test_resnet", embedding_dim=64, image_size=32)
    loss = RecallLoss(projection="std", weighting="linear")
    tester = testers.GlobalEmbeddingSpaceTester(
        accuracy_calculator=AccuracyCalculator(
            include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count"
        ),
        dataloader_num_workers=0,
    )
    trainer = trainers.MetricLossOnly(
        models={"trunk": model},
        optimizers={"trunk_optimizer": torch.optim.AdamW(model.parameters(), lr=2e-3)},
        batch_size=128,
        loss_funcs={"metric_loss": loss},
        dataset=splits["train"],
        sampler=samplers.MPerClassSampler(splits["train"].labels, m=4, length_before_new_iter=len(splits["train"])),
        dataloader_num_workers=0,
    )
    for when in ("before", "after"):
        if when == "after":
            trainer.train(num_epochs=1)
        found = tester.test({"test": splits["test"]}, when == "after", model)["test"]
        print(when, {name: round(value, 4) for name, value in found.items() if name != "epoch"})


if __name__ == "__main__":
    main()
