from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn
from torch.utils.data import Dataset

import retrieval
from retrieval.config import load
from retrieval.errors import CheckpointError, ConfigError, DatasetError, RetrievalError
from retrieval.runs import process, train
from retrieval.runs.measuring import Measuring
from retrieval.training import Trainer, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("quick_pictures")

SMALL: dict[str, Any] = {
    "image": {"size": 32, "resize": 32, "augmentation": "character"},
    "model": {"backbone": "test_resnet", "pretrained": False, "embedding_dim": 16},
    "batch": {"size": 8, "samples_per_class": 2},
    "training": {"epochs": 2, "learning_rate": 0.01},
    "device": "cpu",
}
HELD_OUT = {"data.validation_share": 0.25, "data.workers": 0}
NONE_HELD_OUT = {"data.validation_share": 0, "data.workers": 0}


class Drawings(Dataset):
    """Noisy drawings of polygons: seven of each class. Labels are any hashable values."""

    def __init__(self, labels: list[Any]) -> None:
        generator = np.random.default_rng(0)
        corners = {label: generator.integers(4, 36, (3, 2)) for label in dict.fromkeys(labels)}
        self.items = [(corners[label] + generator.integers(-2, 3, (3, 2)), label) for label in labels]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> tuple[Image.Image, Any]:
        corners, label = self.items[position]
        image = Image.new("RGB", (40, 40), "white")
        ImageDraw.Draw(image).polygon([tuple(map(int, corner)) for corner in corners], "black")
        return image, label


class Net(nn.Module):
    """A small network of the user, with vectors of 6 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 6)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


class Centres(nn.Module):
    """A loss of the user, with parameters."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.eye(num_classes, dim))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(embeddings @ self.centres.T, labels)


