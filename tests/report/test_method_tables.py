"""A comparison of methods in words, tables and figures."""

from __future__ import annotations

import io

from rich.console import Console

from limbeck.compare import method_claims
from limbeck.report import methods_table, verdict
from limbeck.report.groups import compared, pictured_groups
from limbeck.report.methods import standing_figure, standing_table
from limbeck.report.svg import colour_of
from limbeck.results import Results, Row

NOISE = (0.0, 0.004, -0.003, 0.002, -0.001)


def results(seeds: int = 5, **means: float) -> Results:
    """A comparison in which each model's seeds lie around its mean, in its own way."""
    rows = [Row("teacher", 0, "last", {"accuracy": 0.95}, cost={"train_seconds": 50.0})]
    for shift, (name, mean) in enumerate(means.items()):
        name = name.replace("_", "-")
        for seed in range(seeds):
            accuracy = mean + 0.3 * NOISE[seed] + 0.1 * NOISE[(seed + shift) % 5]
            metrics = {"accuracy": accuracy, "agreement": accuracy}
            rows.append(Row(name, seed, "last", metrics, cost={"train_seconds": 10.0 + shift}))
    methods = [name.replace("_", "-") for name in means if name != "alone"]
    claims = method_claims(rows, methods, ["alone", "kd"], ["accuracy"])
    return Results({"name": "c", "methods": {name: [] for name in methods}}, {}, rows, claims)


def shown(found: Results, width: int = 80) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=width).print(methods_table(found))
    return buffer.getvalue()


def test_the_best_comes_first_with_what_was_tested() -> None:
    """Methods in the order of the table; a difference with its sign turned, or with the p-value of one test alone."""
    found = results(alone=0.80, kd=0.85, better=0.87, worse=0.82, same=0.8502)
    lines = standing_table(found)
    assert [line.group.name for line in lines] == ["teacher", "better", "same", "kd", "worse", "alone"]
    signs = {line.group.name: line.sign for line in lines}
    assert signs == {"teacher": 0, "better": 1, "same": 0, "kd": 0, "worse": -1, "alone": 0}
    by_name = {line.group.name: line for line in lines}
    assert by_name["better"].against_kd.startswith("+2.00 (p ")
    assert by_name["worse"].against_kd.startswith("−3.00 (p ")
    assert by_name["kd"].against_kd == by_name["alone"].against_alone == "–"
    assert by_name["kd"].times_alone == "1.10"
    assert by_name["better"].seconds == "12.0"
    low, high = (float(end) for end in by_name["kd"].interval.split(" … "))
    assert low < 85.02 < high
    text = shown(found)
    assert text.index("better") < text.index("same") < text.index("worse")


def test_verdicts() -> None:
    """The highest of several means called better than plain KD by chance."""
    first, against_kd, against_alone = verdict(results(alone=0.80, kd=0.85, better=0.87, worse=0.82, same=0.8502))
    assert first.startswith("Of 4 methods better has the highest accuracy, 87.0")
    assert "+2.0 points on plain KD (p" in first
    assert "of 3 comparisons, 5 seeds)" in first
    assert against_kd == (
        "Against plain KD, of 3: 1 better (better) and 1 worse (worse); the others are not told apart."
    )
    assert against_alone.startswith("Against no teacher, of 4: 4 better (kd, better, worse, same).")
    first, against_kd, _ = verdict(results(alone=0.80, kd=0.85, same=0.8502))
    assert "which is within what seeds differ by (p = " in first
    assert against_kd == "None of 1 is told apart from plain KD."
    first, *_ = verdict(results(alone=0.80, kd=0.85, worse=0.82))
    assert first.startswith("Of 2 methods plain KD has the highest accuracy")
    assert "on plain KD" not in first
    assert verdict(results(seeds=1, alone=0.8, kd=0.85, better=0.87)) == [
        "Of 2 methods better has the highest accuracy, 86.97 %; one seed, so nothing is claimed: run at least three."
    ]


def test_figures_show_the_best_each_in_its_own_colour() -> None:
    """Twenty curves that nobody can tell apart, without the baseline."""
    found = results(alone=0.80, kd=0.81, a=0.85, b=0.84, c=0.83, d=0.82, e=0.815, f=0.80)
    groups = pictured_groups(found)
    assert [group.name for group in groups] == ["teacher", "alone", "kd", "a", "b", "c", "d"]
    assert len({colour_of(group) for group in groups}) == len(groups)
    [picture] = standing_figure(found)
    assert picture.text.startswith("Accuracy and its 95 % interval by method: a 85.")
    assert "f 80." in picture.text, "this figure has all"


def test_a_run_is_no_comparison() -> None:
    """A run of a recipe that a search wrote, read as a comparison because it names methods."""
    rows = [Row(name, 0, "last", {"accuracy": 0.5}) for name in ("teacher", "alone", "distilled")]
    found = Results({"methods": {"kd": []}}, {}, rows)
    assert compared(found) == []
    assert standing_table(found) == []
    assert "distilled student" in verdict(found)[0]
