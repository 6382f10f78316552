"""Runs the shipped CPU recipes (going on where they stopped) and writes their tables into docs/results.md. Teachers
with a label store are run once, into that.

python benchmarks/results.py [RECIPE …] [--runs runs]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from limbeck import report
from limbeck.measures import measure_of
from limbeck.metrics import mean_std
from limbeck.recipe import read_recipe
from limbeck.report.words import main_measure
from limbeck.results import Results
from limbeck.run import run
from limbeck.stores import label_recipe

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
RECIPES = (
    "digits",
    "mnist-dense",
    "mnist-conv",
    "sst2",
    "multi30k-en-de",
    "squad",
    "wikitext2",
    "lfw",
    "bccd",
    "openfield-mouse",
)


def table(results: Results) -> str:
    """A line for each model at its last checkpoint, then the verdict."""
    main = main_measure(results)
    shown = [measure_of(key) for key in dict.fromkeys((main.key, "nll", "agreement"))]
    shown = [measure for measure in shown if any(measure.key in row.metrics for row in results.rows)]
    headings = ["model", "seeds", *(each.heading for each in shown), "parameters", "latency, ms", "training, s"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    names = dict.fromkeys(row.name for row in results.rows)
    for name in names:
        rows = results.named(name)

        def cell(key: str, scale: float, digits: int, kind: str = "metrics", rows: list = rows) -> str:
            values = [scale * getattr(row, kind)[key] for row in rows if key in getattr(row, kind)]
            if not values:
                return "–"
            mean, deviation = mean_std(values)
            return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if len(values) > 1 else "")

        cells = [cell(each.key, each.factor, 2 if each.share else 3) for each in shown]
        cells += [f"{rows[0].size.get('parameters', 0):,.0f}", cell("p50", 1, 2, "latency")]
        lines.append(f"| {' | '.join([name, str(len(rows)), *cells, cell('train_seconds', 1, 1, 'cost')])} |")
    return "\n".join([*lines, "", *report.verdict(results)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    for name in options.recipes:
        recipe = read_recipe(name)
        if any(teacher.store is not None for teacher in recipe.teacher):
            label_recipe(recipe, options.runs / name)
        results = run(recipe, options.runs / name)
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(start)
        _, _, after = rest.partition(end)
        where = (
            f"`limbeck run {name}`, {results.versions['processor']}, torch {results.versions['torch']}, "
            f"{results.versions['threads']} threads"
        )
        PAGE.write_text(f"{before}{start}\n{where}\n\n{table(results)}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
