from __future__ import annotations

import collapse
import pytest
import torch


def test_a_case_trains_on_equal_batches_whatever_the_noise():
    rows, labels = torch.randn(320, 20, generator=torch.Generator().manual_seed(0)), torch.arange(320).numpy() // 5
    data = {"train": (rows, labels), "test": (rows, labels)}
    for case in (collapse.Case("std"), collapse.Case("none", margin=0.1, batch=8, dtype=torch.float16)):
        quiet, same, noisy = (collapse.train(case, noise, data, 5) for noise in (0.0, 0.0, 5.0))
        assert quiet == same
        assert [point["step"] for point in quiet] == list(range(6))
        assert noisy[0] == quiet[0]
        assert noisy[-1] != quiet[-1]


@pytest.mark.slow
def test_the_script_prints_a_table_and_draws_a_picture(tmp_path, call_main):
    lines = call_main(collapse, "--out", tmp_path, "--steps", "3", "--classes", "32").splitlines()
    assert len(lines) == 2 + len(collapse.CASES) * len(collapse.NOISES)
    assert (tmp_path / "collapse.png").read_bytes().startswith(b"\x89PNG")
