"""The report: one HTML file that opens offline, from the rows of a run and the details beside them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from limbeck.files import write_text
from limbeck.report.agreement import agreement_curves, agreement_sentences, agreements
from limbeck.report.breakdown import breakdown_table
from limbeck.report.confusion import Pair, class_lines, difference_figure, rates, top_pairs
from limbeck.report.curves import learning_curves, precision_recall, reliability
from limbeck.report.details import Book, Details
from limbeck.report.groups import Group, compared, main_groups, pictured_groups
from limbeck.report.methods import standing_columns, standing_figure, standing_table
from limbeck.report.roc import roc_curves
from limbeck.report.shipping import shipping
from limbeck.report.svg import Picture, with_unique_ids
from limbeck.report.table import scaled, table
from limbeck.report.tradeoffs import COSTS, TRAINING, tradeoffs
from limbeck.report.verdict import alone_of, claim_for, teacher_of, verdict
from limbeck.report.words import SIGNIFICANCE, main_measure, p_value, signed
from limbeck.results import Results

Found = list[tuple[Group, list[Details]]]


@dataclass(frozen=True, slots=True)
class Tile:
    """A number that a reader looks for first."""

    heading: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Change:
    """How the student's confusions differ from another model's: a figure, or a table of the top pairs."""

    other: str
    picture: Picture | None
    pairs: list[Pair]


def write(results: Results, folder: Path, path: Path) -> None:
    """Writes the report to `path`, whole or not at all; arguments as in `render`."""
    write_text(path, render(results, folder))


def render(results: Results, folder: Path) -> str:
    """The report as one HTML page without scripts, links or network.

    `folder` is where the run's `results.json` lies: rows name their details relative to it, and
    `details/examples.json` may hold pictures. What a run did not measure is left out. The same input gives
    the same page. Raises LimbeckError where a details file is there and broken.
    """
    groups = pictured_groups(results)
    methods, measure = compared(results), main_measure(results)
    book = Book(folder)
    found: Found = [(group, book.of(group)) for group in groups]
    columns, lines = table(results)
    pictured = {group.name: group.hue for group in groups}
    lines = [
        replace(line, group=replace(line.group, hue=pictured[line.group.name]))
        for line in lines
        if line.group.name in pictured
    ]
    # Which classes are worst is said of the distilled student, and there are several.
    curves = precision_recall(found, 0) if methods else precision_recall(found)
    class_groups, classes = class_lines(found)
    context = {
        "title": str(results.recipe.get("name") or "A distilled model"),
        "seeds": sorted({row.seed for row in results.rows}),
        "verdicts": verdict(results),
        "tiles": _tiles(results, groups),
        "standings": standing_table(results),
        "standing_columns": standing_columns(results),
        "standing_figure": standing_figure(results),
        "others": len(main_groups(results)) - len(groups),
        "columns": columns,
        "lines": lines,
        # Methods of one student differ in what training costs, and in nothing else.
        "measure": measure.title,
        "shipping": shipping(results),
        "tradeoffs": tradeoffs(groups, measure, [TRAINING] if methods else COSTS),
        "measured_on": _measured_on(groups),
        "learning": learning_curves(found, measure),
        "agreements": agreements(found),
        "agreement_curves": agreement_curves(found),
        "agreement_sentences": agreement_sentences(agreements(found)),
        "curves": curves[:1],
        "class_curves": curves[1:],
        "reliability": reliability(found),
        "roc": roc_curves(found),
        "changes": _changes(found),
        "class_groups": class_groups,
        "classes": classes,
        "breakdown": breakdown_table(found),
        "examples": book.examples(),
        "notes": results.notes,
        "missing": book.missing,
        "recipe": _yaml(results),
        "versions": results.versions,
    }
    page = page_environment().get_template("template.html.j2")
    return page.render(context)


def page_environment() -> Environment:
    """Templates of this folder, in which figures lie inline, each with ids of its own."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = itertools.count(1)

    def inline(picture: Picture) -> Markup:
        # Safe as markup: matplotlib made it and escapes the text it was given.
        return Markup(with_unique_ids(picture.svg, f"f{next(numbers)}"))

    environment.filters["inline"] = inline
    environment.filters["glue"] = _glue
    return environment


