"""Losses on keypoints: heatmaps and classified coordinates, against loops over cells and bins, and scipy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import entropy
from tests.losses.contract import PROMISES, Case, Promise
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses import HeatmapMSE, Loss, SimCCKD, SupervisedHeatmaps, SupervisedSimCC, heatmap_mse
from limbeck.losses.heatmaps import gaussian_heatmaps, heatmap_confidence
from limbeck.losses.simcc import simcc_confidence, smoothed_coordinates
from limbeck.objective import Context, Objective
from limbeck.terms import Term
from limbeck.types import Signal

COUNT, JOINTS, HEIGHT, WIDTH = 6, 3, 32, 24
LABELS = torch.tensor([1, -1, 1, 1, -1, 1])


class Rows(dict[str, Tensor]):
    """A batch of which a mask leaves rows out, as of a tensor."""

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return super().__getitem__(key)
        return Rows({name: value[key] for name, value in self.items()})

    def __len__(self) -> int:
        return COUNT


def batch() -> Rows:
    generator = torch.Generator().manual_seed(9)
    xy = torch.rand(COUNT, JOINTS, 2, generator=generator, dtype=torch.float64) * torch.tensor([WIDTH - 1, HEIGHT - 1])
    visible = (torch.rand(COUNT, JOINTS, 1, generator=generator) > 0.3).double()
    visible[1] = visible[4] = 0.0
    visible[0] = 1.0
    keypoints = torch.cat([xy * visible, visible], -1)
    return Rows({"inputs": torch.zeros(COUNT, 3, HEIGHT, WIDTH), "keypoints": keypoints, "labels": LABELS})


BATCH = batch()


def weight(sample: int, joint: int, confidence: float, kind: str) -> float:
    if kind == "none":
        return 1.0
    if kind == "confidence" or LABELS[sample] == -1:
        return confidence
    return float(BATCH["keypoints"][sample, joint, 2])


def naive_supervised(student: Tensor, _teacher: Any, _labels: Tensor, loss: Any) -> list[float]:
    rows, columns = student.shape[2:]
    values = []
    for maps, points in zip(student.tolist(), BATCH["keypoints"].tolist(), strict=True):
        total = 0.0
        for heatmap, (x, y, seen) in zip(maps, points, strict=True):
            u, v = (x + 0.5) * columns / WIDTH - 0.5, (y + 0.5) * rows / HEIGHT - 0.5
            for row in range(rows):
                for column in range(columns):
                    peak = math.exp(-((column - u) ** 2 + (row - v) ** 2) / (2 * loss.sigma**2))
                    total += seen * (heatmap[row][column] - peak) ** 2 / (rows * columns)
        values.append(total / JOINTS)
    return values


def naive_heatmaps(student: Tensor, teacher: Tensor, _labels: Tensor, loss: Any) -> list[float]:
    values = []
    for at, (mine, theirs) in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        total = 0.0
        for joint, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            pairs = [(p, q) for first, second in zip(a, b, strict=True) for p, q in zip(first, second, strict=True)]
            sure = min(1.0, max(0.0, max(q for _, q in pairs)))
            total += weight(at, joint, sure, loss.weights) * sum((p - q) ** 2 for p, q in pairs) / len(pairs)
        values.append(total / JOINTS)
    return values


def softened(logits: list[float], temperature: float = 1.0) -> list[float]:
    largest = max(logits)
    powers = [math.exp((each - largest) / temperature) for each in logits]
    return [each / sum(powers) for each in powers]


def naive_simcc_supervised(student: Any, _teacher: Any, _labels: Tensor, loss: Any) -> list[float]:
    values = [0.0] * COUNT
    for axis, length in enumerate((WIDTH, HEIGHT)):
        for at, joints in enumerate(student[axis].tolist()):
            for joint, logits in enumerate(joints):
                point = BATCH["keypoints"][at, joint].tolist()
                bins = len(logits)
                middle = (point[axis] + 0.5) * bins / length - 0.5
                wanted = softened([-((each - middle) ** 2) / (2 * loss.sigma**2) for each in range(bins)])
                values[at] += point[2] * float(entropy(wanted, softened(logits))) / JOINTS
    return values


def naive_simcc(student: Any, teacher: Any, _labels: Tensor, loss: Any) -> list[float]:
    values = [0.0] * COUNT
    for at in range(COUNT):
        for joint in range(JOINTS):
            total, sure = 0.0, 1.0
            for mine, theirs in zip(student, teacher, strict=True):
                p, q = softened(theirs[at, joint].tolist()), softened(mine[at, joint].tolist())
                sure = min(sure, 1.0 - float(entropy(p)) / math.log(len(p)))
                p, q = (softened(each[at, joint].tolist(), loss.temperature) for each in (theirs, mine))
                total += loss.temperature**2 * float(entropy(p, q))
            values[at] += weight(at, joint, sure, loss.weights) * total / JOINTS
    return values


MAPS = (COUNT, JOINTS, 8, 6)
OTHER_MAPS = (COUNT, JOINTS + 1, 8, 6)
BINS = ((COUNT, JOINTS, 48), (COUNT, JOINTS, 64))
GIVEN: dict[str, Any] = {"batch": BATCH}

CASES = (
    Case("supervised heatmaps", SupervisedHeatmaps, MAPS, MAPS, naive_supervised, equal=False, mismatch=None,
         given=GIVEN),
    Case("supervised heatmaps, σ = 1", lambda: SupervisedHeatmaps(1.0), MAPS, MAPS, naive_supervised, equal=False,
         given=GIVEN),
    Case("heatmaps", HeatmapMSE, MAPS, MAPS, naive_heatmaps, mismatch=OTHER_MAPS, given=GIVEN),
    Case("heatmaps by confidence", lambda: HeatmapMSE("confidence"), MAPS, MAPS, naive_heatmaps, given=GIVEN),
    Case("all heatmaps", lambda: HeatmapMSE("none"), MAPS, MAPS, naive_heatmaps, given=GIVEN),
    Case("supervised simcc", SupervisedSimCC, BINS, BINS, naive_simcc_supervised, equal=False, given=GIVEN),
    Case("simcc", SimCCKD, BINS, BINS, naive_simcc, mismatch=(BINS[0], (COUNT, JOINTS, 60)), given=GIVEN),
    Case("softened simcc", lambda: SimCCKD(3.0, "confidence"), BINS, BINS, naive_simcc, given=GIVEN),
    Case("all simcc", lambda: SimCCKD(0.5, "none"), BINS, BINS, naive_simcc, given=GIVEN),
)  # fmt: skip


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    promise(case)


def test_the_wanted_heatmap_of_a_mirrored_joint_is_the_mirrored_heatmap() -> None:
    """Cells that are counted from the picture's corner on one side and from a pixel's middle on the other: a flip test
    would then move every joint."""
    points = torch.tensor([[[5.3, 20.1], [0.0, 31.0]]], dtype=torch.float64)
    mirrored = torch.stack([WIDTH - 1 - points[..., 0], points[..., 1]], -1)
    maps = gaussian_heatmaps(points, (8, 6), (HEIGHT, WIDTH), sigma=1.3)
    torch.testing.assert_close(gaussian_heatmaps(mirrored, (8, 6), (HEIGHT, WIDTH), sigma=1.3), maps.flip(-1))
    bins = smoothed_coordinates(points[..., 0], 48, WIDTH)
    torch.testing.assert_close(smoothed_coordinates(mirrored[..., 0], 48, WIDTH), bins.flip(-1))


def test_a_wanted_heatmap_is_one_at_a_cell_s_middle() -> None:
    """A map that is half a cell off."""
    # Cells of 4 pixels: the middle of the second is between pixels 5 and 6.
    maps = gaussian_heatmaps(torch.tensor([[[5.5, 9.5]]]), (8, 6), (HEIGHT, WIDTH))
    assert maps[0, 0, 2, 1] == 1.0
    assert maps[0, 0, 2, 3].item() == pytest.approx(math.exp(-0.5))


@pytest.mark.parametrize("size", [(4, 3), (16, 12), (12, 9)])
def test_a_map_of_another_size_covers_the_same_picture(size: tuple[int, int]) -> None:
    """A teacher of finer heatmaps whose joints arrive elsewhere in the student's."""
    points = torch.tensor([[[11.5, 15.5]]], dtype=torch.float64)
    mine = gaussian_heatmaps(points, (8, 6), (HEIGHT, WIDTH), sigma=1.5)
    cells = 1.5 * (size[0] * size[1] / 48) ** 0.5
    theirs = gaussian_heatmaps(points, size, (HEIGHT, WIDTH), sigma=cells)
    elsewhere = gaussian_heatmaps(points + 4.0, size, (HEIGHT, WIDTH), sigma=cells)
    assert heatmap_mse(mine, theirs).item() < 0.02
    assert heatmap_mse(mine, theirs).item() < 0.2 * heatmap_mse(mine, elsewhere).item()


