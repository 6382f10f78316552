"""`limbeck fit`: the best model for a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.terminal import clear_errors, console, say


def fit(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as train.epochs=20 fit.candidates=4."),
    ] = None,
    latency: Annotated[
        str | None, typer.Option("--latency", metavar="5ms", help="The most a sample may take (us, ms, s): the median.")
    ] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="4MB", help="The most bytes of the file.")] = None,
    flops: Annotated[str | None, typer.Option("--flops", metavar="10M", help="The most FLOPs of a sample.")] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="RUNTIME[:DEVICE[:THREADS]]", show_default=False,
            help="What is to run it.  [default: the recipe's, onnxruntime:cpu:1]",
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where the work is kept.  [default: runs/NAME-fit]",
                                  show_default=False),
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Allow models named python:package.module:function, which run code.")
    ] = False,
) -> None:  # fmt: skip
    """Find the best model that keeps a budget, and end with the file to ship.

    Candidates are the recipe's student wider, narrower and at fewer pixels, its kin (timm's and limbeck's families, a
    transformers teacher with fewer layers), the teacher pruned, and the teacher; each in int8 too. Each is measured
    first, as a file on the target; what does not keep the budget is dropped. The rest are distilled, each round half as
    many for twice as long; the last is distilled to the end, exported, measured again, and tested.

    What it is going to do and about how long that takes is said before it starts. The same command goes on after an
    interruption; another budget in the same folder takes over what was done. `fit.students` names your own candidates.

    Examples: `limbeck fit digits --latency 0.02ms`; `limbeck fit sst2 --latency 1ms --size 2MB --on onnxruntime:cpu:1`
    """
    with clear_errors():
        from limbeck.fit import Budget
        from limbeck.fit import fit as find
        from limbeck.recipe import read_recipe

        wanted = read_recipe(recipe, [*(changes or []), *([f"on={on}"] if on else [])])
        budget = Budget.parse(latency, size, flops)
        place = folder or Path("runs") / f"{wanted.name}-fit"
        found = find(wanted, place, budget, trust_code=trust_code, say=say)
        for sentence in found.sentences:
            console.print(sentence, highlight=False)
        console.print(f"\nreport   {found.report}\nto ship  {found.artifact}", soft_wrap=True)
