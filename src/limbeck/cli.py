"""The command line: `limbeck demo | run | label | doctor | eval | report | recipes | methods`."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError

from limbeck.checks import LimbeckError

app = typer.Typer(
    name="limbeck",
    help="Turn a big neural network into a small one that you can ship, and see what was lost.\n\n"
    "Start with `limbeck demo`; then `limbeck recipes`, and `limbeck run NAME`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

RecipeArgument = Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as train.epochs=20 seeds=5.")
]
FolderOption = Annotated[
    Path | None, typer.Option("--folder", help="Where the run is kept.  [default: runs/<recipe name>]")
]
TrustOption = Annotated[
    bool, typer.Option("--trust-code", help="Allow models named python:package.module:function, which run code.")
]


@app.command()
def demo(folder: FolderOption = None) -> None:
    """Distil a digits classifier on embedded real images, with proof and a report. A minute or two."""
    _run("digits", [], folder, trust_code=False)


@app.command()
def run(
    recipe: RecipeArgument,
    changes: Overrides = None,
    folder: FolderOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Run a recipe: teacher, student alone and distilled, over several seeds; then results.json and report.html.

    Finished steps are not redone; after an interruption the same command goes on.
    """
    _run(recipe, changes or [], folder, trust_code=trust_code)


def _run(source: str, changes: list[str], folder: Path | None, *, trust_code: bool) -> None:
    with _clear_errors():
        from limbeck import report
        from limbeck.processes import processes
        from limbeck.recipe import read_recipe
        from limbeck.run import REPORT, RESULTS, run

        recipe = read_recipe(source, changes)
        place = folder or Path("runs") / recipe.name
        results = run(recipe, place, trust_code=trust_code, say=lambda line: console.print(line, highlight=False))
        if processes().is_main_process:
            console.print(report.terminal_table(results))
            for sentence in report.verdict(results):
                console.print(sentence, highlight=False)
            console.print(f"\nreport   {place / REPORT}\nresults  {place / RESULTS}\nstudent  {place / 'student'}")


@app.command()
def label(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe file, or the name of a shipped recipe; optional with --inspect.")
    ] = None,
    changes: Overrides = None,
    folder: FolderOption = None,
    inspect: Annotated[
        Path | None,
        typer.Option("--inspect", help="Look into a label store instead (with a recipe: compare it)."),
    ] = None,
    trust_code: TrustOption = False,
) -> None:
    """Run a recipe's teacher once over its data and keep what it says, so that students learn from disk.

    The labels go to the recipe's `teacher.store` (runs/<recipe name>/labels if it names none), in the views and with
    the codecs of its `label` section. A later `limbeck run` learns from there. After an interruption the same command
    goes on; `accelerate launch -m limbeck label RECIPE` shares the work between GPUs.
    """
    with _clear_errors():
        from limbeck.recipe import read_recipe
        from limbeck.store import LabelStore
        from limbeck.stores import compare_with_teacher, inspect_store, label_recipe

        read = read_recipe(recipe, changes or []) if recipe is not None else None
        place = folder or (Path("runs") / read.name if read is not None else None)
        if inspect is not None:
            store = LabelStore.open(inspect)
            findings = inspect_store(store)
            sound = all(finding.ok for finding in findings)
            if read is not None and place is not None and sound:
                findings += compare_with_teacher(read, place, store, trust_code=trust_code)
            table = Table(show_header=False, box=None, padding=(0, 1))
            for finding in findings:
                table.add_row("[green]ok[/]" if finding.ok else "[red]wrong[/]", finding.topic, finding.text)
            console.print(table, highlight=False)
            if not all(finding.ok for finding in findings):
                raise typer.Exit(2)
            return
        if read is None or place is None:
            raise LimbeckError("label: give a recipe to label with, or --inspect PATH to look into a store")
        stores = label_recipe(read, place, trust_code=trust_code, say=lambda line: console.print(line, highlight=False))
        for store in stores:
            manifest = store.manifest
            console.print(f"store    {store.folder}  {manifest.records:,} records, {manifest.bytes / 1e6:,.1f} MB")


