from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from forked import Program

from retrieval.training import Stopped, StopSignals

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def handlers() -> list:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_the_current_step_ends_and_no_other_begins(caplog, number, code):
    before, done = handlers(), []

    def step(batch):
        if batch == 2:
            os.kill(os.getpid(), number)
        done.append(batch)

    with StopSignals() as signals, pytest.raises(Stopped) as stopped:
        list(map(step, signals.each(range(10))))
    assert done == [0, 1, 2]
    assert stopped.value.code == code
    assert isinstance(stopped.value, SystemExit)
    assert f"{number.name}: stopping after this step" in caplog.text
    assert handlers() == before


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_waiting_for_a_batch_ends_at_once(number, code):
    def batches():
        yield 1
        os.kill(os.getpid(), number)
        raise AssertionError("not reached")

    with StopSignals() as signals, pytest.raises(Stopped) as stopped:
        list(signals.each(batches()))
    assert stopped.value.code == code


def test_a_signal_outside_the_loops_stops_the_next_one():
    with StopSignals() as signals:
        signals.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            next(signals.each([1]))
        with pytest.raises(Stopped):
            signals.check(together=True)


def test_a_signal_in_the_last_step_counts_too():
    with StopSignals() as signals, pytest.raises(Stopped):
        [os.kill(os.getpid(), signal.SIGINT) for _ in signals.each([1])]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_after_the_last_batch_stops_at_the_end_of_the_context(number, code):
    before, done = handlers(), []

    def run():
        with StopSignals() as signals:
            list(signals.each([1, 2]))
            os.kill(os.getpid(), number)
            done.append("pictures")

    with pytest.raises(Stopped) as stopped:
        run()
    assert (stopped.value.code, done) == (code, ["pictures"])
    assert handlers() == before


def test_an_error_after_a_signal_is_not_replaced():
    def run():
        with StopSignals():
            os.kill(os.getpid(), signal.SIGTERM)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run()


def test_the_end_of_a_child_that_received_the_signal_too_is_not_reported():
    def report(number, frame):
        raise AssertionError("a worker has ended")

    def step(batch):
        signal.pthread_sigmask(signal.SIG_BLOCK, both)
        for number in both:
            os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, both)  # both arrive before either is handled

    both = (signal.SIGTERM, signal.SIGCHLD)
    before = signal.signal(signal.SIGCHLD, report)
    try:
        with StopSignals() as signals, pytest.raises(Stopped):
            list(map(step, signals.each([1, 2])))
        assert signal.getsignal(signal.SIGCHLD) is report
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_without_a_signal_all_batches_pass_and_errors_too():
    def batches():
        yield from (1, 2)
        raise ValueError("broken")

    with StopSignals() as signals:
        assert list(signals.each([1, 2, 3])) == [1, 2, 3]
        with pytest.raises(ValueError, match="broken"):
            list(signals.each(batches()))


def test_in_another_thread_signals_are_not_handled():
    before, found = handlers(), []

    def work():
        with StopSignals() as signals:
            found.append((handlers(), list(signals.each([1, 2]))))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(before, [1, 2])]


LOOP = """
import sys, time
from pathlib import Path
from torch.utils.data import DataLoader, Dataset
from retrieval.training import Stopped, StopSignals

folder, workers, load, step = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])

class Slow(Dataset):
    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        time.sleep(load if index > 2 * workers else 0)
        return index

with StopSignals() as signals:
    try:
        for batch in signals.each(DataLoader(Slow(), batch_size=None, num_workers=workers)):
            print("begin", int(batch), flush=True)
            end = time.monotonic() + step
            while time.monotonic() < end:  # a signal that raised here would leave the step half done
                time.sleep(0.01)
            (folder / "done").write_text(str(int(batch)))
    except Stopped:
        (folder / "saved").write_text((folder / "done").read_text())
        raise
"""


def run_and_stop(
    folder: Path, *signals: signal.Signals, at: int = 1, workers: int = 0, load: float = 0.0, step: float = 0.3
) -> tuple[int, str]:
    """Sends signals to the program and its workers, as a terminal does, in step `at`; returns its exit code and its last line."""
    first, *others = signals
    with Program(folder / "output", LOOP, folder, *map(str, (workers, load, step))) as program:
        program.wait_until(lambda: f"begin {at}\n" in program.stdout)
        program.send(first, group=True)
        # By its message it has arrived; the same signal twice, sent at once, would be one.
        program.wait_until(lambda: "\n" in program.stderr)
        for number in others:
            program.send(number, group=True)
        return program.wait(60), program.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_process_ends_its_step_saves_and_exits_with_the_signals_code(tmp_path, number, code, workers):
    found, errors = run_and_stop(tmp_path, number, workers=workers)
    assert found == code, errors
    assert (tmp_path / "saved").read_text() == "1"
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_process_that_waits_for_its_workers_saves_and_exits_at_once(tmp_path, number, code):
    # Step 3 needs a batch that takes its worker a minute and more.
    found, errors = run_and_stop(tmp_path, number, at=2, workers=1, load=100, step=0.0)
    assert found == code, errors
    assert (tmp_path / "saved").read_text() == "2"


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    found, errors = run_and_stop(tmp_path, signal.SIGINT, signal.SIGINT, at=0, step=100)
    assert found == -signal.SIGINT, errors  # which a shell shows as 130
    assert not (tmp_path / "saved").exists()


@pytest.mark.slow
def test_a_second_sigterm_does_not_interrupt_the_end(tmp_path):
    found, errors = run_and_stop(tmp_path, signal.SIGTERM, signal.SIGTERM, at=0, step=2)
    assert found == 143, errors
    assert (tmp_path / "saved").read_text() == "0"
