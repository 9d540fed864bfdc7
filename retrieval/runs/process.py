"""Runs a training, new or resumed."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from retrieval.config import Config, to_yaml
from retrieval.config.check import build_callbacks, check, names_in
from retrieval.config.fitting import fit
from retrieval.config.network import (
    Embedder,
    build_network,
    build_preprocessing,
    head_start,
    own_network,
    require_whole_image,
    without_head,
)
from retrieval.config.schema import DataConfig
from retrieval.config.splits import (
    build_augmentation,
    build_sampler,
    build_training_loader,
    find_unreadable,
    name_images,
    read_splits,
    with_absolute_paths,
)
from retrieval.config.trainer import build_trainer
from retrieval.data import Augmentation, ImageSet, MPerClassSampler
from retrieval.data.registry import DATASETS
from retrieval.errors import DatasetError, DivergedError, plural
from retrieval.files import write_json, write_text
from retrieval.model.places import require_known
from retrieval.networks import start_head
from retrieval.report import plot_training
from retrieval.runs.images import require_same_images, write_images
from retrieval.runs.measuring import Measuring, describe
from retrieval.runs.objects import Objects
from retrieval.runs.pictures import draw_neighbours
from retrieval.runs.record import (
    Figures,
    Record,
    below_frozen_features,
    check_results,
    check_rows,
    labelled,
    result_name,
    unlabelled,
)
from retrieval.runs.resume import known_unreadable, require_same
from retrieval.runs.run import Run
from retrieval.runs.summary import summarize_training
from retrieval.training import (
    PARTS,
    RunFolder,
    RunLog,
    Stopped,
    StopSignals,
    Trainer,
    describe_environment,
    distributed,
    load_checkpoint,
    restoring,
    save_checkpoint,
)
from retrieval.training.callbacks import Callbacks
from retrieval.training.device import pick_device
from retrieval.training.diagnosis import collapsed, describe_fault, diverged
from retrieval.training.progress import ProgressBar

log = logging.getLogger("retrieval")

_MOST_IMAGES_OF_HEAD = 20_000  # more of them do not change the principal directions


def run_process(
    config: Config,
    out: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    objects: Objects | None = None,
) -> Run:
    """Runs a training in this process; see `retrieval.train`.

    Raises:
        Stopped: By SIGTERM or Ctrl-C, after everything was saved.
    """
    objects = objects or Objects()
    folder = RunFolder(out)
    if resume:
        folder.require()
    elif not dry_run:
        folder.check_free(overwrite=overwrite)
    config = with_absolute_paths(objects.describe(config))
    parts = objects.missing_parts()
    if resume:
        require_known(names_in(config, parts), folder.path)
    check(config, parts, pretrained=not resume)
    with (
        RunLog() as run_log,
        StopSignals() as signals,
        distributed.joined(pick_device(config.device)) as device,
        _owned(folder, dry_run),
    ):
        used = distributed.is_main() and not dry_run
        callbacks = Callbacks([*build_callbacks(config), *objects.callbacks] if used else [])
        process = _build(config, folder, device, signals, objects, callbacks, resume=resume)
        try:
            process.summarize()
            if dry_run:
                return process.run
            log.info("%s", process.run.plan)
            with _broken_images(config.data):
                if resume:
                    process.resume_run()
                else:
                    process.begin(overwrite=overwrite)
                if distributed.is_main():
                    run_log.open(folder.log)
                process.run_to_the_end()
        finally:
            callbacks.close()
    return process.run


@dataclass
class _Process:
    """The parts of a run in training; see `_build`."""

    config: Config
    folder: RunFolder
    run: Run
    device: torch.device
    signals: StopSignals
    splits: dict[str, ImageSet]
    unreadable: dict[str, str]
    network: Embedder
    augmentation: Augmentation
    sampler: MPerClassSampler
    trainer: Trainer
    measuring: Measuring
    callbacks: Callbacks
    record: Record = field(default_factory=Record)
    step_started: float = 0.0

    def summarize(self) -> None:
        """Makes the summary of what is about to be done."""
        steps_per_epoch = self.sampler.steps_per_epoch
        self.run.plan = summarize_training(self.config, self.splits, self.network, self.device, steps_per_epoch)

    def begin(self, *, overwrite: bool) -> None:
        """Starts the head, measures the network before training, and makes the folder. The start may be the best epoch."""
        self.start_head()
        row: Figures = {"epoch": 0, "step": 0}
        for split in reversed(self.measuring.splits_measured):
            untrained = self.measure_start(split)
            if split == "validation" or self.config.evaluation.test_every:
                row |= labelled(split, untrained)
        if distributed.is_main():
            fingerprints = {name: images.fingerprint() for name, images in self.splits.items()}
            environment = describe_environment(device=str(self.device), seed=self.config.seed, data=fingerprints)
            environment["unreadable"] = self.unreadable
            assert self.run.plan is not None
            environment["plan"] = self.run.plan.to_dict()
            self.folder.create(to_yaml(self.config), environment, overwrite=overwrite)
            write_images(self.folder, self.splits)
        if len(row) > 2:
            self.keep(row)
        self.save()
        self.callbacks.begin(self.run)
        for name, figures in self.record.results.items():
            self.callbacks.evaluation(self.run, name, figures)

    def start_head(self) -> None:
        """Starts the head from the features of training images, all processes alike."""
        kind, network, images = head_start(self.config.model), self.network, self.splits["train"]
        if kind == "random":
            return
        log.info("head: started from the features of the training images (model.head_init=%s)", kind)
        chosen = np.random.default_rng(self.config.seed).permutation(len(images))[:_MOST_IMAGES_OF_HEAD]
        features = self.measuring.embed_images(images.select(np.sort(chosen)), without_head(network, norm=True))
        assert isinstance(network.head, nn.Linear)
        start_head(network.head, torch.from_numpy(features), kind)
        distributed.synchronize(network)
        if self.trainer.average is not None:
            self.trainer.average.set(network)

    def measure_start(self, split: str) -> Figures:
        """Measures the network before training, and the frozen features of a pretrained backbone, if it has more than these."""
        options, results = self.config.model, self.record.results
        has_more = bool(options.embedding_dim or options.layer_norm)
        untrained = self.measuring.measure(split, self.network)
        if options.pretrained:
            frozen = self.measuring.measure(split, without_head(self.network)) if has_more else untrained
            results[result_name("frozen features", split)] = frozen
        if (has_more or not options.pretrained) and split == self.measuring.splits_measured[-1]:
            results[result_name("untrained", split)] = untrained  # that of other splits is the row of epoch 0
        return untrained

    def resume_run(self) -> None:
        """Restores the state at which the run stopped."""
        require_same(self.config, self.folder)
        require_same_images(self.splits, self.folder, "or start a new run")
        state = self.folder.load_last(PARTS, self.trainer.find_fault)
        with restoring(self.folder.last):
            self.record = Record(check_rows(state["rows"]), check_results(state["results"]))
            self.trainer.load_state_dict(state)
        if distributed.is_main():
            write_text(self.folder.config, to_yaml(self.config))
        self.callbacks.begin(self.run)

    def run_to_the_end(self) -> None:
        """Trains and measures the trained network. A signal stops it after everything is saved."""
        for name, figures in self.record.results.items():
            log.info("%s: %s", name, describe(figures))
        try:
            self.train_and_save()
            self.finish()
        except Stopped:
            log.warning("stopped after step %d; resume the run to go on", self.trainer.step)
            raise

    def train_and_save(self) -> None:
        """Trains to the end or to a signal, and saves. `finish` loads other weights into the network afterwards."""
        try:
            self.train()
        except Stopped:
            self.save()
            raise

    def train(self) -> None:
        """Trains to the last step, or until the validation figures no longer improve."""
        settings, trainer, steps_per_epoch = self.config.training, self.trainer, self.sampler.steps_per_epoch
        num_steps = settings.num_epochs * steps_per_epoch
        num_steps = min(num_steps, settings.max_steps or num_steps)
        loader = build_training_loader(self.config, self.splits["train"], self.augmentation, self.sampler, trainer.step)
        if self.has_no_patience_left():  # the reason why the run had ended
            return
        with ProgressBar(num_steps, "training", initial=trainer.step) as bar:
            batches = self.signals.each(loader, together=True)
            for epoch, loss in trainer.epochs(
                batches, steps_per_epoch, max_steps=num_steps, after_step=self.after_step(bar)
            ):
                self.save()  # before the measurement, which may fail
                self.end_epoch(epoch, loss, is_last=trainer.step >= num_steps)
                self.step_started = time.perf_counter()  # a measurement is no part of the next step
                if self.has_no_patience_left():
                    log.info(
                        "no better validation figure in %s: stopped early", plural(settings.patience or 0, "evaluation")
                    )
                    break
        self.save()

    def after_step(self, bar: ProgressBar) -> Any:
        """A function that is called with the loss of every step."""
        self.step_started = time.perf_counter()

        def call(loss: float) -> None:
            seconds = max(time.perf_counter() - self.step_started, 1e-9)
            figures = {
                "loss": loss,
                "learning_rate": float(self.trainer.optimizer.param_groups[0]["lr"]),
                "images_per_second": self.config.batch.size / seconds,
                **self.trainer.gauge.figures,
            }
            bar.show(loss, figures["images_per_second"], self.trainer.gauge.figures)
            bar.update()
            self.warn_of_collapse()
            self.callbacks.step(self.run, self.trainer.step, figures)
            self.step_started = time.perf_counter()

        return call

    def warn_of_collapse(self) -> None:
        """Says once in a run that its scores have collapsed."""
        if (found := self.trainer.gauge.new_collapse()) and distributed.is_main():
            remedy = remedy_of_collapse(self.config)
            log.warning("%s", collapsed(self.trainer.step, found.spread, found.largest, remedy))

    def end_epoch(self, epoch: int, loss: float, *, is_last: bool) -> None:
        """Measures the splits that are due, and keeps the epoch if it is the best."""
        settings = self.config.evaluation
        row: Figures = {"epoch": epoch, "step": self.trainer.step, "loss": loss, **self.trainer.gauge.mean()}
        for split, every in (("validation", settings.every), ("test", settings.test_every)):
            exists = split in self.measuring.splits_measured
            if every and exists and (epoch % every == 0 or is_last):
                figures = self.measuring.figures(self.embed(split), split)
                row |= labelled(split, figures)
                self.callbacks.evaluation(self.run, split, figures)
        log.info("epoch %d of %d: loss %.4f  %s", epoch, self.config.training.num_epochs, loss, describe(row))
        self.keep(row)
        self.callbacks.epoch(self.run, epoch, row)

    def keep(self, row: Figures) -> None:
        """Adds a row, and keeps the weights if they are the best on the validation images so far."""
        self.record.add(row)
        if distributed.is_main():
            self.folder.write_rows(self.record.rows)
            if self.record.improved("validation"):
                best = {"model": self.trainer.evaluated.state_dict(), "step": self.trainer.step}
                save_checkpoint(self.folder.best, best)

    def has_no_patience_left(self) -> bool:
        """Whether the validation figures have not improved for too many evaluations."""
        patience = self.config.training.patience
        return patience is not None and self.record.evaluations_since_best("validation") >= patience

    def finish(self) -> None:
        """Measures the last and the best epoch, draws the pictures and writes the results. The network becomes the best one."""
        results = dict(self.record.results)
        if self.measuring.splits_measured:
            results |= self.measure_end(self.measuring.splits_measured[-1])
        if best := self.record.best("test"):
            results["best on test"] = unlabelled("test", best)
        if distributed.is_main():
            if self.record.rows:
                chosen = (self.record.best("validation") or {}).get("epoch")
                plot_training(self.record.rows, results, self.folder.curves, chosen=chosen)
            write_json(self.folder.results, results)
        if warning := below_frozen_features(results, self.record.best("validation")):
            log.warning("%s", warning)
        self.callbacks.end(self.run, results)

    def measure_end(self, split: str) -> dict[str, Figures]:
        """Measures the last and the best epoch, and draws neighbours by the best one."""
        network, best = self.trainer.evaluated, self.record.best("validation")
        vectors = self.embed(split)
        results = {result_name("last", split): self.measuring.figures(vectors, split)}
        if best:
            if best["step"] != self.trainer.step:
                network.load_state_dict(load_checkpoint(self.folder.best)["model"])
                vectors = self.embed(split)
            results[result_name("best by validation", split)] = self.measuring.figures(vectors, split)
        for name, figures in results.items():
            self.callbacks.evaluation(self.run, name, figures)
        if distributed.is_main():
            queries, gallery = (self.splits[name] for name in self.measuring.names(split))
            draw_neighbours(*vectors, queries, gallery, self.folder.gallery, split=split, seed=self.config.seed)
        return results

    def embed(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of the trained network; see `Measuring.embed`.

        Raises:
            DivergedError: The training has diverged.
        """
        queries, gallery = self.measuring.embed(split, self.trainer.evaluated)
        if fault := describe_fault(queries) or describe_fault(gallery):
            raise self.diverged(f"{fault} ({split} images)")
        return queries, gallery

    def save(self) -> None:
        """Writes everything that a resumed run needs.

        Raises:
            DivergedError: The training has diverged. The last checkpoint is unchanged.
        """
        state = self.trainer.state_dict()
        if fault := self.trainer.find_fault(state):
            raise self.diverged(f"{fault}; the checkpoint {self.folder.last.name} is an earlier one")
        if distributed.is_main():
            self.folder.save_last({**state, "rows": self.record.rows, "results": self.record.results})

    def diverged(self, what: str) -> DivergedError:
        """The error of a training that has diverged."""
        step = self.trainer.step
        epoch = math.ceil(step / self.sampler.steps_per_epoch)
        return DivergedError(diverged(epoch, step, what, self.config.training.learning_rate))


