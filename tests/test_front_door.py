"""The names of `import retrieval`: loaded when they are used, documented, each with an example that runs."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest

import retrieval

DOORS = ("Model", "Index", "Run", "train", "evaluate", "RecallLoss", "recall_loss")


def test_importing_retrieval_loads_neither_torch_nor_numpy():
    program = (
        "import retrieval, sys; print([name for name in ('torch', 'numpy', 'PIL', 'click') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_front_door_has_the_names_it_promises():
    assert set(DOORS) <= set(retrieval.__all__)
    assert set(retrieval.__all__) <= set(dir(retrieval))
    assert retrieval.__version__


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Modell"):
        retrieval.Modell  # noqa: B018 - the access is the test


@pytest.mark.usefixtures("quick_pictures")
@pytest.mark.parametrize("name", retrieval.__all__)
def test_every_name_has_an_example_that_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = getattr(retrieval, name)
    own = doctest.DocTestParser().get_doctest(value.__doc__, {}, name, None, None)
    assert own.examples, f"{name} has no example"
    assert not any(doctest.SKIP in example.options for example in own.examples)
    results = doctest.DocTestRunner(verbose=False).run(own)
    assert results.failed == 0
