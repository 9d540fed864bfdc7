"""A training run, from its beginning or from where it stopped."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from retrieval.building import (
    ProgressBar,
    build_augmentation,
    build_model,
    build_preprocessing,
    build_sampler,
    build_trainer,
    build_training_loader,
    measured_splits,
    name_images,
    pick_device,
    read_splits,
    with_absolute_paths,
    without_head,
)
from retrieval.config import Config, to_yaml
from retrieval.data import Augmentation, ImageSet, MPerClassSampler
from retrieval.files import write_json, write_text
from retrieval.models import Embedder
from retrieval.recipes.figures import Measuring, describe
from retrieval.recipes.pictures import draw_neighbours
from retrieval.recipes.resume import require_same, require_same_images
from retrieval.report import plot_training
from retrieval.training import (
    RunFolder,
    Stopped,
    StopSignals,
    Trainer,
    describe_environment,
    distributed,
    load_checkpoint,
    save_checkpoint,
)
from retrieval.training.record import Figures, Record, labelled, unlabelled

log = logging.getLogger("retrieval")


def train(config: Config, out: str | Path, *, overwrite: bool = False, resume: bool = False) -> dict[str, Figures]:
    """Trains a model and measures it on the test classes.

    Args:
        config: what to train.
        out: folder of the run.
        overwrite: replace a run that is there.
        resume: go on with the run that is there, from the step where it stopped.

    Returns:
        Figures of the test classes (see `retrieval.evaluation.evaluate`) by what they are of: the "frozen features" of a pretrained
        backbone without a head; the "untrained" model; the "last" epoch; the epoch that is "best by validation", where classes
        are held out; and the one that is "best on test", where `evaluation.test_every` asks for it: what papers report, and too
        good, since it was chosen by the very figure. Nothing in any process but the first.

    Raises:
        Stopped: by SIGTERM or Ctrl-C, after everything was saved.
    """
    folder = RunFolder(out)
    if resume:
        folder.require()
    else:
        folder.check_free(overwrite=overwrite)
    config = with_absolute_paths(config)
    with StopSignals() as signals, distributed.joined(pick_device(config.device)) as device, _owned(folder):
        run = _build(config, folder, device, signals, resume=resume)
        if resume:
            run.take_up()
        else:
            run.begin(overwrite=overwrite)
        with folder.logging() if distributed.is_main() else contextlib.nullcontext():
            results = run.go_on_to_the_end()
            return results if distributed.is_main() else {}


@dataclass
class _Run:
    """What a run consists of; see `_build`."""

    config: Config
    folder: RunFolder
    device: torch.device
    signals: StopSignals
    splits: dict[str, ImageSet]
    model: Embedder
    augmentation: Augmentation
    sampler: MPerClassSampler
    trainer: Trainer
    measuring: Measuring
    record: Record = field(default_factory=Record)

    def begin(self, *, overwrite: bool) -> None:
        """Measures the model as it is, and makes the folder."""
        words, results = self.config.model, self.record.results
        untrained = self.measuring.measure("test", self.model)
        if words.pretrained:
            is_more = words.embedding_dim or words.layer_norm
            results["frozen features"] = (
                self.measuring.measure("test", without_head(self.model)) if is_more else untrained
            )
        results["untrained"] = untrained
        if distributed.is_main():
            fingerprints = {name: images.fingerprint() for name, images in self.splits.items()}
            environment = describe_environment(device=str(self.device), seed=self.config.seed, data=fingerprints)
            self.folder.create(to_yaml(self.config), environment, overwrite=overwrite)
        self.save()

    def take_up(self) -> None:
        """Brings everything to where the run stopped."""
        require_same(self.config, self.folder)
        require_same_images(self.splits, self.folder)
        state = self.folder.load_last()
        self.trainer.load_state_dict(state)
        self.record = Record(state["rows"], state["results"])
        if distributed.is_main():
            write_text(self.folder.config, to_yaml(self.config))

    def go_on_to_the_end(self) -> dict[str, Figures]:
        """Trains and measures what was trained; a signal stops it after everything is saved."""
        for what, figures in self.record.results.items():
            log.info("%s, test classes: %s", what, describe(figures))
        try:
            self.go_on_and_save()
            return self.finish()
        except Stopped:
            log.warning("stopped after step %d; go on with --resume", self.trainer.step)
            raise

    def go_on_and_save(self) -> None:
        """Trains to the end or to a signal. What is saved is final: `finish` puts other weights into the model."""
        try:
            self.go_on()
        except Stopped:
            self.save()
            raise

    def go_on(self) -> None:
        """Trains to the last step, or until the validation classes show no gain any more."""
        settings, trainer, steps_per_epoch = self.config.training, self.trainer, self.sampler.steps_per_epoch
        num_steps = settings.epochs * steps_per_epoch
        num_steps = min(num_steps, settings.max_steps or num_steps)
        loader = build_training_loader(self.config, self.splits["train"], self.augmentation, self.sampler, trainer.step)
        if self.has_no_patience_left():  # of a run that had ended so
            return
        with ProgressBar(num_steps, "training", initial=trainer.step) as bar:
            batches = self.signals.each(loader, together=True)
            for epoch, loss in trainer.epochs(
                batches, steps_per_epoch, max_steps=num_steps, after_step=lambda loss: bar.update()
            ):
                self.save()  # before the measurement, which may fail
                self.end_epoch(epoch, loss, is_last=trainer.step >= num_steps)
                if self.has_no_patience_left():
                    log.info("no better figure on the validation classes in %d looks: stopped early", settings.patience)
                    break
        self.save()

    def end_epoch(self, epoch: int, loss: float, *, is_last: bool) -> None:
        """Measures what is due, and keeps the epoch if it is the best."""
        settings = self.config.evaluation
        row: Figures = {"epoch": epoch, "step": self.trainer.step, "loss": loss}
        for split, every in (("validation", settings.every), ("test", settings.test_every)):
            is_there = split == "test" or split in self.splits
            if every and is_there and (epoch % every == 0 or is_last):
                row |= labelled(split, self.measuring.measure(split, self.trainer.evaluated))
        self.record.add(row)
        log.info("epoch %d of %d: loss %.4f  %s", epoch, self.config.training.epochs, loss, describe(row))
        if distributed.is_main():
            self.folder.write_rows(self.record.rows)
            if self.record.improved("validation"):
                best = {"model": self.trainer.evaluated.state_dict(), "step": self.trainer.step}
                save_checkpoint(self.folder.best, best)

    def has_no_patience_left(self) -> bool:
        """Whether the validation classes were looked at often enough without a better figure."""
        patience = self.config.training.patience
        return patience is not None and self.record.looks_since_best("validation") >= patience

    def finish(self) -> dict[str, Figures]:
        """Measures the last and the best epoch, draws pictures and writes the results."""
        model, results = self.trainer.evaluated, dict(self.record.results)
        vectors = self.measuring.embed("test", model)
        results["last"] = self.measuring.figures(vectors, "test")
        if distributed.on_main(self.folder.best.is_file):
            model.load_state_dict(load_checkpoint(self.folder.best)["model"])
            results["best by validation"] = self.measuring.measure("test", model)
        if best := self.record.best("test"):
            results["best on test"] = unlabelled("test", best)
        if distributed.is_main():
            queries, gallery = (self.splits[name] for name in measured_splits(self.splits))
            draw_neighbours(*vectors, queries, gallery, self.folder.gallery, seed=self.config.seed)
            plot_training(self.record.rows, self.folder.curves)
            write_json(self.folder.results, results)
        return results

    def save(self) -> None:
        """Writes everything that a resumed run needs."""
        if distributed.is_main():
            state = {**self.trainer.state_dict(), "rows": self.record.rows, "results": self.record.results}
            self.folder.save_last(state)


def _build(config: Config, folder: RunFolder, device: torch.device, signals: StopSignals, *, resume: bool) -> _Run:
    """Everything that a run needs, from its configuration; resumed, its weights come from its checkpoint."""
    splits = read_splits(config)
    torch.manual_seed(config.seed)
    model = build_model(config, pretrained=not resume).to(device)
    preprocessing = build_preprocessing(config, model)
    augmentation = build_augmentation(config, preprocessing)
    sampler = build_sampler(config, splits["train"])
    trainer = build_trainer(
        config,
        model,
        num_classes=splits["train"].num_classes,
        steps_per_epoch=sampler.steps_per_epoch,
        name_images=name_images(splits["train"], sampler),
    )
    measuring = Measuring(config, splits, preprocessing, signals)
    return _Run(config, folder, device, signals, splits, model, augmentation, sampler, trainer, measuring)


@contextlib.contextmanager
def _owned(folder: RunFolder) -> Iterator[None]:
    """Keeps other runs out of the folder; of several processes, only the first writes, there and on the screen."""
    with contextlib.ExitStack() as stack:
        distributed.on_main(lambda: stack.enter_context(folder.hold()))
        if not distributed.is_main():
            stack.callback(log.setLevel, log.level)
            log.setLevel(logging.CRITICAL)
        yield