class Recorder:
    """Records the calls of a run."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def begin(self, run):
        self.calls.append(("begin", run, list(run.metrics)))

    def evaluation(self, run, split, figures):
        self.calls.append(("evaluation", split, figures))

    def step(self, run, step, figures):
        self.calls.append(("step", step, figures))

    def epoch(self, run, epoch, figures):
        self.calls.append(("epoch", epoch, figures))

    def end(self, run, results):
        self.calls.append(("end", results))

    def close(self):
        self.calls.append(("close",))


def drawings(num_classes: int = 12) -> Drawings:
    return Drawings([f"class {label:02d}" for label in range(num_classes) for _ in range(7)])


def image_sets() -> dict[str, retrieval.ImageSet]:
    """Eight training and four test classes."""
    everything = retrieval.ImageSet.from_dataset(drawings())
    return {"train": everything.select(range(56)), "test": everything.select(range(56, 84))}


def network(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def weights_of(run: retrieval.Run) -> dict[str, torch.Tensor]:
    return load_checkpoint(run.folder.last)["model"]


def assert_same_run(left: retrieval.Run, right: retrieval.Run) -> None:
    """The weights and all figures, to the last bit."""
    ours, theirs = weights_of(left), weights_of(right)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert (left.metrics, left.results) == (right.metrics, right.results)


def stop_at(monkeypatch, step: int) -> None:
    """Sends this process SIGTERM during a step."""
    take_step = Trainer._take_step

    def and_a_signal(trainer: Trainer, *batch: torch.Tensor) -> float:
        if trainer.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(trainer, *batch)

    monkeypatch.setattr(Trainer, "_take_step", and_a_signal)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> retrieval.Run:
    """A run with own images, network, loss and optimiser, trained to the end."""
    return train_own(tmp_path_factory.mktemp("own") / "run")


def train_own(out: Path, **options: Any) -> retrieval.Run:
    parts = {"network": network(), "loss": Centres(6, 6), "optimizer": torch.optim.Adam, **options}
    return train("glyphs", image_sets(), out, **parts, **SMALL, **HELD_OUT)


# Images -----------------------------------------------------------------------------------------------------------------------


def test_an_own_data_set_is_divided_by_classes(tmp_path):
    run = train("glyphs", drawings(), tmp_path / "run", **SMALL, **NONE_HELD_OUT)
    train_names, test_names = (set(run.splits[name].class_names) for name in ("train", "test"))
    assert train_names | test_names == {f"class {label:02d}" for label in range(12)}
    assert not train_names & test_names
    assert run.results["last"]["queries"] == len(run.splits["test"])
    assert run.config.data.name == f"<{__name__}.Drawings>"
    assert run.config.data.root is None
    with pytest.raises(
        CheckpointError, match=rf"was trained with an object that was given in Python, <{__name__}\.Drawings>"
    ):
        retrieval.Run.open(run.path).splits  # noqa: B018
    again = retrieval.Run.open(run.path, data=drawings())
    assert again.splits["test"].fingerprint() == run.splits["test"].fingerprint()


def test_own_image_sets_by_split_are_taken_as_they_are(whole):
    assert set(whole.splits) == {"train", "validation", "test"}
    assert whole.splits["train"].num_classes == 6
    assert whole.splits["test"].class_names == ("class 08", "class 09", "class 10", "class 11")
    assert whole.results["last"]["queries"] == 28


def test_own_queries_and_gallery_are_measured_against_each_other(tmp_path):
    sets = image_sets()
    test = sets.pop("test")
    is_query = np.arange(len(test)) % 7 < 3
    splits = {**sets, "query": test.select(np.flatnonzero(is_query)), "gallery": test.select(np.flatnonzero(~is_query))}
    run = train("glyphs", splits, tmp_path / "run", loss="contrastive", **SMALL, **NONE_HELD_OUT)
    assert run.results["last"]["queries"] == 12
    assert run.index("gallery").evaluate((1, 2, 4, 8), queries=run.index("query")) == run.results["last"]


def test_a_folder_of_images_takes_the_place_of_those_of_the_configuration(tmp_path):
    for image, label in drawings():
        folder = tmp_path / "images" / ("train" if label < "class 08" else "test") / label
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{len(list(folder.iterdir()))}.png")
    run = train("glyphs", tmp_path / "images", tmp_path / "run", **SMALL, **NONE_HELD_OUT)
    assert (run.config.data.name, run.config.data.root) == ("folder", str(tmp_path / "images"))
    assert retrieval.Run.open(run.path).splits["test"].class_names[0] == "class 08"


@pytest.mark.parametrize("data", [["a", "b"], 3, object()])
def test_what_is_no_data_set_is_one_line_and_leaves_no_folder(tmp_path, data):
    with pytest.raises((RetrievalError, ValueError), match=r"^[^\n]+$"):
        train("glyphs", data, tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()


def test_an_error_of_an_own_data_set_names_the_item(tmp_path):
    class Broken(Drawings):
        targets = property(lambda self: [label for _, label in self.items])

        def __getitem__(self, position):
            if position == 5:
                raise OSError("disk on fire")
            return super().__getitem__(position)

    with pytest.raises(DatasetError, match=r"item 5 of the data set Broken: cannot be read \(OSError: disk on fire\)"):
        train("glyphs", Broken([i // 7 for i in range(84)]), tmp_path / "run", **SMALL, **NONE_HELD_OUT)


# Network, loss, optimiser -----------------------------------------------------------------------------------------------------


def test_an_own_network_is_trained_in_place_and_as_it_is(tmp_path):
    net, before = network(), network().state_dict()
    run = train("glyphs", image_sets(), tmp_path / "run", network=net, **SMALL, **NONE_HELD_OUT)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(torch.equal(tensor, weights_of(run)[f"backbone.{name}"]) for name, tensor in net.state_dict().items())
    model = run.config.model
    assert (model.backbone, model.embedding_dim, model.pooling, model.layer_norm) == (
        f"<{__name__}.Net>",
        None,
        None,
        False,
    )
    assert set(run.results) == {"untrained", "last"}
    assert run.model().embedding_dim == 6


def test_an_own_loss_gets_the_embeddings_and_labels_of_the_batches(tmp_path):
    seen = []

    class Watching(Centres):
        def forward(self, embeddings, labels):
            seen.append((tuple(embeddings.shape), sorted(labels.tolist())))
            return super().forward(embeddings, labels)

    loss = Watching(8, 16)
    options = {**SMALL, "training": {"max_steps": 3, "epochs": 2}}
    run = train("glyphs", image_sets(), tmp_path / "run", loss=loss, **options, **NONE_HELD_OUT)
    assert [shape for shape, _ in seen] == [(8, 16)] * 3
    assert all(label in range(8) and labels.count(label) == 2 for _, labels in seen for label in labels)
    assert not torch.equal(loss.centres.detach(), torch.eye(8, 16))  # its parameters are trained too
    assert run.config.loss.name.endswith(".Watching>")
    assert "centres" in load_checkpoint(run.folder.last)["loss"]


def test_a_loss_may_be_a_name_or_options(tmp_path):
    options = {**SMALL, "training": {"max_steps": 1}, **NONE_HELD_OUT}
    by_name = train("glyphs", image_sets(), tmp_path / "name", loss="triplet", **options)
    assert by_name.config.loss.name == "triplet"
    given = {"name": "contrastive", "options": {"neg_margin": 0.7}, "miner": "multi_similarity"}
    by_options = train("glyphs", image_sets(), tmp_path / "options", loss=given, **options)
    assert (by_options.config.loss.options, by_options.config.loss.miner) == ({"neg_margin": 0.7}, "multi_similarity")


def test_an_optimiser_may_be_a_name_a_class_a_function_or_an_instance(tmp_path):
    options = {
        **SMALL,
        "training": {"max_steps": 2, "learning_rate": 0.01, "weight_decay": 0.0, "schedule": "constant"},
    }
    options |= NONE_HELD_OUT
    groups_seen = []

    def function(groups):
        groups_seen.extend(groups)
        return torch.optim.SGD(groups, lr=0.01)

    def run_with(name: str, net: Net, optimizer: Any) -> retrieval.Run:
        return train("glyphs", image_sets(), tmp_path / name, network=net, optimizer=optimizer, **options)

    nets = [network() for _ in range(4)]
    runs = {
        "name": run_with("name", nets[0], "momentum"),
        "class": run_with("class", nets[1], torch.optim.SGD),
        "function": run_with("function", nets[2], function),
        "instance": run_with("instance", nets[3], torch.optim.SGD(nets[3].parameters(), lr=0.01)),
    }
    names = {name: run.config.training.optimizer for name, run in runs.items()}
    assert names == {
        "name": "momentum",
        "class": "<torch.optim.sgd.SGD>",
        "function": f"<{__name__}.{function.__qualname__}>",
        "instance": "<torch.optim.sgd.SGD>",
    }
    assert {group["lr"] for group in groups_seen} == {0.01}
    for name in ("function", "instance"):
        for key, tensor in weights_of(runs["class"]).items():
            torch.testing.assert_close(weights_of(runs[name])[key], tensor)
    assert any((weights_of(runs["name"])[key] != tensor).any() for key, tensor in weights_of(runs["class"]).items())


def test_the_learning_rate_of_an_own_optimiser_follows_the_schedule(tmp_path):
    net, recorder = network(), Recorder()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    parts = {"network": net, "optimizer": optimizer, "callbacks": [recorder]}
    train("glyphs", image_sets(), tmp_path / "run", **parts, **SMALL, **NONE_HELD_OUT)
    rates = [call[2]["learning_rate"] for call in recorder.calls if call[0] == "step"]
    assert rates[0] == pytest.approx(0.5, rel=0.05)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.1


def test_an_optimiser_of_other_parameters_is_refused(tmp_path):
    elsewhere = torch.optim.SGD(network().parameters(), lr=0.1)
    for parts in ({}, {"network": network()}):
        with pytest.raises(ConfigError, match="optimizer: holds no parameter of the network"):
            train("glyphs", image_sets(), tmp_path / "run", optimizer=elsewhere, **parts, **SMALL, **NONE_HELD_OUT)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Identity(), r"network: Identity returns \(1, 3, 32, 32\) for one image, expected features \(1, width\)"),
        (nn.Linear(7, 2), "network: Linear cannot take images of 32 x 32 pixels"),
    ],
)
def test_a_network_that_makes_no_vectors_is_refused(tmp_path, net, message):
    with pytest.raises(ConfigError, match=message):
        train("glyphs", image_sets(), tmp_path / "run", network=net, **SMALL, **NONE_HELD_OUT)
    assert not (tmp_path / "run").exists()


# Callbacks --------------------------------------------------------------------------------------------------------------------


def test_callbacks_are_called_in_the_order_of_the_work_with_the_figures_of_the_run(tmp_path):
    recorder = Recorder()
    run = train_own(tmp_path / "run", callbacks=[recorder])
    steps = len([call for call in recorder.calls if call[0] == "step"]) // 2
    epoch = [*[("step",)] * steps, ("evaluation", "validation"), ("epoch",)]
    expected = [("begin",), ("evaluation", "untrained"), *epoch, *epoch, ("evaluation", "last")]
    expected += [("evaluation", "best by validation"), ("end",), ("close",)]
    assert [call[: len(want)] for call, want in zip(recorder.calls, expected, strict=True)] == expected
    _, begun, rows = recorder.calls[0]
    assert isinstance(begun, retrieval.Run)
    assert (begun.path, rows) == (run.path, run.metrics[:1])
    assert [step for kind, step, *_ in recorder.calls[:-1] if kind == "step"] == list(range(1, 2 * steps + 1))
    figures = [call[2] for call in recorder.calls if call[0] == "step"]
    gauge = {"score_spread", "mean_intruders", "perfect_queries"}
    assert all(set(step) == {"loss", "learning_rate", "images_per_second"} | gauge for step in figures)
    assert [call[2] for call in recorder.calls if call[0] == "epoch"] == run.metrics[1:]
    for row, part in zip(run.metrics[1:], (figures[:steps], figures[steps:]), strict=True):
        assert {name: row[name] for name in gauge | {"loss"}} == {
            name: pytest.approx(np.mean([step[name] for step in part])) for name in gauge | {"loss"}
        }
    evaluations = [(call[1], call[2]) for call in recorder.calls if call[0] == "evaluation"]
    assert [figures for split, figures in evaluations if split == "validation"] == [
        {name.removeprefix("validation "): value for name, value in row.items() if name.startswith("validation ")}
        for row in run.metrics[1:]
    ]
    assert {split: figures for split, figures in evaluations if split != "validation"} == run.results
    assert recorder.calls[-2] == ("end", run.results)


def test_callbacks_of_the_configuration_come_before_those_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_hooks_of_train.py").write_text(
        "class Log:\n"
        "    def begin(self, run):\n"
        "        with open('order.txt', 'a') as file: print('configuration', file=file)\n"
    )

    class Own:
        def begin(self, run):
            with Path("order.txt").open("a") as file:
                print("caller", file=file)

    options = {**SMALL, "training": {"max_steps": 1, "callbacks": ["my_hooks_of_train.py:Log"]}}
    train("glyphs", image_sets(), "run", callbacks=[Own()], **options, **NONE_HELD_OUT)
    assert Path("order.txt").read_text().split() == ["configuration", "caller"]


@pytest.mark.parametrize("method", ["begin", "step", "epoch", "evaluation", "end"])
def test_an_error_of_a_callback_ends_the_run_and_closes_all(tmp_path, method):
    def fail(*_):
        raise ZeroDivisionError(method)

    failing, recorder = type("Failing", (), {method: fail})(), Recorder()
    with pytest.raises(ZeroDivisionError, match=method):
        train_own(tmp_path / "run", callbacks=[failing, recorder])
    assert recorder.calls[-1] == ("close",)
    assert [call[0] for call in recorder.calls].count("close") == 1


@pytest.mark.parametrize(("callback", "message"), [(Recorder, "pass an instance"), (3, "is not a callback")])
def test_what_is_no_callback_is_refused_before_the_work(tmp_path, callback, message):
    with pytest.raises(ValueError, match=message):
        train_own(tmp_path / "run", callbacks=[callback])
    assert not (tmp_path / "run").exists()


def test_a_callback_of_a_resumed_run_sees_its_rows(tmp_path, monkeypatch):
    stop_at(monkeypatch, 4)  # an epoch has 5 steps or fewer
    with pytest.raises(SystemExit):
        train_own(tmp_path / "run")
    monkeypatch.undo()
    recorder = Recorder()
    run = train_own(tmp_path / "run", callbacks=[recorder], resume=True)
    _, _, rows = recorder.calls[0]
    assert rows == [row for row in run.metrics if row["step"] <= 4]
    assert next(call[1] for call in recorder.calls if call[0] == "step") == 6


# Options ----------------------------------------------------------------------------------------------------------------------


def test_overrides_are_sections_keys_or_a_configuration(tmp_path):
    options = {**HELD_OUT, "loss": {"projection": "norm"}, "seed": 7, **SMALL}
    options["training"] = {"max_steps": 1, "optimizer": "sgd"}
    config = train("glyphs", image_sets(), tmp_path / "a", **options).config
    assert (config.seed, config.loss.projection, config.training.optimizer) == (7, "norm", "sgd")
    assert (config.batch.size, config.data.validation_share, config.device) == (8, 0.25, "cpu")
    given = load("glyphs", {**options, "training": {"max_steps": 1}})
    assert train(given, image_sets(), tmp_path / "b", seed=8).config.seed == 8
    assert train(given, image_sets(), tmp_path / "c", **{"loss.projection": "mean"}).config.loss.projection == "mean"


def test_mistakes_of_overrides_come_all_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        train("glyphs", image_sets(), tmp_path / "run", training={"epohcs": 3}, sede=1, batch={"size": "many"})
    assert sorted(caught.value.mistakes) == [
        "arguments: batch.size: input should be a valid integer, found 'many'",
        "arguments: unknown key 'sede'; did you mean seed?",
        "arguments: unknown key 'training.epohcs'; did you mean training.epochs?",
    ]
    with pytest.raises(ConfigError) as caught:
        train("glyphs", tmp_path, tmp_path / "run", loss="tripelt", optimizer="adamx", model={"backbone": "resnet5O"})
    assert [mistake.split(":")[0] for mistake in caught.value.mistakes] == ["model", "loss", "training.optimizer"]
    assert not (tmp_path / "run").exists()


def test_a_run_that_exists_is_kept_unless_it_is_to_be_replaced(whole, tmp_path):
    before = (whole.results, weights_of(whole))
    with pytest.raises(CheckpointError, match="holds a run or other files; pass resume=True or overwrite=True"):
        train_own(whole.path)
    assert whole.results == before[0]
    options = {**SMALL, "training": {"max_steps": 1}}
    first = train("glyphs", image_sets(), tmp_path / "run", **options, **HELD_OUT)
    again = train("glyphs", image_sets(), tmp_path / "run", overwrite=True, seed=5, **options, **HELD_OUT)
    assert (first.path, again.config.seed) == (again.path, 5)


def test_without_a_folder_the_run_is_named_after_its_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {**SMALL, "training": {"max_steps": 1}, **NONE_HELD_OUT}
    run = train("glyphs", image_sets(), **options)
    assert run.path == Path("runs/glyphs")


# Resumed runs -----------------------------------------------------------------------------------------------------------------


def test_a_run_of_own_objects_is_resumed_to_the_same_figures_bit_for_bit(whole, tmp_path, monkeypatch):
    stop_at(monkeypatch, 4)
    with pytest.raises(SystemExit) as stopped:
        train_own(tmp_path / "run")
    assert stopped.value.code == 143
    monkeypatch.undo()
    assert retrieval.Run.open(tmp_path / "run", network=network()).summary.state == "stopped"
    resumed = train_own(tmp_path / "run", network=network(seed=9), loss=Centres(6, 6), resume=True)
    assert_same_run(whole, resumed)


def test_a_run_with_an_optimiser_instance_is_resumed_to_the_same_figures(tmp_path, monkeypatch):
    def parts() -> dict[str, Any]:
        net = network()
        return {"network": net, "optimizer": torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)}

    whole = train_own(tmp_path / "whole", **parts())
    stop_at(monkeypatch, 3)
    with pytest.raises(SystemExit):
        train_own(tmp_path / "run", **parts())
    monkeypatch.undo()
    assert_same_run(whole, train_own(tmp_path / "run", **parts(), resume=True))


def test_a_run_is_not_resumed_with_other_objects(whole):
    class OtherNet(Net):
        pass

    for parts, difference in (
        ({"network": OtherNet()}, f"model.backbone: '<{__name__}.Net>', now '<{__name__}.{OtherNet.__qualname__}>'"),
        ({"loss": None}, f"loss.name: '<{__name__}.Centres>', now 'recall'"),
        ({"optimizer": torch.optim.SGD}, "training.optimizer: '<torch.optim.adam.Adam>', now '<torch.optim.sgd.SGD>'"),
    ):
        with pytest.raises(CheckpointError) as caught:
            train_own(whole.path, resume=True, **parts)
        assert difference in str(caught.value)


def test_a_run_is_not_resumed_on_other_images(tmp_path):
    options = {**SMALL, "training": {"max_steps": 1}, **NONE_HELD_OUT}
    train("glyphs", image_sets(), tmp_path / "run", **options)
    sets = image_sets()
    sets["test"] = sets["test"].select(range(27))
    with pytest.raises(CheckpointError, match=r"other images or classes \(test\)"):
        train("glyphs", sets, tmp_path / "run", resume=True, **options)


# Run --------------------------------------------------------------------------------------------------------------------------


def test_an_opened_run_of_an_own_network_needs_the_network(whole, tmp_path):
    run = retrieval.Run.open(whole.path)
    assert (run.config, run.metrics, run.results) == (whole.config, whole.metrics, whole.results)
    with pytest.raises(CheckpointError) as caught:
        run.model()
    assert str(caught.value) == (
        f"{whole.path}: was trained with an object that was given in Python, <{__name__}.Net>; give it again, in Python"
    )
    with pytest.raises(CheckpointError, match=rf"<{__name__}\.Net>; give it again"):
        retrieval.Model.load(whole.path)
    opened = retrieval.Run.open(whole.path, network=network(seed=3), data=image_sets())
    photos = [drawings()[i][0] for i in range(3)]
    np.testing.assert_array_equal(opened.model("last").encode(photos), whole.model("last").encode(photos))


def test_the_model_of_a_run_is_its_best_or_its_last(whole):
    photos = [drawings()[i][0] for i in (0, 9, 60)]
    best, last, default = (whole.model(checkpoint).encode(photos) for checkpoint in ("best", "last", None))
    np.testing.assert_array_equal(default, best)
    assert whole.model().source["checkpoint"] == "best"
    epochs = {row["epoch"]: row["validation recall@1"] for row in whole.metrics}
    if max(epochs, key=epochs.get) < max(epochs):
        assert (best != last).any()
    with pytest.raises(ConfigError, match="device: 'tpu9'"):
        whole.model(device="tpu9")


def test_the_models_of_a_run_with_an_own_network_share_no_weights(whole):
    net = network(seed=3)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    run = retrieval.Run.open(whole.path, network=net)
    photos = [drawings()[i][0] for i in (0, 9, 60)]
    last = run.model("last")
    vectors = last.encode(photos)
    best = run.model("best")
    assert last.network is not best.network
    np.testing.assert_array_equal(last.encode(photos), vectors)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.slow
def test_the_index_of_a_run_of_own_images_gives_its_figures(whole, tmp_path):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    assert whole.build_index("test", tmp_path / "index").evaluate((1, 2, 4, 8)) == whole.results["best by validation"]
    index = whole.build_index("test", tmp_path / "index", checkpoint="last", overwrite=True)
    assert index.evaluate((1, 2, 4, 8)) == whole.results["last"]
    assert len(index) == 28
    hits = retrieval.Index.open(tmp_path / "index").search(drawings()[60][0], k=1)
    assert (hits[0].id, hits[0].class_name) == (4, "class 08")
    assert hits[0].score == pytest.approx(1, abs=1e-4)
    best = whole.build_index("validation", tmp_path / "best", checkpoint="best")
    figures = best.evaluate((1, 2, 4, 8))
    assert figures["recall@1"] == max(row["validation recall@1"] for row in whole.metrics)
    with pytest.raises(RetrievalError, match="has no split 'query'; it has train, test, validation"):
        whole.build_index("query", tmp_path / "none")


def test_the_index_of_a_run_is_built_once_and_opened_afterwards(tmp_path):
    options = {**SMALL, "training": {"max_steps": 1}, **HELD_OUT}
    run = train("glyphs", image_sets(), tmp_path / "run", **options)
    first = run.index()
    assert (first.folder, len(first)) == (tmp_path / "run" / "index-all", 84)
    manifest = (first.folder / "manifest.json").read_bytes()
    assert run.index().evaluate() == first.evaluate()
    assert (first.folder / "manifest.json").read_bytes() == manifest


def test_the_index_of_images_given_in_python_has_every_image_once_and_is_calibrated_on_the_test(tmp_path, caplog):
    options = {**SMALL, "training": {"max_steps": 1}, **NONE_HELD_OUT}
    run = train("glyphs", drawings(), tmp_path / "run", **options)
    with caplog.at_level("INFO", "retrieval"):
        index = run.build_index()
    assert (index.folder, len(index)) == (tmp_path / "run" / "index-all", 84)
    assert sorted(index.paths) == [f"{position:06}" for position in range(84)]
    trained_on = len(run.splits["train"])
    assert (
        f"indexing all 84 images, of which {trained_on} were trained on: recall@k of this index is not a test"
        in caplog.text
    )
    assert index.calibration.queries == len(run.splits["test"])
    assert index.calibration.calibrated_on == "images that the model was not trained on"
    assert run.index("test").calibration.calibrated_on == "all images"


def test_the_report_of_a_run_is_written_beside_it(tmp_path):
    options = {**SMALL, "training": {"max_steps": 2}, **HELD_OUT}
    run = train("glyphs", image_sets(), tmp_path / "run", **options)
    page, pictures = run.report()
    assert (page, pictures) == (tmp_path / "run" / "report.html", tmp_path / "run" / "report-pictures")
    text = page.read_text()
    assert f"{100 * run.results['last']['recall@1']:.2f}" in text
    assert "untrained" in text
    other, _ = run.report(tmp_path / "page.html", ks=(1, 3))
    assert "recall@3" in other.read_text()


def test_what_a_run_says_is_what_its_files_hold(whole):
    assert whole.results == json.loads((whole.path / "results.json").read_text())
    lines = (whole.path / "metrics.jsonl").read_text().splitlines()
    assert whole.metrics == [json.loads(line) for line in lines]
    assert (whole.summary.state, whole.summary.epochs) == ("finished", 2)
    assert repr(whole) == f"Run('{whole.path}', finished)"
    assert all(picture.is_file() for picture in whole.pictures)
    assert whole.config.training.epochs == 2
    assert retrieval.list_runs(whole.path.parent) == [whole.summary]


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="not the folder of a training run"):
        retrieval.Run.open(tmp_path)
    with pytest.raises(CheckpointError, match="not the folder of a training run"):
        train_own(tmp_path / "run", resume=True)


def test_images_per_second_are_those_of_the_training_without_measurements_and_callbacks(tmp_path, monkeypatch):
    """A clock of a second a training step, and an hour a measurement or callback."""
    now, figures = [0.0], []
    take_step, embed_images = Trainer._take_step, Measuring.embed_images

    def pass_time(seconds, function):
        def call(*arguments):
            now[0] += seconds
            return function(*arguments)

        return call

    class Watch:
        def step(self, run, step, values):
            now[0] += 3600
            figures.append(values["images_per_second"])

    monkeypatch.setattr("retrieval.runs.process.time.perf_counter", lambda: now[0])
    monkeypatch.setattr(Trainer, "_take_step", pass_time(1, take_step))
    monkeypatch.setattr(Measuring, "embed_images", pass_time(3600, embed_images))
    train_own(tmp_path / "run", callbacks=[Watch()])
    assert figures == [8] * 10


# Divergence -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [HELD_OUT, NONE_HELD_OUT])
def test_a_run_that_diverges_says_so_and_what_to_change(tmp_path, held_out):
    options = {**SMALL, **held_out, "training": {"learning_rate": 1e10, "max_steps": 1}}
    message = r"^epoch 1, step 1: training has diverged: .*embeddings are.*; lower training\.learning_rate \(1e\+10\)"
    with pytest.raises(RetrievalError, match=message):
        train("glyphs", image_sets(), tmp_path / "run", **options)
    assert "ERROR epoch 1, step 1: training has diverged" in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow
def test_a_run_whose_scores_collapse_says_so_once_and_what_to_change(tmp_path, caplog):
    def attract(embeddings, labels):
        return 1 - (embeddings @ embeddings.T).mean()

    options = {**SMALL, **NONE_HELD_OUT, "training": {"epochs": 40, "max_steps": 80, "learning_rate": 0.01}}
    run = train("glyphs", image_sets(), tmp_path / "run", loss=attract, **options)
    (said,) = [record.getMessage() for record in caplog.records if "collapsed" in record.getMessage()]
    assert re.match(
        r"step \d+: the scores of the batches have collapsed \(their spread is .*\); lower training\.learn", said
    )
    assert run.metrics[-1]["score_spread"] < 0.1 * run.metrics[0]["score_spread"]


def test_the_remedy_of_a_collapse_is_a_projection_where_there_is_none():
    plain = process.remedy_of_collapse(load("glyphs", ["loss.projection=none"]))
    assert plain.startswith("set loss.projection to std or softmax, or lower training.learning_rate (0.002)")
    assert process.remedy_of_collapse(load("glyphs", [])).startswith("lower training.learning_rate")


def poison(network: nn.Module) -> None:
    with torch.no_grad():
        next(network.parameters())[0] = torch.nan


def test_weights_that_are_not_finite_are_never_the_last_checkpoint(tmp_path, monkeypatch):
    take_step = Trainer._take_step

    def and_poison(trainer: Trainer, *batch: torch.Tensor) -> float:
        loss = take_step(trainer, *batch)
        if trainer.step == 10:  # the end of the second epoch
            poison(trainer.model)
        return loss

    monkeypatch.setattr(Trainer, "_take_step", and_poison)
    message = (
        r"^epoch 2, step 10: training has diverged: NaN or infinity in model\..*last.safetensors is an earlier one"
    )
    with pytest.raises(RetrievalError, match=message):
        train_own(tmp_path / "run")
    assert load_checkpoint(tmp_path / "run" / "last.safetensors")["step"] == 5


def test_a_run_whose_last_checkpoint_is_not_finite_goes_on_from_the_one_before(whole, tmp_path, caplog):
    shutil.copytree(whole.path, tmp_path / "run")
    folder = retrieval.Run.open(tmp_path / "run").folder
    state = load_checkpoint(folder.last)
    state["model"]["backbone.layers.0.bias"][0] = torch.inf
    save_checkpoint(folder.last, state)
    run = train_own(tmp_path / "run", resume=True)
    assert_same_run(run, whole)
    (line,) = [
        line for line in caplog.messages if "last.safetensors: NaN or infinity in model.backbone.layers.0.bias" in line
    ]
    assert "continuing from the previous checkpoint previous.safetensors" in line


# Mistakes ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": Centres}, r"loss is the class Centres; give an object: Centres\(\)"),
        ({"network": Net}, r"network is the class Net; give an object: Net\(\)"),
        ({"network": lambda images: images}, r"network is of type function; give a torch\.nn\.Module"),
        ({"loss": 3}, "loss is of type int, which cannot be called"),
        ({"callbacks": "tensorboard"}, "callbacks is of type str; give a list of callbacks"),
        ({"resume": True, "overwrite": True}, "resume and overwrite exclude each other"),
    ],
)
def test_an_argument_of_the_wrong_type_is_named_before_the_work(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        train("glyphs", image_sets(), tmp_path / "run", **arguments, **SMALL, **HELD_OUT)
    assert not (tmp_path / "run").exists()


def test_a_configuration_of_the_wrong_type_is_named():
    with pytest.raises(ValueError, match="config is of type dict; give a name, a YAML file or a Config"):
        train({"data": {}})


def test_a_loss_may_be_a_function_and_must_return_a_scalar(tmp_path):
    def spread(embeddings, labels):
        return (embeddings.sum(dim=1) - labels).square().mean()

    run = train("glyphs", image_sets(), tmp_path / "run", loss=spread, **SMALL, **HELD_OUT)
    assert run.config.loss.name == f"<{__name__}.{spread.__qualname__}>"
    with pytest.raises(RetrievalError, match=r"the loss FunctionLoss returns \(8,\), expected a scalar tensor"):
        train("glyphs", image_sets(), tmp_path / "two", loss=lambda e, labels: e.sum(dim=1), **SMALL, **HELD_OUT)


def test_an_option_beside_an_object_that_replaces_it_is_a_warning(tmp_path, caplog):
    options = {**SMALL, "training": {"max_steps": 1}, **HELD_OUT}
    train("glyphs", image_sets(), tmp_path / "run", network=network(), **options)
    assert (
        "model.backbone, model.pretrained, model.embedding_dim: without effect beside the argument network"
        in caplog.text
    )


def test_options_may_be_tuples_numpy_numbers_and_paths(tmp_path):
    options = {**SMALL, "evaluation": {"ks": (1, 2)}, "training": {"max_steps": np.int64(1)}, **HELD_OUT}
    run = train("glyphs", image_sets(), tmp_path / "run", **options)
    assert (run.config.evaluation.ks, run.config.training.max_steps) == ([1, 2], 1)


def test_the_report_of_a_run_of_images_without_files_has_pictures(tmp_path, caplog):
    options = {**SMALL, "training": {"max_steps": 1}, **NONE_HELD_OUT}
    run = train("glyphs", drawings(), tmp_path / "run", **options)
    page, _ = run.report()
    assert "cannot be read" not in caplog.text
    assert "data:image/" in page.read_text(encoding="utf-8")


# Own images in a folder or a list --------------------------------------------------------------------------------------------


def test_a_folder_of_photographs_takes_the_configuration_photos_and_a_dry_run_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for position, (image, label) in enumerate(drawings(8)):
        file = tmp_path / "my_photos" / label / f"{position}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    (tmp_path / "list.csv").write_text(
        "path,label\n"
        + "".join(f"{file.relative_to(tmp_path)},{file.parent.name}\n" for file in tmp_path.glob("*/*/*"))
    )
    small = {**SMALL, "model": {**SMALL["model"], "freeze_batchnorm": "none"}, "data.workers": 0}
    for data in ("my_photos", tmp_path / "list.csv"):
        run = train(data=data, dry_run=True, **small)
        assert run.path == Path("runs") / Path(data).stem
        assert {name: split.classes for name, split in run.plan.splits.items()} == {
            "train": 2,
            "validation": 2,
            "test": 4,
        }
    assert not Path("runs").exists()
    with pytest.raises(ConfigError, match="nowhere: does not exist; give a folder of images, or a CSV list"):
        train(data="nowhere")
