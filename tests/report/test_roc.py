"""ROC curves in the report."""

from __future__ import annotations

import pytest

from limbeck.report.details import Details
from limbeck.report.groups import Group
from limbeck.report.roc import roc_curves
from limbeck.results import Row


def group(name: str) -> Group:
    return Group(name, "last", (Row(name, 0, "last", {}),))


@pytest.mark.filterwarnings("error")
def test_each_model_has_its_curve() -> None:
    """A model under another's name or colour, or a curve for those that have none."""
    curve = {"far": [0.002, 0.1, 1.0], "tar": [0.4, 0.8, 1.0]}
    found = [
        (group("teacher"), [Details.model_validate({"roc": curve})]),
        (group("distilled"), [Details.model_validate({"roc": {**curve, "tar": [0.25, 0.7, 1.0]}})]),
        (group("alone"), [Details()]),
        (group("distilled@other"), []),
    ]
    (picture,) = roc_curves(found)
    assert picture.text.endswith("can tell, 0.002: teacher 0.400; distilled 0.250.")
    assert "var(--teacher)" in picture.svg
    assert "var(--distilled)" in picture.svg
    assert "var(--alone)" not in picture.svg
    assert roc_curves([(group("alone"), [Details()])]) == []
