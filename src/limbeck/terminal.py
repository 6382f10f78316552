"""The terminal of the command line: where lines go, and a user's mistake as one line."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from limbeck.errors import LimbeckError

console = Console(emoji=False)  # `:package:` in a model's name is no picture


def say(line: str) -> None:
    """Prints a line of a run's progress as it is."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def findings_table(lines: Iterable[tuple[str, str, str]]) -> Table:
    """A mark, a topic and a text each, whole: what is longer than the terminal is wide goes on in the next line."""
    table = Table(show_header=False, box=None, padding=(0, 1))
    for _ in range(3):
        table.add_column(overflow="fold")
    for mark, topic, text in lines:
        # Text, not str: a list in brackets is not markup.
        table.add_row(mark, Text(topic), Text(text))
    return table


@contextmanager
def clear_errors() -> Iterator[None]:
    """A user's mistake is one line and exit code 2; an interruption says how to go on."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.ERROR)
    logging.getLogger("limbeck").setLevel(logging.WARNING)
    try:
        yield
    except LimbeckError as error:
        _fail(one_line(error))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        raise typer.Exit(130) from None
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{_system_error(error.errno)}")
    except _writers_errors() as error:  # safetensors' OSErrors come as text
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        _fail(f"cannot write a model: {_system_error(int(number[1]))}")


def _writers_errors() -> tuple[type[Exception], ...]:
    """The errors of safetensors, of which there are none where nothing has imported it."""
    safetensors = sys.modules.get("safetensors")
    return () if safetensors is None else (safetensors.SafetensorError,)


def _system_error(number: int) -> str:
    """The system's words for an error, and what to do where that is known."""
    full = number in (errno.ENOSPC, errno.EDQUOT)
    return os.strerror(number).lower() + ("; free some space and run the same command again" if full else "")


def one_line(error: Exception) -> str:
    """The message itself, also where a data-loading process has wrapped it in its traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return last.removeprefix("limbeck.errors.LimbeckError: ")


def _fail(message: str) -> None:
    print(f"limbeck: {message}", file=sys.stderr)
    raise typer.Exit(2)
