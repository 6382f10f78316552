"""The command line: `limbeck demo | run | compare | search | label | doctor | pair | eval | export | predict | …`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from limbeck.commands.bench import bench
from limbeck.commands.fit import fit
from limbeck.commands.serve import serve
from limbeck.commands.ship import export, predict
from limbeck.errors import LimbeckError
from limbeck.terminal import clear_errors, console, findings_table, say

app = typer.Typer(
    name="limbeck",
    help="Turn a big neural network into a small one that you can ship, and see what was lost.\n\n"
    "Start with `limbeck demo`; then `limbeck recipes`, and `limbeck run NAME`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
    with clear_errors():
        from limbeck import report
        from limbeck.deployed import ARTIFACTS
        from limbeck.processes import processes
        from limbeck.recipe import read_recipe
        from limbeck.run import REPORT, RESULTS, run

        recipe = read_recipe(source, changes)
        place = folder or Path("runs") / recipe.name
        results = run(recipe, place, trust_code=trust_code, say=say)
        if processes().is_main_process:
            console.print(report.terminal_table(results))
            for sentence in report.verdict(results):
                console.print(sentence, highlight=False)
            for sentence in report.sentences(results):
                console.print(sentence, highlight=False)
            console.print(f"\nreport   {place / REPORT}\nresults  {place / RESULTS}\nstudent  {place / 'student'}")
            chosen = report.recommended(results)
            if chosen is not None and (place / ARTIFACTS / f"{chosen.name}-0").is_dir():
                console.print(f"to ship  {place / ARTIFACTS / chosen.name}-0", soft_wrap=True)


MethodsOption = Annotated[
    str,
    typer.Option(
        "--methods", help="Names with commas, or `all` that fit.  [default: the recipe's `methods`, or all]",
        show_default=False,
    ),
]  # fmt: skip


@app.command()
def compare(
    recipe: RecipeArgument,
    changes: Overrides = None,
    methods: MethodsOption = "",
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="How often each is trained.  [default: the recipe's]")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where it is kept.  [default: runs/<recipe name>-compare]")
    ] = None,
    trust_code: TrustOption = False,
) -> None:
    """Compare methods on a recipe: one teacher, the student alone, and the student by each method, plain KD among them.

    All have the same budget, initial weights and data order. What is finished is kept: after an interruption the same
    command goes on, and more methods or seeds only add.
    """
    with clear_errors():
        from limbeck import report
        from limbeck.contest import compare_methods, names_of_methods
        from limbeck.processes import processes
        from limbeck.recipe import read_recipe
        from limbeck.run import REPORT, RESULTS

        read = read_recipe(recipe, [*(changes or []), *([f"seeds={seeds}"] if seeds is not None else [])])
        place = folder or Path("runs") / f"{read.name}-compare"
        results = compare_methods(read, place, names_of_methods(methods), trust_code=trust_code, say=say)
        if processes().is_main_process:
            console.print(report.methods_table(results))
            for sentence in report.verdict(results):
                console.print(sentence, highlight=False)
            console.print(f"\nreport   {place / REPORT}\nresults  {place / RESULTS}")


@app.command()
def search(
    recipe: RecipeArgument,
    changes: Overrides = None,
    budget: Annotated[str, typer.Option("--budget", help="How long to search in all, such as 90s, 30m or 2h.")] = "30m",
    methods: MethodsOption = "",
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="The most trials a method.  [default: what the budget allows]")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where it is kept.  [default: runs/<recipe name>-search]")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS|auto|local",
            help="Run many trials at a time, on a Ray cluster: host:port, `auto` on a machine of it, or `local` for "
            "this machine alone. --folder must be on a file system that all machines share.",
        ),
    ] = None,
    cpus: Annotated[
        float | None, typer.Option("--cpus", help="Processors of each trial under --ray.  [default: 1]")
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option("--gpus", help="GPUs of each trial under --ray, 0 to 1.  [default: 1 where a machine has one]"),
    ] = None,
    trust_code: TrustOption = False,
) -> None:
    """Search for the best method, its weight and its temperature on the validation split, within a time.

    Plain KD is tuned as often as every other method. The test split is not read. The best is written as a recipe, for
    `limbeck run` and `limbeck compare`. After an interruption the same command goes on.
    """
    with clear_errors():
        from limbeck.clusters import Cluster
        from limbeck.contest import names_of_methods
        from limbeck.recipe import read_recipe
        from limbeck.search import BEST, search_methods, seconds_of

        if ray is None and (cpus is not None or gpus is not None):
            raise LimbeckError("--cpus and --gpus are what each trial has on a cluster; add --ray")
        cluster = Cluster(ray, 1.0 if cpus is None else cpus, gpus) if ray is not None else None

        read = read_recipe(recipe, changes or [])
        place = folder or Path("runs") / f"{read.name}-search"
        found = search_methods(
            read, place, seconds_of(budget), names_of_methods(methods),
            trials=trials, cluster=cluster, trust_code=trust_code, say=say,
        )  # fmt: skip
        heading = f"validation {found.measure.heading}"
        table = Table("method", "trials", "to the end", heading, "with", box=None, padding=(0, 1))
        for line in found.lines:
            reached = "–" if line.value is None else f"{found.measure.factor * line.value:.2f}"
            table.add_row(line.method, str(line.trials), str(line.complete), reached, line.settings)
        console.print(table, highlight=False)
        for sentence in found.sentences:
            console.print(sentence, highlight=False)
        console.print(f"\nbest     {place / BEST}\ncompare  limbeck compare {place / BEST}", highlight=False)


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
    with clear_errors():
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
            marks = ["[green]ok[/]" if finding.ok else "[red]wrong[/]" for finding in findings]
            lines = [(mark, each.topic, each.text) for mark, each in zip(marks, findings, strict=True)]
            console.print(findings_table(lines), highlight=False)
            if not all(finding.ok for finding in findings):
                raise typer.Exit(2)
            return
        if read is None or place is None:
            raise LimbeckError("label: give a recipe to label with, or --inspect PATH to look into a store")
        stores = label_recipe(read, place, trust_code=trust_code, say=say)
        for store in stores:
            manifest = store.manifest
            console.print(f"store    {store.folder}  {manifest.records:,} records, {manifest.bytes / 1e6:,.1f} MB")
        if len(stores) < len(read.teacher):
            raise typer.Exit(3)


@app.command()
def doctor(
    recipe: RecipeArgument,
    changes: Overrides = None,
    folder: FolderOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Check a recipe in seconds before you run it: teacher, classes, normalisation, balance, every term, the cost."""
    with clear_errors():
        from limbeck.doctor import examine
        from limbeck.recipe import read_recipe

        read = read_recipe(recipe, changes or [])
        findings = examine(read, folder or Path("runs") / read.name, trust_code=trust_code)
        marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "note": "note"}
        lines = [(marks[finding.level], finding.topic, finding.text) for finding in findings]
        console.print(findings_table(lines), highlight=False)
        warnings = sum(finding.level == "warning" for finding in findings)
        console.print(f"{warnings} warning{'' if warnings == 1 else 's'}", highlight=False)


