"""Figures: what they show, and that user text cannot break them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from limbeck.measures import MEASURES
from limbeck.report.confusion import class_lines, difference_figure, rates, top_pairs
from limbeck.report.curves import learning_curves, precision_recall, reliability
from limbeck.report.details import Details
from limbeck.report.groups import Group
from limbeck.report.svg import draw, logarithmic, with_unique_ids
from limbeck.report.tradeoffs import tradeoffs
from limbeck.results import Row

HOSTILE = ["$\\frac$", "</svg><script>alert(1)</script>", "猫\x00"]

ACCURACY = MEASURES["accuracy"]


def group(name: str, *accuracies: float, parameters: float = 100.0) -> Group:
    """A model with an accuracy a seed."""
    size = {"parameters": parameters}
    return Group(name, "last", tuple(Row(name, s, "last", {"accuracy": a}, size) for s, a in enumerate(accuracies)))


def test_confusion_rates_weigh_samples_not_seeds() -> None:
    """Counts compared between seeds or classes of unequal size."""
    details = [
        Details(classes=["a", "b"], confusion=[[8, 2], [0, 0]]),
        Details(classes=["a", "b"], confusion=[[6, 4], [0, 0]]),
    ]
    np.testing.assert_allclose(rates(details), [[70, 30], [0, 0]])
    assert rates([Details()]) is None


def test_top_pairs_are_confusions_only() -> None:
    """Right answers listed among the errors, or the direction of the difference turned round."""
    student = np.array([[60.0, 40.0, 0.0], [0.0, 90.0, 10.0], [0.0, 0.0, 100.0]])
    other = np.array([[90.0, 10.0, 0.0], [50.0, 40.0, 10.0], [0.0, 0.0, 100.0]])
    pairs = top_pairs(["a", "b", "c"], student, other)
    assert [(p.truth, p.predicted, p.difference) for p in pairs] == [("b", "a", -50.0), ("a", "b", 30.0)]
    assert (pairs[1].of_student, pairs[1].of_other) == (40.0, 10.0)


def test_better_is_blue_on_and_off_the_diagonal() -> None:
    """Fewer confusions painted as a loss."""
    blue = difference_figure("distilled", "alone", ["a", "b"], np.array([[5.0, -5.0], [0.0, 0.0]]))
    orange = difference_figure("distilled", "alone", ["a", "b"], np.array([[-5.0, 5.0], [0.0, 0.0]]))
    assert blue is not None
    assert orange is not None
    assert (blue.svg.count("var(--good)"), blue.svg.count("var(--bad)")) == (2, 0)
    assert (orange.svg.count("var(--good)"), orange.svg.count("var(--bad)")) == (0, 2)
    assert difference_figure("distilled", "alone", ["x"] * 21, np.ones((21, 21))) is None


@pytest.mark.filterwarnings("error")
def test_names_cannot_break_a_figure() -> None:
    """A class name read as mathematics or markup, or a warning for letters that the layout font lacks."""
    picture = difference_figure("distilled", "alone", HOSTILE, np.diag([1.0, -2.0, 3.0]))
    assert picture is not None
    assert "<script" not in picture.svg
    assert "$\\frac$" in picture.svg
    assert "猫" in picture.svg
    assert "\x00" not in picture.svg


def test_the_svg_stands_alone_and_follows_the_page() -> None:
    """Black text on a dark page, a reference out of the file, a fixed width on a phone, or ids that meet."""
    pictures = tradeoffs([group("teacher", 0.9), group("distilled", 0.8, 0.82, parameters=10.0)], ACCURACY)
    assert [p.title for p in pictures] == ["Accuracy against parameters"]
    svg = pictures[0].svg
    assert svg.startswith("<svg")
    assert "http" not in svg
    assert 'viewBox="' in svg.split(">")[0]
    assert " width=" not in svg.split(">")[0]
    assert "var(--ink)" in svg
    assert not re.search(r"#[0-9a-f]{6}", svg), "a colour that the style sheet does not know"
    first, second = with_unique_ids(svg, "f1"), with_unique_ids(svg, "f2")
    ids = [set(re.findall(r'\bid="([^"]+)"', s)) for s in (first, second)]
    assert not ids[0] & ids[1]
    referred = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', first))
    assert referred
    assert {a or b for a, b in referred} <= ids[0]


def test_the_same_input_gives_the_same_text() -> None:
    """A report that differs each time it is written, so that nobody can compare two."""
    groups = [group("teacher", 0.9), group("distilled", 0.8, parameters=10.0)]
    assert tradeoffs(groups, ACCURACY) == tradeoffs(groups, ACCURACY)


def test_tradeoffs_want_two_models() -> None:
    """An empty figure where a size or a latency was not measured."""
    assert tradeoffs([group("teacher", 0.9)], ACCURACY) == []


def test_logarithmic_labels_are_plain() -> None:
    """`$\\mathdefault{10^{1}}$` beside the axis."""
    svg = draw(lambda axes: (axes.plot([1, 1000], [0.01, 2]), logarithmic(axes, "x"), logarithmic(axes, "y"))[0])
    assert "math" not in svg
    assert ">100<" in svg


def test_learning_curves_average_the_seeds() -> None:
    """The last seed shown for all; a step that has no evaluation breaking the curve; terms of nobody."""
    seeds = [
        Details(history=[{"step": 1, "loss": 2.0, "term/kd": 1.0}, {"step": 2, "loss": end, "eval_accuracy": 0.5}])
        for end in (1.0, 3.0)
    ]
    (picture,) = learning_curves([(group("distilled", 0.5, 0.5), seeds)], ACCURACY)
    assert picture.title == "Loss"
    assert picture.text == "Loss over the training steps: distilled ends at 2."
    assert learning_curves([(group("distilled", 0.5), [Details()])], ACCURACY) == []


def test_curves_leave_out_what_is_missing() -> None:
    """A crash on rows without curves."""
    found = [(group("teacher", 0.5), []), (group("distilled", 0.5), [Details()])]
    assert precision_recall(found) == []
    assert reliability(found) == []
    assert class_lines(found) == ([], [])


def test_the_worst_classes_come_first() -> None:
    """The best classes shown as the worst; a class that only one model kept."""

    def curve(precision: float) -> dict[str, list[float]]:
        return {"recall": [0.0, 1.0], "precision": [1.0, precision]}

    curves = {"micro": curve(0.5), "per_class": {"good": curve(0.9), "bad": curve(0.1), "single": curve(0.0)}}
    fewer = {"micro": curve(0.5), "per_class": {"good": curve(0.9), "bad": curve(0.8)}}
    found = [
        (group("alone", 0.5), [Details.model_validate({"pr_curves": fewer})]),
        (group("distilled", 0.5), [Details.model_validate({"pr_curves": curves})]),
    ]
    pictures = precision_recall(found)
    assert [p.title for p in pictures] == ["All classes", "bad", "good"]
    assert "alone 0.800; distilled 0.100" in pictures[1].text


def test_class_lines_average_seeds_and_compare_with_alone() -> None:
    """The difference taken against the teacher, or with its sign turned."""

    def details(*f1: float) -> Details:
        return Details.model_validate({"classes": ["a", "b"], "per_class": {"f1": f1, "support": [3, 4]}})

    groups, lines = class_lines(
        [
            (group("teacher", 0.9), [details(0.9, 0.9)]),
            (group("alone", 0.5), [details(0.5, 0.6)]),
            (group("distilled", 0.5), [details(0.6, 0.4), details(0.8, 0.4)]),
        ]
    )
    assert [g.name for g in groups] == ["teacher", "alone", "distilled"]
    assert [(line.name, line.support) for line in lines] == [("a", 3), ("b", 4)]
    assert lines[0].f1 == pytest.approx((90, 50, 70))
    assert [line.difference for line in lines] == pytest.approx([20, -20])
