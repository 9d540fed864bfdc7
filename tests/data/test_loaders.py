from __future__ import annotations

import errno
import multiprocessing.queues
import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from retrieval.data import (
    ImageSet,
    Preprocessing,
    evaluation_loader,
    load_image,
    loaders,
    make_augmentation,
    prepare,
    training_loader,
)
from retrieval.data.loaders import _interrupts_held
from retrieval.errors import DatasetError, RetrievalError

PREPROCESSING = Preprocessing(12, 12, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PREPARE = make_augmentation("none", PREPROCESSING)
ONE_IMAGE = [(0, np.array([2]))]
BATCHES = [(0, np.array([3, 1])), (1, np.array([0, 1, 4])), (2, np.array([3, 1])), (3, np.array([2, 5, 0]))]


@pytest.fixture
def images(tmp_path) -> ImageSet:
    generator = np.random.default_rng(0)
    for number in range(6):
        pixels = generator.integers(0, 256, (40 + number, 300, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    paths = tuple(f"{number}.png" for number in range(6))
    return ImageSet(tmp_path, paths, np.array([0, 0, 1, 1, 2, 2]), ("a", "b", "c"))


def read(images, batches=BATCHES, *, name="photo", seed=0, workers=0):
    augment = make_augmentation(name, PREPROCESSING)
    return list(training_loader(images, batches, augment, seed=seed, workers=workers, timeout=60))


def assert_same(batches, others):
    for (pixels, labels), (other_pixels, other_labels) in zip(batches, others, strict=True):
        assert torch.equal(pixels, other_pixels)
        assert torch.equal(labels, other_labels)


@pytest.mark.parametrize("name", ["character", "photo"])
def test_the_batches_are_the_same_for_any_number_of_workers(images, name):
    # The first pass lets OpenCV start threads here; a worker that is forked then must not wait for them.
    expected = read(images, name=name)
    for workers in (1, 2, 4):
        assert_same(read(images, name=name, workers=workers), expected)


def test_a_batch_is_the_augmented_images_and_their_labels(images):
    augment = make_augmentation("photo", PREPROCESSING)
    pixels, labels = read(images, seed=9)[1]
    assert (pixels.shape, pixels.dtype, labels.dtype) == ((3, 3, 12, 12), torch.float32, torch.int64)
    assert labels.tolist() == [0, 0, 2]
    for row, index in zip(pixels, [0, 1, 4], strict=True):
        view = augment(load_image(images.root / images.paths[index]), (9, 1, index))
        np.testing.assert_array_equal(row.numpy(), view)


def test_a_run_that_begins_later_goes_on_exactly(images):
    assert_same(read(images, BATCHES[2:], workers=1), read(images)[2:])


def test_the_same_images_look_different_in_another_batch_and_under_another_seed(images):
    batches = read(images)
    assert not torch.equal(batches[0][0], batches[2][0])
    assert not torch.equal(batches[0][0], read(images, seed=1)[0][0])


def test_batches_may_come_from_a_generator(images):
    assert_same(read(images, (batch for batch in BATCHES), workers=2), read(images))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_all_images_in_order(images, workers):
    loader = evaluation_loader(images, PREPROCESSING, batch_size=4, workers=workers, timeout=60)
    batches = list(loader)
    assert len(loader) == 2
    assert [len(batch) for batch in batches] == [4, 2]
    expected = [prepare(load_image(images.root / path), PREPROCESSING) for path in images.paths]
    np.testing.assert_array_equal(torch.cat(batches).numpy(), np.stack(expected))
    assert len(list(loader)) == 2  # and again


def height(image):
    return torch.tensor([image.height])


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_takes_any_function_of_an_image(images, workers):
    loader = evaluation_loader(images, height, batch_size=4, workers=workers, timeout=60)
    assert [batch.tolist() for batch in loader] == [[[40], [41], [42], [43]], [[44], [45]]]


def test_a_batch_size_below_one_is_refused(images):
    with pytest.raises(ValueError, match="batch_size is 0"):
        evaluation_loader(images, PREPROCESSING, batch_size=0, workers=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_leaves_the_random_state_of_torch_alone(images, workers):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    read(images, workers=workers)
    list(evaluation_loader(images, PREPROCESSING, batch_size=4, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_in_one_line_whoever_reads_it(images, workers):
    broken = images.root / images.paths[4]
    broken.write_bytes(b"")
    loader = evaluation_loader(images, PREPROCESSING, batch_size=2, workers=workers, timeout=60)
    for batches in (loader, training_loader(images, BATCHES, PREPARE, seed=0, workers=workers, timeout=60)):
        with pytest.raises(DatasetError) as caught:
            list(batches)
        assert (
            str(caught.value)
            == f"{broken}: cannot be read as an image (it is empty); repair the file or remove it from the data set"
        )


def hang(image, seed):
    time.sleep(1.5)
    return PREPARE(image, seed)


def die(image, seed):
    os.kill(os.getpid(), signal.SIGKILL)


def stumble(image, seed):
    raise RuntimeError("a mistake in the program")


@pytest.mark.slow
def test_a_worker_that_hangs_ends_the_run_with_the_path_of_its_image(images):
    path = re.escape(str(images.root / "2.png"))
    with pytest.raises(RetrievalError, match=rf"within 1 s; images in progress: {path}; .*data\.timeout"):
        list(training_loader(images, ONE_IMAGE, hang, seed=0, workers=1, timeout=1))


def die_of_the_last_image(image, seed):
    if seed[2] == 4:
        time.sleep(0.5)
        die(image, seed)
    return PREPARE(image, seed)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_worker_that_is_killed_ends_the_run_in_one_line_with_the_path_of_its_image(images):
    path = re.escape(str(images.root / "4.png"))
    with pytest.raises(
        RetrievalError, match=rf"a data worker was lost \(.*\); images in progress: {path}; if"
    ) as caught:
        list(training_loader(images, BATCHES[:2], die_of_the_last_image, seed=0, workers=2, timeout=60))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "workers", [0, pytest.param(1, marks=pytest.mark.slow)]
)  # torch takes seconds to give up the worker
def test_a_mistake_in_the_program_keeps_its_own_error(images, workers):
    with pytest.raises(RuntimeError, match="a mistake in the program"):
        list(training_loader(images, ONE_IMAGE, stumble, seed=0, workers=workers, timeout=60))


# Limits of the system ---------------------------------------------------------------------------------------------------------


def refuse(number: int):
    """A function that fails as the system does at a limit."""

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_batches_that_shared_memory_has_no_room_for_are_copied_with_one_warning(images, monkeypatch, caplog, number):
    loaders._warn_of_copies.cache_clear()
    monkeypatch.setattr(loaders, "ForkingPickler", SimpleNamespace(dumps=refuse(number)))
    assert_same(read(images, workers=2), read(images))
    (line,) = caplog.messages
    assert line.startswith("shared memory (/dev/shm) is full: batches are copied instead")
    broken = images.root / images.paths[4]
    broken.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"4\.png: cannot be read"):
        read(images, workers=1)


def test_too_many_open_files_are_one_line_wherever_they_are_opened(images, monkeypatch):
    message = "too many files are open; raise the limit with `ulimit -n`, or lower data.workers$"
    with monkeypatch.context() as context:
        context.setattr(loaders.pickle, "loads", refuse(errno.EMFILE))  # here
        with pytest.raises(RetrievalError, match=f"^{message}"):
            read(images, workers=1)
    for workers in (0, 1):
        with monkeypatch.context() as context:
            context.setattr("retrieval.data.images.open_file", refuse(errno.EMFILE))  # in a worker
            with pytest.raises(RetrievalError, match=rf"3\.png: {message}") as caught:
                read(images, workers=workers)
            assert type(caught.value) is RetrievalError  # no fault of the image
    with monkeypatch.context() as context:
        context.setattr(DataLoader, "__iter__", refuse(errno.EMFILE))
        with pytest.raises(RetrievalError, match=f"^the data workers cannot start: {message}"):
            read(images, workers=1)


def test_workers_that_cannot_start_are_one_line(images, monkeypatch):
    for number, message in (
        (errno.ENOSPC, r"shared memory \(/dev/shm\) is full; .*--shm-size, or set data\.workers=0"),
        (errno.EAGAIN, r"Resource temporarily unavailable; set data\.workers=0"),
    ):
        monkeypatch.setattr(DataLoader, "__iter__", refuse(number))
        with pytest.raises(RetrievalError, match=f"^the data workers cannot start: {message}$"):
            read(images, workers=1)


class FailsInWorkers(ForkingPickler):
    """A pickler that the thread of a worker's queue cannot use."""

    parent = os.getpid()

    @classmethod
    def dumps(cls, value, protocol=None):
        if os.getpid() != cls.parent:
            raise MemoryError
        return ForkingPickler.dumps(value, protocol)


def test_an_error_in_the_thread_of_a_workers_queue_ends_the_run_without_a_timeout(images, monkeypatch, capfd):
    monkeypatch.setattr(multiprocessing.queues, "_ForkingPickler", FailsInWorkers)
    with pytest.raises(RetrievalError, match="a data worker was lost"):
        list(training_loader(images, ONE_IMAGE, PREPARE, seed=0, workers=1, timeout=0))
    assert capfd.readouterr().err == ""


READ_IN_WORKERS = """
import sys
import numpy as np
from retrieval.data import ImageSet, evaluation_loader
images = ImageSet.from_dataset(np.full((8, 300, 300, 3), 7, dtype=np.uint8), labels=[0] * 8)
for batch in evaluation_loader(images, np.array, batch_size=4, workers=1, timeout=0):
    print(tuple(batch.shape), int(batch.max()))
"""


@pytest.mark.slow
def test_a_small_shared_memory_is_enough(tmp_path):
    mount = "mount -t tmpfs -o size=200k tmpfs /dev/shm"
    if sys.platform != "linux" or subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False).returncode:
        pytest.skip("needs the right to mount a folder")
    command = [*("unshare", "-m", "sh", "-c", f'{mount}; exec "$0" -c "$1"'), sys.executable, READ_IN_WORKERS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout == "(4, 300, 300, 3) 7\n" * 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "batches are copied instead" in done.stderr


@pytest.mark.parametrize("number", [1, 3])
def test_ctrl_c_while_workers_start_goes_once_to_whoever_handles_it(number):
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append("handled"))
    try:
        with _interrupts_held():
            for _ in range(number):
                signal.raise_signal(signal.SIGINT)
            came.append("block ends")
    finally:
        signal.signal(signal.SIGINT, before)
    assert came == ["block ends", "handled"]
