"""Curves: learning, precision against recall, and reliability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from limbeck.measures import MEASURES, Measure
from limbeck.report.details import Curve, Details, Reliability
from limbeck.report.groups import Group
from limbeck.report.svg import INK, SMALL, Picture, colour_of, draw, logarithmic, short

DASHES = ("-", "--", ":", "-.")
LOG_SPAN = 50.0
POINTS = 150
WORST = 6
FEWEST_SAMPLES = 10

Histories = list[list[dict[str, float | None]]]


def learning_curves(found: Sequence[tuple[Group, list[Details]]], measure: Measure) -> list[Picture]:
    """A measure of validation, the loss, and each term over the steps: the mean of the seeds and their range."""
    histories = [(group, [d.history for d in details if d.history]) for group, details in found]
    keys = dict.fromkeys(key for _, seeds in histories for seed in seeds for entry in seed for key in entry)
    # Where a training was not evaluated by what decides, which may take long, another measure must do.
    evaluated = [each for each in (measure, *MEASURES.values()) if f"eval_{each.key}" in keys]
    measure = evaluated[0] if evaluated else measure
    terms = [key for key in keys if key.startswith("term/")]
    pictures = []
    for key in [f"eval_{measure.key}", "loss", *terms]:
        if key in keys:
            picture = _learning_curve(key, histories, measure)
            if picture is not None:
                pictures.append(picture)
    return pictures


def _learning_curve(key: str, histories: list[tuple[Group, Histories]], measure: Measure) -> Picture | None:
    lines = [(group, *over_seeds(seeds, key)) for group, seeds in histories]
    lines = [line for line in lines if len(line[1]) > 1]
    if not lines:
        return None
    evaluated = key == f"eval_{measure.key}"
    scale = measure.factor if evaluated else 1.0
    name = (
        f"Evaluation {measure.title}"
        if evaluated
        else "Loss"
        if key == "loss"
        else f"Term “{key.removeprefix('term/')}”"
    )

    def paint(axes: Axes) -> None:
        for group, steps, mean, low, high in lines:
            colour = colour_of(group)
            axes.plot(
                steps,
                scale * mean,
                _dash(group, [line[0] for line in lines]),
                color=colour,
                label=group.label,
            )
            axes.fill_between(steps, scale * low, scale * high, color=colour, alpha=0.18, linewidth=0)
        lowest = min(float(line[3].min()) for line in lines)
        highest = max(float(line[4].max()) for line in lines)
        if not evaluated and lowest > 0 and highest / lowest > LOG_SPAN:
            logarithmic(axes, "y")
        axes.set_xlabel("step")
        axes.set_ylabel(measure.heading if evaluated else "before its weight" if key != "loss" else "loss")
        axes.margins(x=0.02)
        if evaluated and measure.share:
            axes.set_ylim(top=min(axes.get_ylim()[1], 101.0))
        axes.legend()

    ends = "; ".join(f"{line[0].label} ends at {scale * line[2][-1]:.3g}" for line in lines)
    return Picture(name, f"{name} over the training steps: {ends}.", draw(paint))


def over_seeds(seeds: Histories, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, and the mean, lowest and highest value of the seeds at each, thinned for a figure."""
    values: dict[float, list[float]] = {}
    for seed in seeds:
        for entry in seed:
            step, value = entry.get("step"), entry.get(key)
            if step is not None and value is not None and np.isfinite(value):
                values.setdefault(step, []).append(value)
    steps = np.array(sorted(values))
    if len(steps) > POINTS:
        steps = steps[np.linspace(0, len(steps) - 1, POINTS).round().astype(int)]
    at = [values[step] for step in steps.tolist()]
    mean, low, high = (np.array([f(v) for v in at]) for f in (np.mean, np.min, np.max))
    return steps, mean, low, high


def _dash(group: Group, groups: Sequence[Group]) -> str:
    settings = list(dict.fromkeys(g.setting for g in groups))
    return DASHES[settings.index(group.setting) % len(DASHES)]


def precision_recall(found: Sequence[tuple[Group, list[Details]]], worst: int = WORST) -> list[Picture]:
    """All decisions in one ranking, then the classes on which the distilled student is worst; first seeds."""
    curves = [(g, d[0].pr_curves) for g, d in found if d and d[0].pr_curves is not None]
    models = [(group, both) for group, both in curves if both is not None]
    if not models:
        return []
    pictures = [_recall_picture("All classes", [(g, c.micro) for g, c in models])]
    judge = next((c for g, c in models if g.role == "distilled"), models[0][1])
    peers = [(g, c.per_class) for g, c in models if g.setting == models[0][0].setting]
    # With many classes each model keeps other curves; one alone compares nothing.
    names = [name for name in judge.per_class if sum(name in c for _, c in peers) >= min(2, len(peers))]
    for name in sorted(names, key=lambda name: _area(judge.per_class[name]))[:worst]:
        pictures.append(_recall_picture(name, [(g, c[name]) for g, c in peers if name in c], small=True))
    return pictures


def _area(curve: Curve) -> float:
    return float(np.sum(np.diff(curve.recall) * np.array(curve.precision)[1:]))


def _recall_picture(title: str, lines: list[tuple[Group, Curve]], small: bool = False) -> Picture:
    def paint(axes: Axes) -> None:
        for group, curve in lines:
            dash = _dash(group, [line[0] for line in lines])
            axes.plot(curve.recall, curve.precision, dash, color=colour_of(group), label=group.label)
        axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        if not small:
            axes.legend(loc="lower left")

    areas = "; ".join(f"{g.label} {_area(curve):.3f}" for g, curve in lines)
    text = f"Precision against recall, {title}. Area under the curve: {areas}."
    return Picture(short(title, 40), text, draw(paint, SMALL) if small else draw(paint))


def reliability(found: Sequence[tuple[Group, list[Details]]]) -> list[Picture]:
    """Accuracy against confidence; first seeds."""
    all_bins = [(g, d[0].reliability) for g, d in found if d]
    models = [(group, bins) for group, bins in all_bins if bins is not None]
    lines = [(group, *_filled(bins)) for group, bins in models]
    if not lines:
        return []

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=1, label="perfect")
        for group, confidence, accuracy in lines:
            dash = _dash(group, [line[0] for line in lines])
            axes.plot(
                confidence,
                accuracy,
                dash,
                marker="o",
                markersize=3.5,
                color=colour_of(group),
                label=group.label,
            )
        axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
        axes.legend(loc="lower right")

    text = "Accuracy against confidence in bins of equal width; below the diagonal a model is too sure."
    return [Picture("Reliability", text, draw(paint))]


def _filled(bins: Reliability) -> tuple[list[float], list[float]]:
    """Confidence and accuracy of the bins with enough samples to tell."""
    bars = zip(bins.confidence, bins.accuracy, bins.count, strict=True)
    pairs = [(c, a) for c, a, n in bars if c is not None and a is not None and n >= FEWEST_SAMPLES]
    return [c for c, _ in pairs], [a for _, a in pairs]
