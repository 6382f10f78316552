"""What the numbers say about distilling, in a sentence a setting."""

from __future__ import annotations

from limbeck.report.groups import Group, compared, find, main_groups
from limbeck.report.methods import standings
from limbeck.report.words import SIGNIFICANCE, p_value, percent, points, signed_points
from limbeck.results import Claim, Results

METRIC = "accuracy"


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
    alone = f"alone@{student.setting}" if student.setting else "alone"
    found = (c for c in results.claims if (c.metric, c.a, c.b) == (METRIC, student.name, alone))
    return next(found, None)


def teacher_of(groups: list[Group], student: Group) -> Group | None:
    """The teacher of the student's setting, or the one teacher of all settings."""
    return find(groups, "teacher", student.setting) or find(groups, "teacher")


def _sentence(results: Results, groups: list[Group], student: Group) -> str:
    subject = "the distilled student" + (f" of generation {student.generation}" if student.generation > 1 else "")
    subject = f"In the setting “{student.setting}”, {subject}" if student.setting else subject.capitalize()
    accuracy = student.mean("metrics", METRIC)
    if accuracy is None:
        return f"{subject} has no {METRIC}, so there is nothing to judge."
    alone = find(groups, "alone", student.setting)
    kept = _kept(accuracy, student, teacher_of(groups, student))
    return f"{subject} {kept}{_outcome(accuracy, alone, claim_for(results, student))}"


def _kept(accuracy: float, student: Group, teacher: Group | None) -> str:
    reference = teacher.mean("metrics", METRIC) if teacher else None
    if teacher is None or not reference:
        return f"has an {METRIC} of {100 * accuracy:.1f} %"
    share = accuracy / reference
    text = f"{'keeps' if share <= 1 else 'reaches'} {100 * share:.1f} % of the teacher's {METRIC}"
    small, large = student.mean("size", "parameters"), teacher.mean("size", "parameters")
    if small is not None and large:
        text += f" at {percent(small / large)} of its parameters"
    return text


def _outcome(accuracy: float, alone: Group | None, claim: Claim | None) -> str:
    if alone is None and claim is None:
        return "; it was not compared with the same student trained alone, so nothing is claimed for distilling."
    if claim is None or claim.p is None:
        return _no_claim(accuracy, alone, claim)
    difference = claim.mean_a - claim.mean_b
    test = f"({p_value(claim.p)}, {claim.seeds} seeds)"
    if claim.p >= SIGNIFICANCE:
        return (
            f", but distilling did not help: {signed_points(difference)} against the same student trained "
            f"alone is within what seeds differ by {test}."
        )
    if difference > 0:
        return f", and beats the same student trained alone by {points(difference)} {test}."
    return f", but distilling hurt: it is {points(difference)} below the same student trained alone {test}."


def _no_claim(accuracy: float, alone: Group | None, claim: Claim | None) -> str:
    against = claim.mean_b if claim else alone.mean("metrics", METRIC) if alone else None
    seeds = claim.seeds if claim else len(alone.rows) if alone else 0
    mean = claim.mean_a if claim else accuracy
    seen = "" if against is None else f" ({signed_points(mean - against)} against the same student trained alone)"
    if seeds <= 1:
        return f"; one seed, so nothing is claimed for distilling{seen}: run at least three."
    if claim is None:
        return f"; nothing is claimed for distilling, as the seeds were not compared{seen}."
    return f"; all seeds differ by the same amount, so nothing is claimed for distilling{seen}: run more seeds."
