"""Whether the terms of an objective agree: where their gradients point, beside that of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from limbeck.report.curves import DASHES, Histories, over_seeds
from limbeck.report.details import Details
from limbeck.report.groups import Group
from limbeck.report.svg import ALONE, DISTILLED, INK, OTHERS, Picture, draw, short

COSINE, NORM = "gradient/cosine/", "gradient/norm/"
COLOURS = (DISTILLED, ALONE, *OTHERS)
AGAINST = 0.5
"""The share of probes with a cosine below 0 from which on a term is said to pull against the labels."""
FEWEST_PROBES = 4


@dataclass(frozen=True, slots=True)
class Agreement:
    """A term's gradient in the student over a training, all probes of all seeds: the mean cosine with the labels'
    gradient, the share of probes (0 to 1) in which it is below 0, and the mean norm before the term's weight."""

    model: str
    term: str
    cosine: float
    against: float
    norm: float | None
    probes: int

    @property
    def pulls_against(self) -> bool:
        """Whether the term works against the labels more often than not."""
        return self.against > AGAINST and self.probes >= FEWEST_PROBES


def agreements(found: Sequence[tuple[Group, list[Details]]]) -> list[Agreement]:
    """Each term of each model whose gradients were compared with those of its labels."""
    lines = []
    for group, histories in _histories(found):
        for term in _terms(histories):
            cosines, norms = (_values(histories, kind + term) for kind in (COSINE, NORM))
            lines.append(
                Agreement(
                    group.label,
                    term,
                    float(np.mean(cosines)),
                    float(np.mean([value < 0 for value in cosines])),
                    float(np.mean(norms)) if norms else None,
                    len(cosines),
                )
            )
    return lines


def agreement_curves(found: Sequence[tuple[Group, list[Details]]]) -> list[Picture]:
    """The cosines over the steps, a picture a model and a line a term: the mean of the seeds and their range."""
    pictures = [_picture(group, histories) for group, histories in _histories(found)]
    return [picture for picture in pictures if picture is not None]


def agreement_sentences(lines: Sequence[Agreement]) -> list[str]:
    """What a reader should know of it: a sentence for each term that pulls against the labels, or that none does."""
    against = [
        f"In {line.model}, the term “{line.term}” pulls against the labels: in {100 * line.against:.0f} % of the "
        f"probes its gradient points away from theirs (cosine {_signed(line.cosine)} on average). Where the student is "
        "no better for it, try a smaller weight, or one that ends before the training does."
        for line in lines
        if line.pulls_against
    ]
    return against or (["No term pulls against the labels in more than half of the probes."] if lines else [])


def _signed(cosine: float) -> str:
    return f"{cosine:+.2f}".replace("-", "−")


def _histories(found: Sequence[tuple[Group, list[Details]]]) -> list[tuple[Group, Histories]]:
    both = ((group, [each.history for each in details if each.history]) for group, details in found)
    return [(group, histories) for group, histories in both if _terms(histories)]


def _terms(histories: Histories) -> list[str]:
    """The terms of which there is a cosine."""
    keys = dict.fromkeys(key for history in histories for entry in history for key in entry)
    names = [key.removeprefix(COSINE) for key in keys if key.startswith(COSINE)]
    return [name for name in names if _values(histories, COSINE + name)]


def _values(histories: Histories, key: str) -> list[float]:
    found = (entry.get(key) for history in histories for entry in history)
    return [value for value in found if value is not None and np.isfinite(value)]


def _picture(group: Group, histories: Histories) -> Picture | None:
    lines = [(term, *over_seeds(histories, COSINE + term)) for term in _terms(histories)]
    lines = [line for line in lines if len(line[1]) > 1]
    if not lines:
        return None

    def paint(axes: Axes) -> None:
        axes.axhline(0.0, color=INK, linewidth=1, linestyle=":")
        for index, (term, steps, mean, low, high) in enumerate(lines):
            colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
            axes.plot(steps, mean, dash, color=colour, label=short(term, 24))
            axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.set(ylim=(-1.05, 1.05), xlabel="step", ylabel="cosine with the labels' gradient")
        axes.margins(x=0.02)
        axes.legend()

    means = "; ".join(f"{term} {_signed(float(np.mean(_values(histories, COSINE + term))))}" for term, *_ in lines)
    text = f"Cosine of each term's gradient with that of the labels in {group.label}, on average: {means}."
    return Picture(f"Gradients, {group.label}", text, draw(paint))
