"""Do the terms agree: what is read from the histories, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.files import write_json
from limbeck.report import render
from limbeck.report.agreement import agreement_curves, agreement_sentences, agreements
from limbeck.report.details import Details
from limbeck.report.groups import Group
from limbeck.results import Results, Row


def group(name: str) -> Group:
    return Group(name, "last", (Row(name, 0, "last", {"accuracy": 0.5}),))


def history(*cosines: float | None, term: str = "kd") -> list[dict[str, float | None]]:
    """Entries as a training logs them: losses, and probes of their own."""
    probes = [
        {"step": 10.0 * at, f"gradient/cosine/{term}": cosine, f"gradient/norm/{term}": 2.0, "gradient/norm/hard": 1.0}
        for at, cosine in enumerate(cosines, 1)
    ]
    return [{"step": 5.0, "loss": 1.0, f"term/{term}": 0.5}, *probes]


def test_probes_of_all_seeds_count_alike() -> None:
    """The last seed alone; shares of entries instead of probes; a probe without a cosine counted as one against."""
    details = [Details(history=history(-0.5, 0.5, None)), Details(history=history(-1.0, -0.2))]
    (line,) = agreements([(group("teacher"), []), (group("distilled"), details)])
    assert (line.model, line.term, line.probes) == ("distilled", "kd", 4)
    assert line.cosine == pytest.approx(-0.3)
    assert line.against == 0.75
    assert line.norm == 2.0


def test_a_term_that_pulls_against_the_labels_is_named() -> None:
    """A warning at exactly half, from two probes, or for a term that agrees."""

    def said(*cosines: float) -> list[str]:
        return agreement_sentences(agreements([(group("distilled"), [Details(history=history(*cosines))])]))

    assert said(-0.1, -0.1, -0.1, 0.9)[0].startswith(
        "In distilled, the term “kd” pulls against the labels: in 75 % of the probes its gradient points away from "
        "theirs (cosine +0.15 on average)."
    )
    for fine in ((-0.1, -0.1, 0.1, 0.9), (0.5, 0.2, 0.1, 0.3), (-0.1, -0.2)):
        assert said(*fine) == ["No term pulls against the labels in more than half of the probes."]
    assert agreement_sentences([]) == []


def test_curves_have_a_line_a_term() -> None:
    """Terms of one model drawn over each other in one colour, or a figure of one point."""
    both = [{**one, **other} for one, other in zip(history(0.1, 0.2), history(-0.1, -0.3, term="a-hint"), strict=True)]
    (picture,) = agreement_curves([(group("distilled"), [Details(history=both)])])
    assert picture.title == "Gradients, distilled"
    assert picture.text.endswith("on average: kd +0.15; a-hint −0.20.")
    assert "var(--distilled)" in picture.svg
    assert "var(--alone)" in picture.svg
    assert ">a-hint<" in picture.svg
    assert agreement_curves([(group("distilled"), [Details(history=history(0.1))])]) == []


def test_the_page_has_the_section_where_there_were_probes(tmp_path: Path) -> None:
    """A heading without content in every older run, or probes that never reach the reader."""
    rows = [Row("distilled", 0, "last", {"accuracy": 0.5}, details="details/d.json")]
    write_json(tmp_path / "details" / "d.json", {"history": history(-0.5, -0.2, -0.1, -0.4)})
    page = render(Results({}, {}, rows), tmp_path)
    assert "Do the terms agree?" in page
    assert "pulls against the labels" in page
    assert '<td class="down">100</td>' in page
    write_json(tmp_path / "details" / "d.json", {"history": [{"step": 1, "loss": 1.0}]})
    assert "Do the terms agree?" not in render(Results({}, {}, rows), tmp_path)