def test_what_nobody_annotated_costs_nothing() -> None:
    """A joint that is not there learned as one at the corner; NaN where it is predicted."""
    student = torch.randn(COUNT, JOINTS, 8, 6, dtype=torch.float64, requires_grad=True)
    values = SupervisedHeatmaps()(student, BATCH)
    values.sum().backward()
    hidden = BATCH["keypoints"][..., 2] == 0
    assert student.grad is not None
    assert bool((student.grad[hidden] == 0).all())
    assert bool((student.grad[~hidden] != 0).any(-1).all())
    assert values[LABELS == -1].tolist() == [0.0, 0.0]


def test_samples_without_labels_are_averaged_apart() -> None:
    """Unlabelled samples that thin the labelled ones' mean, or that the teacher does not teach."""
    signal = {"heatmaps": torch.randn(COUNT, JOINTS, 8, 6)}
    taught = {"heatmaps": torch.rand(COUNT, JOINTS, 8, 6)}
    terms = [
        Term(SupervisedHeatmaps(), student="heatmaps"),
        Term(HeatmapMSE(), student="heatmaps", teacher="heatmaps"),
    ]
    plain = dict(BATCH)
    objective, context = Objective(terms), Context(plain, Signal(signal), Signal(taught))
    _, means = objective(Signal(signal), Signal(taught), LABELS, context=context)
    known = LABELS == 1
    expected = SupervisedHeatmaps()(signal["heatmaps"], BATCH)[known].mean()
    torch.testing.assert_close(means["supervised-heatmaps"], expected)
    values = HeatmapMSE()(signal["heatmaps"], taught["heatmaps"], BATCH)
    assert bool((values[~known] > 0).all())
    torch.testing.assert_close(means["heatmap-mse"], values.mean())