@app.command()
def pair(
    teacher: Annotated[
        str, typer.Argument(help="A model as recipes name it (resnet56, timm:…, hf:…, a saved folder), or a recipe.")
    ],
    student: Annotated[str | None, typer.Argument(help="A model; none after a recipe, which has one.")] = None,
    classes: Annotated[int, typer.Option("--classes", min=1, help="How many classes.")] = 100,
    size: Annotated[int, typer.Option("--size", min=1, help="Pixels a side.")] = 32,
    channels: Annotated[int, typer.Option("--channels", min=1, help="Of the images.")] = 3,
    trust_code: TrustOption = False,
) -> None:
    """Propose which places of a student to compare with which of a teacher, with shapes and projectors.

    A term on features that names no taps gets these by itself; the lines below the table name others in a recipe.
    """
    with clear_errors():
        from limbeck.models.spec import Shape
        from limbeck.proposals import pair_models, pair_recipe, proposals
        from limbeck.recipe import read_recipe

        if student is None:
            pairing = pair_recipe(read_recipe(teacher), trust_code=trust_code)
        else:
            shape = Shape(num_classes=classes, in_channels=channels, image_size=(size, size))
            pairing = pair_models(teacher, student, shape, trust_code=trust_code)
        found = proposals(pairing)
        table = Table("pair", "student", "teacher", "projector", box=None, padding=(0, 1))
        for each in found:
            table.add_row(each.what, each.student, each.teacher, each.projector)
        console.print(table, highlight=False, markup=False)
        for what in ("stages", "embedding", "attention", "values"):
            if what in pairing.missing:
                say(pairing.missing[what])
        say("\nin a recipe's term:")
        for each in found:
            console.print(each.keys, highlight=False, markup=False, soft_wrap=True)


