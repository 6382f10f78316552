"""The verdict's sentences, for every way a comparison can end."""

from __future__ import annotations

import pytest

from limbeck.report import verdict
from limbeck.results import Claim, Results, Row

PARAMETERS = {"teacher": 1000.0, "alone": 120.0, "distilled": 120.0}


def results(claims: list[Claim], **accuracies: list[float]) -> Results:
    """Rows by name (`__` for the `@` of a setting), one accuracy a seed."""
    rows = []
    for name, values in accuracies.items():
        name = name.replace("__", "@")
        size = {"parameters": PARAMETERS[name.partition("@")[0]]}
        rows += [Row(name, seed, "last", {"accuracy": value}, size) for seed, value in enumerate(values)]
    return Results({}, {}, rows, claims)


def claim(a: float, b: float, p: float | None, seeds: int = 5, setting: str = "") -> Claim:
    """A claim about accuracy."""
    return Claim("accuracy", f"distilled{setting}", f"alone{setting}", a, b, 0.01, 0.01, p, seeds)


def test_better() -> None:
    """A claim that swaps who beat whom, or percent with points."""
    found = results([claim(0.891, 0.859, 0.0041)], teacher=[0.9], alone=[0.859] * 5, distilled=[0.891] * 5)
    assert verdict(found) == [
        "The distilled student keeps 99.0 % of the teacher's accuracy at 12 % of its parameters, and beats the same "
        "student trained alone by 3.2 points (p = 0.004, 5 seeds)."
    ]


@pytest.mark.parametrize(
    ("a", "b", "p", "ending"),
    [
        (0.85, 0.862, 0.03, "distilling hurt: it is 1.2 points below the same student trained alone (p = 0.030"),
        (0.86, 0.85, 0.31, "distilling did not help: +1.0 points against the same student trained alone is within"),
        (0.85, 0.86, 0.31, "distilling did not help: −1.0 points against the same student trained alone is within"),
        (0.86, 0.85, 0.05, "distilling did not help"),
        (0.8504, 0.85, 0.2, "+0.04 points"),
        (0.86, 0.85, 1e-9, "(p < 0.001, 5 seeds)"),
    ],
)
def test_worse_or_not_significant_is_said_plainly(a: float, b: float, p: float, ending: str) -> None:
    """A run that hides that distilling did not help."""
    (sentence,) = verdict(results([claim(a, b, p)], teacher=[0.9], alone=[b] * 5, distilled=[a] * 5))
    assert ending in sentence
    assert ("beats" in sentence) == (p < 0.05 and a > b)


@pytest.mark.parametrize("claims", [[], [claim(0.9, 0.8, None, seeds=1)]])
def test_one_seed_claims_nothing(claims: list[Claim]) -> None:
    """Luck of one seed reported as a gain."""
    (sentence,) = verdict(results(claims, teacher=[0.9], alone=[0.8], distilled=[0.9]))
    assert sentence.endswith(
        "; one seed, so nothing is claimed for distilling (+10.0 points against the same student trained alone): "
        "run at least three."
    )


def test_seeds_without_a_p_value_claim_nothing() -> None:
    """p = None printed, or read as significant."""
    (sentence,) = verdict(results([claim(0.9, 0.8, None)], teacher=[0.9], alone=[0.8] * 5, distilled=[0.9] * 5))
    assert "all seeds differ by the same amount, so nothing is claimed" in sentence
    (sentence,) = verdict(results([], teacher=[0.9], alone=[0.8] * 5, distilled=[0.9] * 5))
    assert "nothing is claimed for distilling, as the seeds were not compared (+10.0 points" in sentence


def test_without_a_teacher_or_alone() -> None:
    """A crash on a run that lacks a row, or a claim without its baseline."""
    (sentence,) = verdict(results([claim(0.9, 0.8, 0.01)], alone=[0.8] * 5, distilled=[0.9] * 5))
    assert sentence.startswith("The distilled student has an accuracy of 90.0 %, and beats")
    (sentence,) = verdict(results([], teacher=[0.9], distilled=[0.9]))
    assert "not compared with the same student trained alone, so nothing is claimed" in sentence
    assert verdict(results([], teacher=[0.9])) == ["No distilled model was measured, so there is nothing to judge."]
    nothing = Results({}, {}, [Row("distilled", 0, "last", {})])
    assert verdict(nothing) == ["The distilled student has no accuracy, so there is nothing to judge."]


def test_a_sentence_for_each_setting() -> None:
    """One setting's gain read as the other's."""
    found = results(
        [claim(0.95, 0.94, 0.4, setting="@all"), claim(0.9, 0.8, 0.01)],
        teacher=[0.9],
        alone=[0.8] * 5,
        distilled=[0.9] * 5,
        alone__all=[0.94] * 5,
        distilled__all=[0.945] * 5,
    )
    first, second = verdict(found)
    assert "beats the same student trained alone by 10.0 points" in first
    assert second.startswith("In the setting “all”, the distilled student reaches 105.0 % of the teacher's accuracy")
    assert "did not help: +1.0 points" in second


def test_the_last_checkpoint_is_judged() -> None:
    """The better of two checkpoints picked for the headline."""
    rows = [
        Row("teacher", 0, "last", {"accuracy": 1.0}),
        Row("distilled", 0, "selected", {"accuracy": 0.9}),
        Row("distilled", 0, "last", {"accuracy": 0.8}),
    ]
    assert "keeps 80.0 %" in verdict(Results({}, {}, rows))[0]
