"""What the numbers say about distilling, in a sentence a setting."""

from __future__ import annotations

from limbeck.measures import Measure
from limbeck.report.groups import Group, compared, find, main_groups
from limbeck.report.methods import standings
from limbeck.report.words import SIGNIFICANCE, amount, main_measure, p_value, percent, signed
from limbeck.results import Claim, Results


def verdict(results: Results) -> list[str]:
    """One sentence for each setting with a distilled model; the recipe's own setting first.

    Claims are read as of the last checkpoint. Better or worse is said only where the claim's p is below 0.05;
    otherwise the sentence says that distilling did not help, or that nothing is claimed, and why. Of a comparison of
    methods it says which is best, and which differ from plain KD.
    """
    if compared(results):
        return standings(results)
    groups = main_groups(results)
    students = [group for group in groups if group.generation]
    if not students:
        return ["No distilled model was measured, so there is nothing to judge."]
    return [_sentence(results, groups, student) for student in students]


def claim_for(results: Results, student: Group) -> Claim | None:
    """The comparison of a distilled student with the same student trained alone, if the run made one."""
    alone = (f"alone@{student.setting}", "alone")
    key = main_measure(results).key
    return next((c for c in results.claims if (c.metric, c.a) == (key, student.name) and c.b in alone), None)


def teacher_of(groups: list[Group], student: Group) -> Group | None:
    """The teacher of the student's setting, or the one teacher of all settings."""
    return find(groups, "teacher", student.setting) or find(groups, "teacher")


def alone_of(groups: list[Group], student: Group) -> Group | None:
    """The student alone in a setting, or the one of the first setting where that is the same."""
    return find(groups, "alone", student.setting) or find(groups, "alone")


def _sentence(results: Results, groups: list[Group], student: Group) -> str:
    subject = "the distilled student" + (f" of generation {student.generation}" if student.generation > 1 else "")
    subject = f"In the setting “{student.setting}”, {subject}" if student.setting else subject.capitalize()
    measure = main_measure(results)
    value = student.mean("metrics", measure.key)
    if value is None:
        return f"{subject} has no {measure.title}, so there is nothing to judge."
    alone = alone_of(groups, student)
    kept = _kept(measure, value, student, teacher_of(groups, student))
    return f"{subject} {kept}{_outcome(measure, value, alone, claim_for(results, student))}"


def _kept(measure: Measure, value: float, student: Group, teacher: Group | None) -> str:
    reference = teacher.mean("metrics", measure.key) if teacher else None
    if teacher is None or not reference:
        return f"has {'an' if measure.title[0] in 'aeiouF' else 'a'} {measure.title} of {measure.text(value)}"
    if measure.share:
        share = value / reference
        text = f"{'keeps' if share <= 1 else 'reaches'} {100 * share:.1f} % of the teacher's {measure.title}"
    else:
        text = f"has {measure.title} {measure.text(value)}, the teacher {measure.text(reference)},"
    small, large = student.mean("size", "parameters"), teacher.mean("size", "parameters")
    if small is not None and large:
        text += f" at {percent(small / large)} of its parameters"
    return text


def _outcome(measure: Measure, value: float, alone: Group | None, claim: Claim | None) -> str:
    if alone is None and claim is None:
        return "; it was not compared with the same student trained alone, so nothing is claimed for distilling."
    if claim is None or claim.p is None:
        return _no_claim(measure, value, alone, claim)
    difference = claim.mean_a - claim.mean_b
    test = f"({p_value(claim.p)}, {claim.seeds} seeds)"
    if claim.p >= SIGNIFICANCE:
        return (
            f", but distilling did not help: {signed(measure, difference)} against the same student trained "
            f"alone is within what seeds differ by {test}."
        )
    if measure.gain(claim.mean_a, claim.mean_b) > 0:
        return f", and beats the same student trained alone by {amount(measure, difference)} {test}."
    side = "above" if measure.lower else "below"
    return f", but distilling hurt: it is {amount(measure, difference)} {side} the same student trained alone {test}."


def _no_claim(measure: Measure, value: float, alone: Group | None, claim: Claim | None) -> str:
    against = claim.mean_b if claim else alone.mean("metrics", measure.key) if alone else None
    seeds = claim.seeds if claim else len(alone.rows) if alone else 0
    mean = claim.mean_a if claim else value
    seen = "" if against is None else f" ({signed(measure, mean - against)} against the same student trained alone)"
    if seeds <= 1:
        return f"; one seed, so nothing is claimed for distilling{seen}: run at least three."
    if claim is None:
        return f"; nothing is claimed for distilling, as the seeds were not compared{seen}."
    return f"; all seeds differ by the same amount, so nothing is claimed for distilling{seen}: run more seeds."
