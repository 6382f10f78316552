"""ROC curves: true accepts against false accepts."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from limbeck.report.details import Details
from limbeck.report.groups import Group
from limbeck.report.svg import Picture, colour_of, draw, logarithmic


def roc_curves(found: Sequence[tuple[Group, list[Details]]]) -> list[Picture]:
    """The share of pairs of one person that is accepted, over the share of pairs of two; first seeds."""
    curves = [(group, details[0].roc) for group, details in found if details]
    lines = [(group, curve) for group, curve in curves if curve is not None and curve.far]
    if not lines:
        return []

    def paint(axes: Axes) -> None:
        for group, curve in lines:
            axes.step(curve.far, curve.tar, where="post", color=colour_of(group), label=group.label)
        logarithmic(axes, "x")
        axes.set(ylim=(0, 1.02), xlabel="false accept rate", ylabel="true accept rate")
        axes.legend(loc="lower right")

    least = min(curve.far[0] for _, curve in lines)
    starts = "; ".join(f"{group.label} {curve.tar[0]:.3f}" for group, curve in lines)
    text = f"True accept rate over false accept rate. At the least rate that the pairs can tell, {least:.2g}: {starts}."
    return [Picture("ROC", text, draw(paint))]