@app.command()
def doctor(
    recipe: RecipeArgument,
    changes: Overrides = None,
    folder: FolderOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Check a recipe in seconds before you run it: teacher, classes, normalisation, balance, every term, the cost."""
    with _clear_errors():
        from limbeck.doctor import examine
        from limbeck.recipe import read_recipe

        read = read_recipe(recipe, changes or [])
        findings = examine(read, folder or Path("runs") / read.name, trust_code=trust_code)
        table = Table(show_header=False, box=None, padding=(0, 1))
        for finding in findings:
            mark = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "note": "note"}[finding.level]
            table.add_row(mark, finding.topic, finding.text)
        console.print(table, highlight=False)
        warnings = sum(finding.level == "warning" for finding in findings)
        console.print(f"{warnings} warning{'' if warnings == 1 else 's'}", highlight=False)


@app.command(name="eval")
def evaluate(
    model: Annotated[Path, typer.Argument(help="A folder that limbeck saved, such as runs/digits/student.")],
    data: Annotated[str, typer.Argument(help="Data by name: digits, mnist, cifar100, folder:PATH, table:FILE, …")],
    trust_code: TrustOption = False,
) -> None:
    """Measure a saved model on the test split of a data set."""
    with _clear_errors():
        from limbeck.models import load, read_card
        from limbeck.session import same_classes
        from limbeck.sources import load as load_data
        from limbeck.tasks import IMAGE_CLASSIFICATION as task

        card = read_card(model)
        if card.preprocessing is None:
            raise LimbeckError(f"{model}: saved without its preprocessing; measure it from Python")
        test = load_data(data, size=card.preprocessing.size[0]).test
        same_classes(card.classes, test.classes, str(model))
        logits, labels = task.predict(load(model, trust_code=trust_code), test.with_preprocessing(card.preprocessing))
        table = Table("metric", "value")
        for name, value in task.metrics(logits, labels).items():
            table.add_row(name, f"{value:.4f}")
        console.print(table)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder, such as runs/digits.")],
    output: Annotated[Path | None, typer.Option("--output", help="The HTML file.  [default: in the folder]")] = None,
) -> None:
    """Write a run's report again from its results.json."""
    with _clear_errors():
        from limbeck import report
        from limbeck.results import Results

        path = output or folder / "report.html"
        report.write(Results.read(folder / "results.json"), folder, path)
        console.print(str(path))


@app.command()
def recipes() -> None:
    """List the recipes that come with limbeck."""
    with _clear_errors():
        from limbeck.recipe import read_recipe, shipped_recipes

        table = Table("recipe", "task", "what it does", box=None)
        for name, path in shipped_recipes().items():
            table.add_row(name, path.parent.name, read_recipe(name).about)
        console.print(table)


@app.command()
def methods() -> None:
    """List the losses that a recipe's terms can name, with their papers."""
    with _clear_errors():
        from limbeck.losses import METHODS

        table = Table("loss", "family", "needs", "weight", "what it is", "paper", box=None)
        for method in METHODS:
            paper = f"{method.paper} {method.link}".strip()
            table.add_row(method.name, method.family, method.needs, f"{method.weight:g}", method.says, paper)
        console.print(table)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """A user's mistake is one line and exit code 2; an interruption says how to go on."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.ERROR)
    logging.getLogger("limbeck").setLevel(logging.WARNING)
    try:
        yield
    except LimbeckError as error:
        _fail(_one_line(error))
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        raise typer.Exit(130) from None
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{_system_error(error.errno)}")
    except SafetensorError as error:  # its writer's OSErrors come as text
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        _fail(f"cannot write a model: {_system_error(int(number[1]))}")


def _system_error(number: int) -> str:
    """The system's words for an error, and what to do where that is known."""
    full = number in (errno.ENOSPC, errno.EDQUOT)
    return os.strerror(number).lower() + ("; free some space and run the same command again" if full else "")


def _one_line(error: Exception) -> str:
    """The message itself, also where a data-loading process has wrapped it in its traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return last.removeprefix("limbeck.checks.LimbeckError: ")


def _fail(message: str) -> None:
    print(f"limbeck: {message}", file=sys.stderr)
    raise typer.Exit(2)


def main() -> None:
    """The `limbeck` command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    app()


if __name__ == "__main__":
    main()