def _glue(sentence: str) -> str:
    """Keeps a number on the line of its unit or its symbol."""
    return re.sub(r"(?<=[\d=<]) (?=[%\d])|(?<=\d) (?=points|seeds)|(?<=\bp) (?=[=<])", "\u00a0", sentence)


def _tiles(results: Results, groups: list[Group]) -> list[Tile]:
    """What the first distilled student scores and costs, against its teacher and against itself alone."""
    student = next((group for group in groups if group.role == "distilled"), None)
    if student is None:
        return []
    teacher = teacher_of(groups, student)
    tiles = []
    measure = main_measure(results)
    value = student.mean("metrics", measure.key)
    reference = teacher.mean("metrics", measure.key) if teacher else None
    if value is not None:
        note = "" if reference is None else f"teacher {measure.text(reference)}"
        tiles.append(Tile(measure.name, measure.text(value), note))
    claim = claim_for(results, student)
    alone = alone_of(groups, student)
    base = alone.mean("metrics", measure.key) if alone else None
    if claim is not None:
        seeds = f"{claim.seeds} seeds" if claim.seeds != 1 else "one seed"
        tested = "nothing claimed" if claim.p is None else p_value(claim.p)
        if claim.p is not None and claim.p >= SIGNIFICANCE:
            tested += ", not significant"
        tiles.append(Tile("Against alone", signed(measure, claim.mean_a - claim.mean_b), f"{tested}, {seeds}"))
    elif value is not None and base is not None:
        tiles.append(Tile("Against alone", signed(measure, value - base), "nothing claimed"))
    parameters = student.mean("size", "parameters")
    if parameters is not None:
        large = teacher.mean("size", "parameters") if teacher else None
        tiles.append(Tile("Parameters", scaled(parameters), _ratio(large, parameters, "fewer", "more")))
    latency = student.mean("latency", "p50")
    if latency is not None:
        slow = teacher.mean("latency", "p50") if teacher else None
        tiles.append(Tile("Latency", f"{latency:.3g} ms", _ratio(slow, latency, "faster", "slower")))
    return tiles


def _ratio(teacher: float | None, student: float, less: str, more: str) -> str:
    if not teacher or not student:
        return ""
    if teacher == student:
        return "as the teacher"
    if teacher > student:
        return f"{teacher / student:.1f} × {less} than the teacher"
    return f"{student / teacher:.1f} × {more} than the teacher"


def _measured_on(groups: list[Group]) -> str:
    """What latencies say of themselves: runtime, device, precision, and whether one of them is unsteady."""
    found = [row.latency for group in groups for row in group.rows]
    where = dict.fromkeys(str(each[key]) for each in found for key in ("runtime", "device", "precision") if key in each)
    unsteady = next((str(each[key]) for each in found for key in ("unsteady", "refused") if key in each), "")
    return ", ".join(where) + (f". Some are unsteady: {unsteady}" if unsteady and where else "")


def _changes(found: Found) -> list[Change]:
    """The distilled student's confusions against those of the same student alone, and of the teacher."""
    groups = [group for group, _ in found]
    student = next((group for group in groups if group.role == "distilled"), None)
    if student is None:
        return []
    others = [alone_of(groups, student), teacher_of(groups, student)]
    details = {group.name: of_group for group, of_group in found}
    of_student, names = rates(details[student.name]), _classes(details[student.name])
    changes = []
    for other in others:
        of_other = rates(details[other.name]) if other else None
        if other is None or of_student is None or of_other is None or names != _classes(details[other.name]):
            continue
        picture = difference_figure(student.label, other.label, names, of_student - of_other)
        pairs = [] if picture else top_pairs(names, of_student, of_other)
        if picture or pairs:
            changes.append(Change(other.label, picture, pairs))
    return changes


def _classes(details: Sequence[Details]) -> list[str]:
    return details[0].classes if details else []


def _yaml(results: Results) -> str:
    # Through JSON, which a recipe is stored as, so that it reads the same from memory and from disk.
    plain = json.loads(json.dumps(results.recipe, default=str))
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)).strip()
