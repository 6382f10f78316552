"""The table's cells against hand numbers."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from limbeck.report import terminal_table
from limbeck.report.groups import all_groups, main_groups
from limbeck.report.table import scaled, table
from limbeck.results import Results, Row


def shown(found: Results, width: int = 200) -> str:
    """What the terminal prints."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None).print(terminal_table(found))
    return buffer.getvalue()


def test_cells_are_mean_and_sample_deviation() -> None:
    """A deviation divided by n, fractions printed as percent, or a spread of one seed."""
    rows = [
        Row("teacher", 0, "last", {"accuracy": 0.99}, {"parameters": 1_234_567.0}, {"p50": 4.0}),
        Row("teacher", 1, "last", {"accuracy": 0.99}, {"parameters": 1_234_567.0}, {"p50": 4.0}),
        Row("distilled", 0, "last", {"accuracy": 0.90, "nll": 0.5}, {"parameters": 950.0}, {"p50": 1.5}),
        Row("distilled", 1, "last", {"accuracy": 0.94, "nll": 0.5}, {"parameters": 950.0}, {"p50": 1.7}),
    ]
    columns, lines = table(Results({}, {}, rows))
    cells = {(line.group.name, c.key): cell for line in lines for c, cell in zip(columns, line.cells, strict=True)}
    assert [c.key for c in columns] == ["accuracy", "nll", "parameters", "p50"], "what nobody measured is left out"
    assert cells["distilled", "accuracy"] == "92.00 ± 2.83"
    assert cells["teacher", "accuracy"] == "99.00 ± 0.00"
    assert cells["teacher", "p50"] == "4.00", "measured once for all seeds, so no spread"
    assert cells["distilled", "nll"] == "0.500 ± 0.000"
    assert cells["teacher", "nll"] == "–"
    assert cells["teacher", "parameters"] == "1.23 M"
    assert cells["distilled", "parameters"] == "950"
    assert cells["distilled", "p50"] == "1.60 ± 0.14"


@pytest.mark.parametrize(
    ("value", "std", "unit", "text"),
    [
        (999.0, None, "", "999"),
        (1000.0, None, "", "1.00 k"),
        (81_000_000.0, None, "", "81.0 M"),
        (853_018.0, None, "", "853 k"),
        (4_960_000.0, 20_000.0, "B", "4.96 ± 0.02 MB"),
        (0.0, None, "B", "0 B"),
        (3e12, None, "", "3.00 T"),
    ],
)
def test_prefixes(value: float, std: float | None, unit: str, text: str) -> None:
    """A size off by a factor of a thousand, or a spread in another unit than its mean."""
    assert scaled(value, std, unit) == text


def test_values_that_are_no_numbers_are_dashes() -> None:
    """NaN in a table, or a crash on what an old file lacks."""
    rows = [Row("alone", 0, "last", {"accuracy": float("nan"), "nll": 1.0}), Row("alone", 1, "last", {"nll": 3.0})]
    columns, lines = table(Results({}, {}, rows))
    assert [c.key for c in columns] == ["nll"]
    assert lines[0].cells == ("2.000 ± 1.414",)


def test_models_come_in_the_order_of_comparison() -> None:
    """Rows in the order in which a run happened to finish them; two checkpoints averaged into one."""
    names = ["distilled@all", "pruned", "distilled", "alone@all", "teacher", "alone"]
    rows = [Row(name, 0, c, {"accuracy": 0.5}) for name in names for c in ("selected", "last")]
    groups = all_groups(Results({}, {}, rows))
    assert [g.name for g in groups[::2]] == ["teacher", "alone", "distilled", "pruned", "alone@all", "distilled@all"]
    assert [g.checkpoint for g in groups] == ["last", "selected"] * 6
    assert [g.label for g in groups][-1] == "distilled, all"
    assert {g.checkpoint for g in main_groups(Results({}, {}, rows))} == {"last"}
    assert {g.checkpoint for g in main_groups(Results({}, {}, rows[::2]))} == {"selected"}


def test_the_terminal_shows_the_same_numbers() -> None:
    """A terminal that rounds otherwise than the page, or takes a name in brackets for markup."""
    rows = [Row("distilled@[red]x", s, "last", {"accuracy": a}) for s, a in enumerate([0.9, 0.94])]
    text = shown(Results({}, {}, rows))
    assert "92.00 ± 2.83" in text
    assert "distilled, [red]x, last" in text


def test_numbers_are_never_cut() -> None:
    """A first screen of 80 columns on which half of each number is an ellipsis, as one setting has a long name."""
    rows = [
        Row(f"distilled@{'a-long-name-of-a-setting'}", seed, "selected", {"accuracy": accuracy, "agreement": 0.9},
            {"parameters": 950.0}, {"p50": 1.5})
        for seed, accuracy in ((0, 0.90), (1, 0.94))
    ]  # fmt: skip
    text = shown(Results({}, {}, rows), width=70)
    assert "92.00 ± 2.83" in text
    assert "…" not in text
