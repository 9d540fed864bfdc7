"""The console command `retrieval`: a command parses its arguments, calls a function of the library, and prints the result."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from retrieval import __version__
from retrieval.errors import RetrievalError
from retrieval.files.control import LineFormatter

from . import (
    compare,
    completion,
    config,
    data,
    embed,
    export,
    hub,
    index,
    processor,
    recall,
    report,
    runs,
    search,
    serve,
    train,
    tune,
)
from .terminal import escaped_stdout, print_error, print_traceback


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  retrieval train --config glyphs --out runs/glyphs
  retrieval index runs/glyphs
  retrieval recall runs/glyphs/index-test
  retrieval search runs/glyphs/index-test photo.png""",
)
@click.version_option(__version__, prog_name="retrieval")
def retrieval() -> None:
    """Train image-retrieval models on recall@k itself, index images, measure and search.

    Results go to stdout, with --json as JSON; progress and errors go to stderr. Exits with 0; 1 after an error; 2 after wrong usage
    or a wrong configuration; 130 after Ctrl-C.
    """


_LEVELS = {"quiet": logging.ERROR, "verbose": logging.DEBUG}


def _set_level(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Sets what is logged, by --quiet or --verbose of a command or of its group."""
    if not value:
        return
    first = context.meta.setdefault("retrieval.level", parameter.name)
    if first != parameter.name:
        raise click.UsageError("--quiet and --verbose exclude each other")
    logging.getLogger("retrieval").setLevel(_LEVELS[first])


def _complete(command: click.Command) -> None:
    """Adds --quiet, --verbose and --debug to a command or the commands of a group; under `python -OO`, the help text too."""
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        _complete(inner)
    if command.help is None and command.callback is not None:
        from retrieval.data.docstrings import docstring

        command.help = docstring(command.callback)
    flag: dict[str, Any] = {"is_flag": True, "expose_value": False}
    command.params += [
        click.Option(["--quiet"], **flag, callback=_set_level, help="No progress on stderr, only errors."),
        click.Option(["--verbose"], **flag, callback=_set_level, help="Name every file that is not read."),
        click.Option(["--debug"], **flag, help="Show the traceback of an error."),  # `run` looks for it
    ]


for command in (
    *(
        train.command,
        tune.command,
        index.group,
        recall.command,
        search.command,
        compare.command,
        embed.command,
        export.group,
        hub.group,
    ),
    *(serve.command, report.command, runs.command, data.group, config.group, completion.command),
):
    retrieval.add_command(command)
_complete(retrieval)


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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("retrieval").setLevel(logging.INFO)  # --quiet raises it to ERROR
    try:
        with escaped_stdout():
            # With color, click leaves escape sequences in names, which the stream shows escaped, instead of removing them.
            code = retrieval.main(list(arguments), prog_name="retrieval", standalone_mode=False, color=True)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        print_error(_in_one_line(error))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except SystemExit as stopped:  # a training run that a signal has stopped and that has logged it
        return stopped.code if isinstance(stopped.code, int) else 1
    except RetrievalError as error:
        if debug:
            print_traceback()
        for line in error.lines:
            print_error(_with_options(line))
        return error.exit_code
    except BrokenPipeError:  # the reader of stdout has exited, as in `retrieval recall ... | head`
        _leave_stdout()
        return 1
    except Exception as error:  # noqa: BLE001 - a user sees one line, not a traceback
        if debug:
            print_traceback()
        print_error(_explain(error))
        if _is_full(error):
            _leave_stdout()
        return 1


def _leave_stdout() -> None:
    """Discards the rest of stdout. Otherwise Python would try to write it at exit, and print an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_full(error: Exception) -> bool:
    """Whether stdout is on a full disk. For files on a full disk, the library raises `RetrievalError`."""
    return isinstance(error, OSError) and error.errno == errno.ENOSPC and not error.filename


def _in_one_line(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{message} (see `{context.command_path} --help`)" if context else message


def _with_options(message: str) -> str:
    """A message of the library with the options of the command line in place of the arguments of Python."""
    arguments = r"(?<![\w.])(overwrite|resume|config|replace)=(True\b)?"
    return re.sub(arguments, lambda found: f"--{found[1]}" + ("" if found[2] else " "), message)


def _explain(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    if "torchvision" in first:
        return (
            f"torch and torchvision do not fit together ({first}); "
            "mend it with: python -m pip install --force-reinstall torch torchvision"
        )
    if isinstance(error, MemoryError) or "out of memory" in first:
        return f"not enough memory ({first or 'main memory'}); take smaller batches, images or models"
    if _is_full(error):
        return "stdout: cannot be written (No space left on device)"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {first} (a fault of the program; `retrieval --debug ...` shows where)"
