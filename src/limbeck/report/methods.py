"""A comparison of methods: a line each, the best first, against plain KD and against no teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from rich import box
from rich.table import Table
from rich.text import Text

from limbeck.measures import Measure
from limbeck.metrics import interval, mean_std
from limbeck.report.groups import Group, compared, find, main_groups, ranked
from limbeck.report.svg import INK, Picture, colour_of, draw
from limbeck.report.words import SIGNIFICANCE, main_measure, p_value, signed
from limbeck.results import Claim, Results

BASELINE = "kd"
MISSING = "–"
LISTED = 8


@dataclass(frozen=True, slots=True)
class Standing:
    """How a model did in a comparison: its cells as text, and whether it differs from plain KD beyond chance (1 better,
    -1 worse, 0 neither)."""

    group: Group
    value: str
    interval: str
    against_kd: str
    against_alone: str
    agreement: str
    seconds: str
    times_alone: str
    sign: int


def standing_table(results: Results) -> list[Standing]:
    """A line for each model of a comparison, the most accurate first; empty for a run of one recipe."""
    if not compared(results):
        return []
    groups = main_groups(results)
    alone = find(groups, "alone")
    measure = main_measure(results)
    return [_standing(results, group, alone, measure) for group in ranked(groups, measure)]


def _standing(results: Results, group: Group, alone: Group | None, measure: Measure) -> Standing:
    values = [measure.factor * value for value in group.values("metrics", measure.key)]
    seconds = group.mean("cost", "train_seconds")
    usual = alone.mean("cost", "train_seconds") if alone is not None else None
    mean, std = mean_std(values) if values else (None, 0.0)
    bounds, agreement = interval(values), group.mean("metrics", "agreement")
    against_kd = claim_against(results, group.name, BASELINE)
    return Standing(
        group,
        MISSING if mean is None else f"{mean:.2f}" + (f" ± {std:.2f}" if len(values) > 1 else ""),
        MISSING if bounds is None else f"{bounds[0]:.2f} … {bounds[1]:.2f}",
        _difference(measure, against_kd),
        _difference(measure, claim_against(results, group.name, "alone")),
        MISSING if agreement is None else f"{100 * agreement:.1f}",
        MISSING if seconds is None else f"{seconds:,.1f}",
        f"{seconds / usual:.2f}" if seconds and usual and group.role != "teacher" else MISSING,
        outcome(measure, against_kd),
    )


def claim_against(results: Results, name: str, other: str) -> Claim | None:
    """The comparison of two models by what decides, if the run made one."""
    wanted = (main_measure(results).key, name, other)
    found = (claim for claim in results.claims if (claim.metric, claim.a, claim.b) == wanted)
    return next(found, None)


def outcome(measure: Measure, claim: Claim | None) -> int:
    """1 where a model is better beyond chance, all comparisons with the other counted; -1 where it is worse; else 0."""
    if claim is None or claim.p_holm is None or claim.p_holm >= SIGNIFICANCE:
        return 0
    return 1 if measure.gain(claim.mean_a, claim.mean_b) > 0 else -1


def _difference(measure: Measure, claim: Claim | None) -> str:
    if claim is None:
        return MISSING
    text = f"{measure.factor * (claim.mean_a - claim.mean_b):+.2f}".replace("-", "−")
    return text if claim.p_holm is None else f"{text} ({p_value(claim.p_holm)})"


def standing_columns(results: Results) -> list[tuple[str, str, str]]:
    """A standing's cells: attribute, heading, meaning."""
    measure = main_measure(results)
    unit = ", points" if measure.share else ""
    tested = "p of a paired test, by Holm's correction for all methods"
    return [
        ("value", measure.heading, "mean ± standard deviation over the seeds"),
        ("interval", "95 % interval", "of the mean, by Student's t"),
        ("against_kd", f"− KD{unit}", f"difference from plain KD; {tested}"),
        ("against_alone", f"− alone{unit}", "difference from the student without a teacher; p likewise"),
        ("agreement", "agreement, %", "share answered as the teacher answers"),
        ("seconds", "training, s", "time to train one student"),
        ("times_alone", "× alone", "the same as a multiple of training without a teacher"),
    ]


TERMINAL = ("value", "against_kd", "against_alone", "agreement", "times_alone")
"""The columns that fit a terminal; the page has all of them."""


