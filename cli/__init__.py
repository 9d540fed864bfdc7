"""The console command `retrieval`: a command parses, imports the work, and calls one function of `retrieval.recipes`."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence

import click

from retrieval import __version__
from retrieval.errors import RetrievalError

from . import compare, config, data, embed, export, index, processor, recall, report, runs, search, train


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with: retrieval train --config glyphs --out runs/glyphs",
)
@click.version_option(__version__, prog_name="retrieval")
@click.option("--quiet", is_flag=True, help="No progress on stderr, only errors.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def retrieval(quiet: bool, debug: bool) -> None:
    """Train image-retrieval models on recall@k itself, index images, measure and search."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("retrieval").setLevel(logging.ERROR if quiet else logging.INFO)


for command in (
    *(train.command, index.group, recall.command, search.command, compare.command, embed.command, export.group),
    *(report.command, runs.command, data.group, config.group),
):
    retrieval.add_command(command)


def main() -> None:
    """Runs the command line and exits with its code."""
    processor.prepare()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs the command line.

    Returns:
        0; 1 after an error; 2 after wrong usage or a wrong configuration; 130 after Ctrl-C, 143 after SIGTERM.
    """
    debug = "--debug" in arguments
    try:
        code = retrieval.main(list(arguments), prog_name="retrieval", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except SystemExit as stopped:  # a training run, by a signal; it has said so
        return stopped.code if isinstance(stopped.code, int) else 1
    except RetrievalError as error:
        if debug:
            traceback.print_exc()
        for line in str(error).splitlines():
            click.echo(f"error: {line}", err=True)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has gone, as in `retrieval recall ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last line of defence: a person sees one line, not a traceback
        if debug:
            traceback.print_exc()
        click.echo(f"error: {_explain(error)}", err=True)
        return 1


def _explain(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    if "torchvision" in first:
        return (
            f"torch and torchvision do not fit together ({first}); "
            "mend it with: python -m pip install --force-reinstall torch torchvision"
        )
    return f"{type(error).__name__}: {first} (a fault of the program; `retrieval --debug ...` shows where)"