@app.command(name="eval")
def evaluate(
    model: Annotated[Path, typer.Argument(help="A folder that limbeck saved, such as runs/digits/student.")],
    data: Annotated[str, typer.Argument(help="Data by name: digits, mnist, cifar100, folder:PATH, table:FILE, …")],
    trust_code: TrustOption = False,
) -> None:
    """Measure a saved model on the test split of a data set."""
    with clear_errors():
        from limbeck.models import load, read_card
        from limbeck.session import same_classes
        from limbeck.tasks import TASKS, Opening

        card = read_card(model)
        if card.preprocessing is None and card.tokenizing is None:
            raise LimbeckError(f"{model}: saved without its preprocessing; measure it from Python")
        task = TASKS[card.task]
        # Prepared as the model was trained: pixels in its size, texts by the tokenizer beside it.
        own: dict[str, Any] = {}
        if card.preprocessing is not None:
            height, width = card.preprocessing.size
            own["size"] = height if height == width else [height, width]
        own |= {} if card.tokenizing is None else {"max_length": card.tokenizing.max_length}
        settings = task.settings(source=data, **own)
        opened = task.load(settings, Opening(teachers=[str(model)], say=say))
        same_classes(card.classes, opened.classes, str(model))
        test = opened.test.with_preprocessing(card.preprocessing) if card.preprocessing else opened.test
        found = task.predict(load(model, trust_code=trust_code), test, label="test", settings=settings)
        table = Table("metric", "value")
        for name, value in found.metrics().items():
            table.add_row(name, f"{value:.4f}")
        console.print(table)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder, such as runs/digits.")],
    output: Annotated[Path | None, typer.Option("--output", help="The HTML file.  [default: in the folder]")] = None,
) -> None:
    """Write a run's report again from its results.json."""
    with clear_errors():
        from limbeck import report
        from limbeck.results import Results

        path = output or folder / "report.html"
        report.write(Results.read(folder / "results.json"), folder, path)
        console.print(str(path))


@app.command()
def recipes() -> None:
    """List the recipes that come with limbeck."""
    with clear_errors():
        from limbeck.recipe import read_recipe, shipped_recipes

        table = Table("recipe", "task", "what it does", box=None)
        for name, path in shipped_recipes().items():
            table.add_row(name, path.parent.name, read_recipe(name).about)
        console.print(table)


@app.command()
def methods() -> None:
    """List the losses that a recipe's terms can name, with their papers."""
    with clear_errors():
        from limbeck.losses import METHODS

        table = Table("loss", "family", "needs", "weight", "what it is", "paper", box=None)
        for method in METHODS:
            paper = f"{method.paper} {method.link}".strip()
            table.add_row(method.name, method.family, method.needs, f"{method.weight:g}", method.says, paper)
        console.print(table)


app.command()(bench)
app.command()(export)
app.command()(predict)
app.command()(fit)
app.command()(serve)


def main() -> None:
    """The `limbeck` command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    app()


if __name__ == "__main__":
    main()