def methods_table(results: Results) -> Table:
    """The standings for a terminal."""
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    view.add_column("method", no_wrap=True, overflow="fold")
    shown = [column for column in standing_columns(results) if column[0] in TERMINAL]
    for _, title, _ in shown:
        view.add_column(title.replace(", ", "\n"), justify="right")
    for line in standing_table(results):
        style = {1: "bold", -1: "dim"}.get(line.sign, "")
        cells = (str(getattr(line, key)).replace(" (", "\n(") for key, _, _ in shown)
        view.add_row(Text(line.group.label), *cells, style=style)
    return view


def standings(results: Results) -> list[str]:
    """In words: which method is best, which differ from plain KD, and which from no teacher at all."""
    names = compared(results)
    measure = main_measure(results)
    groups = ranked((group for group in main_groups(results) if group.name in names), measure)
    best = groups[0]
    value, others = best.mean("metrics", measure.key), len(names) - 1
    if value is None:
        return [f"No method has a value of {measure.title}, so there is nothing to judge."]
    title = "plain KD" if best.name == BASELINE else best.name
    end = "lowest" if measure.lower else "highest"
    first = f"Of {len(names)} methods {title} has the {end} {measure.title}, {measure.text(value, 2)}"
    seeds = len(best.rows)
    if seeds == 1:
        return [f"{first}; one seed, so nothing is claimed: run at least three."]
    claim = claim_against(results, best.name, BASELINE)
    if claim is not None:
        first += f", {signed(measure, claim.mean_a - claim.mean_b)} on plain KD"
        if outcome(measure, claim) > 0 and claim.p_holm is not None:
            first += f" ({p_value(claim.p_holm)} of {others} comparisons, {seeds} seeds)"
        else:
            tested = "" if claim.p_holm is None else f"{p_value(claim.p_holm)} of {others} comparisons, "
            first += f", which is within what seeds differ by ({tested}{seeds} seeds)"
    return [f"{first}.", *_sides(results, names, BASELINE, "plain KD"), *_sides(results, names, "alone", "no teacher")]


def _sides(results: Results, names: Sequence[str], other: str, title: str) -> list[str]:
    """Which methods are better and worse than another model, beyond chance."""
    measure = main_measure(results)
    signs = {name: outcome(measure, claim_against(results, name, other)) for name in names if name != other}
    if not signs:
        return []
    better, worse = ([name for name, sign in signs.items() if sign == side] for side in (1, -1))
    if not better and not worse:
        return [f"None of {len(signs)} is told apart from {title}."]
    parts = [f"{len(side)} {word} ({_listed(side)})" for word, side in (("better", better), ("worse", worse)) if side]
    rest = "; the others are not told apart" if len(better) + len(worse) < len(signs) else ""
    return [f"Against {title}, of {len(signs)}: {' and '.join(parts)}{rest}."]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def standing_figure(results: Results) -> list[Picture]:
    """Each method's main measure with its 95 % interval, the best on top, between lines for plain KD and no teacher."""
    names = compared(results)
    measure = main_measure(results)
    groups = ranked((group for group in main_groups(results) if group.name in names), measure)
    shown = [(g, [measure.factor * value for value in g.values("metrics", measure.key)]) for g in groups]
    shown = [(group, values) for group, values in shown if values][::-1]
    if len(shown) < 2:
        return []
    alone = find(main_groups(results), "alone")
    base = alone.mean("metrics", measure.key) if alone is not None else None

    def paint(axes: Axes) -> None:
        for place, (group, values) in enumerate(shown):
            mean, bounds = mean_std(values)[0], interval(values)
            colour = colour_of(group) if group.name == BASELINE else INK
            if bounds is not None:
                axes.plot(bounds, (place, place), color=colour, linewidth=1.2)
            axes.plot(mean, place, "o", color=colour, markersize=4.5)
            if group.name == BASELINE:
                axes.axvline(mean, color=colour, linewidth=0.8)
        if alone is not None and base is not None:
            axes.axvline(measure.factor * base, color=colour_of(alone), linewidth=0.8, label="alone")
            axes.legend(loc="lower right")
        axes.set_yticks(range(len(shown)), [group.label for group, _ in shown])
        low, high = axes.get_xlim()
        if measure.share:
            low, high = max(low, -1), min(high, 101)
        axes.set(xlabel=measure.heading, xlim=(low, high), ylim=(-0.6, len(shown) - 0.4))

    text = "; ".join(f"{group.label} {mean_std(values)[0]:.2f}" for group, values in reversed(shown))
    svg = draw(paint, (4.6, 0.9 + 0.22 * len(shown)))
    return [Picture(f"{measure.name} by method", f"{measure.name} and its 95 % interval by method: {text}.", svg)]