def remedy_of_collapse(config: Config) -> str:
    """What may help against the collapse of the scores."""
    lower = f"lower training.learning_rate ({config.training.learning_rate:.3g})"
    terms = config.loss.terms or [config.loss]
    if any(term.name == "recall" and term.projection in ("none", "mean", "norm") for term in terms):
        return f"set loss.projection to std or softmax, or {lower}"
    return lower


def _build(
    config: Config,
    folder: RunFolder,
    device: torch.device,
    signals: StopSignals,
    objects: Objects,
    callbacks: Callbacks,
    *,
    resume: bool,
) -> _Process:
    """Builds the parts of a run. The weights of a resumed run come from its checkpoint."""
    unreadable = known_unreadable(folder) if resume else None
    unreadable = find_unreadable(config, objects.data) if unreadable is None else unreadable
    splits = read_splits(config, objects.data, unreadable)
    config = fit(config, splits)
    torch.manual_seed(config.seed)
    own = objects.network
    network = build_network(config, pretrained=not resume) if own is None else own_network(own, config)
    network = network.to(device)
    if not resume:
        require_whole_image(network, config)
    preprocessing = build_preprocessing(config, network)
    augmentation = build_augmentation(config, preprocessing)
    sampler = build_sampler(config, splits["train"])
    trainer = build_trainer(
        config,
        network,
        num_classes=splits["train"].num_classes,
        steps_per_epoch=sampler.steps_per_epoch,
        name_images=name_images(splits["train"], sampler),
        loss=objects.loss,
        optimizer=objects.optimizer,
    )
    return _Process(
        config=config,
        folder=folder,
        run=Run(folder.path, splits=splits, network=objects.network),
        device=device,
        signals=signals,
        splits=splits,
        unreadable=unreadable,
        network=network,
        augmentation=augmentation,
        sampler=sampler,
        trainer=trainer,
        measuring=Measuring(config, splits, preprocessing, signals),
        callbacks=callbacks,
    )


@contextlib.contextmanager
def _owned(folder: RunFolder, dry_run: bool) -> Iterator[None]:
    """Keeps other runs out of the folder, unless it is not written. Only rank 0 writes files and logs."""
    with contextlib.ExitStack() as stack:
        if not dry_run:
            distributed.on_main(lambda: stack.enter_context(folder.hold()))
        if not distributed.is_main():
            stack.callback(log.setLevel, log.level)
            log.setLevel(logging.CRITICAL)
        yield


@contextlib.contextmanager
def _broken_images(data: DataConfig) -> Iterator[None]:
    """Adds to the error of an image that cannot be read the command that lists all of them."""
    try:
        yield
    except DatasetError as error:
        if data.name not in DATASETS or data.root is None:  # images of own code, which the command cannot read
            raise
        options = [
            f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in data.options.items()
        ]
        command = shlex.join(["retrieval", "data", "verify", data.name, "--root", str(data.root), *options])
        raise DatasetError(f"{error}; `{command}` lists all faults") from error
