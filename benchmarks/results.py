"""Runs the shipped CPU recipes (going on where they stopped) and writes their tables into docs/results.md.

python benchmarks/results.py [RECIPE …] [--runs runs]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from limbeck import report
from limbeck.metrics import mean_std
from limbeck.recipe import read_recipe
from limbeck.results import Results
from limbeck.run import run

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
RECIPES = ("digits", "mnist-dense", "mnist-conv")


def table(results: Results) -> str:
    """A line for each model at its last checkpoint, then the verdict."""
    lines = [
        "| model | seeds | accuracy, % | NLL | agreement, % | parameters | training, s |",
        "|---|---|---|---|---|---|---|",
    ]
    names = dict.fromkeys(row.name for row in results.rows)
    for name in names:
        rows = results.named(name)

        def cell(key: str, scale: float, digits: int, kind: str = "metrics", rows: list = rows) -> str:
            values = [scale * getattr(row, kind)[key] for row in rows if key in getattr(row, kind)]
            if not values:
                return "–"
            mean, deviation = mean_std(values)
            return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if len(values) > 1 else "")

        lines.append(
            f"| {name} | {len(rows)} | {cell('accuracy', 100, 2)} | {cell('nll', 1, 3)} | {cell('agreement', 100, 2)} "
            f"| {rows[0].size.get('parameters', 0):,.0f} | {cell('train_seconds', 1, 1, 'cost')} |"
        )
    return "\n".join([*lines, "", *report.verdict(results)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    for name in options.recipes:
        results = run(read_recipe(name), options.runs / name)
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
