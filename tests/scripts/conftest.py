"""What the tests of the scripts share."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session")
def call_main() -> Callable[..., str]:
    """Calls `main` of a script with arguments in this process, which has imported torch, and returns what it prints."""

    def call(script: ModuleType, *arguments: object) -> str:
        printed, threads, logger = io.StringIO(), torch.get_num_threads(), logging.getLogger("retrieval")
        level = logger.level
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setattr(sys, "argv", [Path(str(script.__file__)).name, *map(str, arguments)])
            try:
                script.main()
            finally:
                torch.set_num_threads(threads)
                logger.setLevel(level)
        return printed.getvalue()

    return call