def test_confidence() -> None:
    """A map without a peak taken for a sure one, or a flat distribution."""
    maps = torch.stack([torch.zeros(4, 4), torch.full((4, 4), -2.0), torch.eye(4) * 3])[None]
    assert heatmap_confidence(maps).tolist() == [[0.0, 0.0, 1.0]]
    flat, sharp = torch.zeros(1, 2, 10), torch.zeros(1, 2, 10)
    sharp[..., 3] = 100.0
    torch.testing.assert_close(simcc_confidence((sharp, sharp)), torch.ones(1, 2))
    torch.testing.assert_close(simcc_confidence((sharp, flat)), torch.zeros(1, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SupervisedHeatmaps(0.0), "SupervisedHeatmaps sigma: expected a positive number"),
        (lambda: SupervisedSimCC(-1.0), "SupervisedSimCC sigma"),
        (lambda: SimCCKD(0.0), "SimCCKD temperature"),
        (lambda: HeatmapMSE("visible"), "expected one of visibility, confidence, none, got 'visible'"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range_are_named(make: Any, message: str) -> None:
    """A σ of 0, which divides by it."""
    with pytest.raises(LimbeckError, match=message):
        make()


@pytest.mark.parametrize("loss", [SupervisedHeatmaps(), SupervisedSimCC()], ids=lambda loss: loss.name)
def test_a_batch_that_does_not_fit_is_named(loss: Loss) -> None:
    """A KeyError from the middle of a step, or joints that are broadcast."""
    maps = torch.zeros(MAPS)
    student: Any = maps if isinstance(loss, SupervisedHeatmaps) else (maps[:, :, 0], maps[:, :, 0])
    with pytest.raises(LimbeckError, match="has no `keypoints`"):
        loss(student, {"inputs": BATCH["inputs"]})
    few = {**BATCH, "keypoints": BATCH["keypoints"][:, :1]}
    with pytest.raises(LimbeckError, match="of the same joints"):
        loss(student, few)
