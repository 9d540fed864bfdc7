"""Runs the tutorials, and writes each as a notebook and as a page with its output and pictures.

    python scripts/build_tutorials.py              # all of them, minutes
    python scripts/build_tutorials.py loss_plain   # one

A tutorial is docs/tutorials/NAME.py in jupytext's percent format. Its pair NAME.ipynb has the same cells without output, to be
opened in Jupyter. NAME.md and NAME_files are the page of the documentation. Needs the extra `docs`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
from fake_hub import serve

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "tutorials"


def read(name: str, folder: Path = FOLDER) -> nbformat.NotebookNode:
    """A tutorial as a notebook without output; cells have the same ids whenever it is read."""
    notebook = jupytext.read(folder / f"{name}.py")
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    for place, cell in enumerate(notebook.cells):
        cell.id = f"cell-{place}"
        cell.metadata = {}
    return notebook


def run(notebook: nbformat.NotebookNode) -> None:
    """Runs a notebook in an empty folder, with a Hugging Face Hub on this machine: no other one is asked.

    Raises:
        CellExecutionError: A cell failed.
    """
    programs = str(Path(sys.executable).parent)  # where the command `retrieval` is
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home, serve() as hub:
        environment = {
            **os.environ,
            **hub.environment(Path(home)),
            "PATH": os.pathsep.join([programs, os.environ.get("PATH", "")]),
            # Processor threads that wait busily slow one another down; lines of a progress bar are no output.
            "OMP_WAIT_POLICY": "PASSIVE",
            "TQDM_DISABLE": "1",
        }
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute(
            env=environment
        )


def write(name: str, notebook: nbformat.NotebookNode, folder: Path = FOLDER) -> None:
    """Writes the page of a notebook that was run."""
    shutil.rmtree(folder / f"{name}_files", ignore_errors=True)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _tidy(cell.outputs)
    exporter = MarkdownExporter()
    text, resources = exporter.from_notebook_node(
        notebook, resources={"unique_key": name, "output_files_dir": f"{name}_files"}
    )
    text = re.sub(r"\n{3,}", "\n\n", text.replace("```bash\n%%bash\n", "```bash\n"))
    text = text.replace("![png](", "![The picture that the cell draws](")
    link = f"(The notebook: [{name}.ipynb]({name}.ipynb).)\n"
    (folder / f"{name}.md").write_text(f"{text.strip()}\n\n{link}", encoding="utf-8")
    for path, content in resources["outputs"].items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)


def _tidy(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The outputs without stderr; text that was printed in parts is one output, without colours."""
    found: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if "text" in output:
            output.text = re.sub(r"\x1b\[[0-9;]*m", "", output.text)
            if found and "text" in found[-1]:
                found[-1].text += output.text
                continue
        found.append(output)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of the tutorials; all if left out")
    for name in parser.parse_args().names or sorted(path.stem for path in FOLDER.glob("*.py")):
        notebook = read(name)
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        run(notebook)
        write(name, notebook)
        print(name, flush=True)


if __name__ == "__main__":
    main()
