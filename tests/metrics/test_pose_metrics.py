"""Poses measured: decoding against loops over the paper's equations, COCO's average precision against pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.ndimage import gaussian_filter

from limbeck.errors import LimbeckError
from limbeck.losses.heatmaps import gaussian_heatmaps
from limbeck.losses.simcc import smoothed_coordinates
from limbeck.metrics import TruePoses, decode_heatmaps, decode_keypoints, decode_simcc, oks, oks_ap, pck
from limbeck.metrics.decoding import DECODINGS, with_mirrored
from limbeck.metrics.poses import joint_distances, per_joint, pose_sizes

Floats = NDArray[np.float64]

SIZE = (96, 64)
MAP = (24, 16)
HALF = [0.26, 0.25, 0.35, 0.79, 0.72, 0.62, 1.07, 0.87, 0.89]
"""Of the nose, and of eyes, ears, shoulders, elbows, wrists, hips, knees and ankles, times ten."""
COCO_SIGMAS = np.array(HALF[:1] + [sigma for sigma in HALF[1:] for _ in "lr"]) / 10


def points(count: int, margin: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    span = torch.tensor([SIZE[1] - 1 - 2 * margin, SIZE[0] - 1 - 2 * margin], dtype=torch.float64)
    return margin + torch.rand(1, count, 2, generator=generator, dtype=torch.float64) * span


# ---------------------------------------------------------------------------------------------------- decoding


def test_dark_finds_a_gaussian_s_middle() -> None:
    """A joint found only to a cell of four pixels, or half a cell off."""
    true = points(200, margin=14.0)
    maps = gaussian_heatmaps(true, MAP, SIZE, sigma=1.7)
    found, sure = decode_heatmaps(maps, SIZE, sigma=1.7)
    assert (found - true).abs().max().item() < 0.05
    assert bool((sure > 0.9).all())
    quarter, _ = decode_heatmaps(maps, SIZE, decoding="quarter")
    assert (quarter - true).abs().max().item() <= 1.0 + 1e-5
    cell, _ = decode_heatmaps(maps, SIZE, decoding="cell")
    assert 1.0 < (cell - true).abs().max().item() <= 2.0 + 1e-5


def naive_dark(heatmap: Floats, sigma: float) -> tuple[float, float]:
    """The paper's equations 6 to 9 and 11, on one map, in cells."""
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    smooth = gaussian_filter(heatmap, sigma, mode="constant", radius=round(2.5 * sigma))
    smooth = smooth * heatmap.max() / smooth.max()
    logs = np.log(np.maximum(smooth, 1e-10))
    rows, columns = heatmap.shape
    if not (1 < x < columns - 2 and 1 < y < rows - 2):
        return float(x), float(y)
    gradient = np.array([logs[y, x + 1] - logs[y, x - 1], logs[y + 1, x] - logs[y - 1, x]]) / 2
    cross = (logs[y + 1, x + 1] - logs[y - 1, x + 1] - logs[y + 1, x - 1] + logs[y - 1, x - 1]) / 4
    hessian = np.array([
        [(logs[y, x + 2] - 2 * logs[y, x] + logs[y, x - 2]) / 4, cross],
        [cross, (logs[y + 2, x] - 2 * logs[y, x] + logs[y - 2, x]) / 4],
    ])  # fmt: skip
    offset = -np.linalg.inv(hessian) @ gradient
    if (np.linalg.eigvalsh(hessian) >= 0).any() or np.abs(offset).max() > 2:
        return float(x), float(y)
    return float(x + offset[0]), float(y + offset[1])


def test_dark_is_the_paper_s() -> None:
    """Derivatives of the wrong step or sign, maps smoothed the wrong way, the maximum left at an edge."""
    generator = torch.Generator().manual_seed(3)
    true = points(60, margin=0.0, seed=4)
    maps = gaussian_heatmaps(true, MAP, SIZE, sigma=2.0)
    maps = maps + 0.15 * torch.rand(maps.shape, generator=generator, dtype=torch.float64)
    found, _ = decode_heatmaps(maps, SIZE, sigma=2.0)
    cells = (found + 0.5) / 4 - 0.5
    expected = torch.tensor([naive_dark(one, 2.0) for one in maps[0].numpy()], dtype=torch.float64)
    moved = (expected - expected.round()).abs().amax(-1) > 0
    assert 20 < int(moved.sum()) < 60
    torch.testing.assert_close(cells[0].double(), expected, rtol=0, atol=2e-3)


def test_quarters_go_to_the_larger_neighbour() -> None:
    """A shift to the wrong side, or beyond the edge."""
    maps = torch.zeros(1, 2, 5, 5)
    maps[0, 0, 2, 2], maps[0, 0, 2, 3], maps[0, 0, 1, 2] = 1.0, 0.5, 0.4
    maps[0, 1, 0, 0], maps[0, 1, 0, 1] = 1.0, 0.5
    found, sure = decode_heatmaps(maps, (5, 5), decoding="quarter")
    assert found.tolist() == [[[2.25, 1.75], [0.0, 0.0]]]
    assert sure.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("decoding", DECODINGS)
def test_a_map_of_nothing_gives_numbers(decoding: Any) -> None:
    """NaN from a curvature of 0 or the logarithm of what is not positive, at the first steps of a training."""
    maps = torch.stack(
        [torch.zeros(24, 16), torch.full((24, 16), -3.0), torch.randn(24, 16) * 1e-8, torch.ones(24, 16)]
    )
    found, _ = decode_heatmaps(maps[None], SIZE, decoding=decoding)
    assert bool(found.isfinite().all())
    assert bool((found >= -0.5).all())
    assert bool((found <= torch.tensor([63.5, 95.5])).all())


def test_bins_are_decoded_to_their_middle() -> None:
    """A coordinate half a bin off, or x and y changed."""
    true = points(50, margin=3.0)
    x = smoothed_coordinates(true[..., 0], 128, SIZE[1], sigma=3.0)
    y = smoothed_coordinates(true[..., 1], 192, SIZE[0], sigma=3.0)
    found, sure = decode_simcc(x, y, SIZE)
    assert (found - true).abs().max().item() <= 0.25 + 1e-6
    torch.testing.assert_close(sure, torch.minimum(x.exp().amax(-1), y.exp().amax(-1)).float())
    same, _ = decode_keypoints({"simcc_x": x, "simcc_y": y}, SIZE)
    torch.testing.assert_close(same, found)
    with pytest.raises(LimbeckError, match="gives logits; expected heatmaps, or simcc_x and simcc_y"):
        decode_keypoints({"logits": x}, SIZE)


@pytest.mark.parametrize("kind", ["heatmaps", "simcc"])
def test_the_flip_test_of_a_sure_model_changes_nothing(kind: str) -> None:
    """Joints that the mirrored picture moves: a shift of a cell or of a bin, or left taken for right."""
    order = [0, 2, 1]
    true = points(3, margin=14.0, seed=7)
    mirrored = torch.stack([SIZE[1] - 1 - true[..., 0], true[..., 1]], -1)[:, order]

    def signal(xy: torch.Tensor) -> dict[str, torch.Tensor]:
        if kind == "heatmaps":
            return {"heatmaps": gaussian_heatmaps(xy, MAP, SIZE)}
        return {
            "simcc_x": smoothed_coordinates(xy[..., 0], 128, SIZE[1]),
            "simcc_y": smoothed_coordinates(xy[..., 1], 192, SIZE[0]),
        }

    plain = signal(true)
    both = with_mirrored(plain, signal(mirrored), order)
    assert both.keys() == plain.keys()
    for name in plain:
        torch.testing.assert_close(both[name], plain[name], atol=1e-9, rtol=1e-9)


# ---------------------------------------------------------------------------------------------------- PCK


def test_pck_by_hand() -> None:
    """A threshold that is left out or in, joints that nobody annotated counted, pixels and shares changed."""
    truth = np.zeros((2, 3, 3))
    truth[..., 2] = [[1, 1, 0], [1, 0, 0]]
    found = np.zeros((2, 3, 2))
    found[0, :, 0] = [5.0, 20.0, 900.0]  # of a size of 100: 0.05 and 0.2
    found[1, 0] = [3.0, 4.0]  # of a size of 40: 0.125
    sizes = np.array([100.0, 40.0])
    distances = joint_distances(found, truth)
    measured = pck(distances, sizes)
    assert measured == {
        "pck05": pytest.approx(1 / 3),
        "pck10": pytest.approx(1 / 3),
        "pck20": pytest.approx(1.0),
        "joint_error": pytest.approx(10.0),
        "joint_error_share": pytest.approx((0.05 + 0.2 + 0.125) / 3),
    }
    table = per_joint(distances, sizes, ("nose", "left", "right"))
    assert table[0] == {
        "joint": "nose", "annotated": 2, "pck10": 0.5, "joint_error": 5.0, "joint_error_share": pytest.approx(0.0875),
    }  # fmt: skip
    assert table[2] == {
        "joint": "right", "annotated": 0, "pck10": None, "joint_error": None, "joint_error_share": None,
    }  # fmt: skip
    assert pck(np.full((2, 3), np.nan), sizes) == {}


def test_what_distances_are_measured_by() -> None:
    """The box of all joints, with those that are not there at (0, 0)."""
    joints = np.array([[[10.0, 20, 1], [40, 24, 1], [0, 0, 0]], [[7, 7, 1], [0, 0, 0], [0, 0, 0]]])
    boxes = np.array([[0.0, 0, 50, 80], [0, 0, 30, 20]])
    assert pose_sizes(joints, boxes, "box").tolist() == [80.0, 30.0]
    assert pose_sizes(joints, boxes, "joints").tolist() == [30.0, 30.0]
    torso = pose_sizes(joints, boxes, (0, 1))
    assert torso[0] == pytest.approx(math.hypot(30, 4))
    assert np.isnan(torso[1])


# ---------------------------------------------------------------------------------------------------- OKS


def crowded(seed: int, joints: int) -> tuple[TruePoses, Floats, Floats, NDArray[np.int64]]:
    """Pictures of nobody to five people, of whom some have no annotated joint and some are crowds; poses found near
    them, some twice and some of nobody, with scores that often tie."""
    random = np.random.default_rng(seed)
    true: list[tuple[Any, ...]] = []
    found: list[tuple[Any, ...]] = []
    for picture in range(25):
        for _ in range(random.integers(0, 6)):
            side = random.uniform(20, 120, 2)
            corner = random.uniform(0, 200, 2)
            xy = corner + random.uniform(0, 1, (joints, 2)) * side
            seen = random.uniform(size=joints) < random.choice([0.3, 0.9])
            kind = random.uniform()
            crowd = kind < 0.08
            if crowd or kind < 0.15:
                seen[:] = False
            visible = np.where(seen, random.integers(1, 3, joints), 0)
            xyv = np.concatenate([np.where(seen[:, None], xy, 0), visible[:, None]], 1)
            area = side.prod() * random.uniform(0.4, 0.8)
            true.append((xyv, [*corner, *(corner + side)], area, picture, crowd or not seen.any(), crowd))
            for _ in range(random.integers(0, 3)):
                noise = random.normal(size=(joints, 2)) * side * random.choice([0.01, 0.05, 0.2])
                found.append((xy + noise, random.integers(0, 8) / 8, picture))
        for _ in range(random.integers(0, 3)):
            found.append((random.uniform(0, 200, (joints, 2)), random.integers(0, 8) / 8, picture))
    columns = [np.array([each[at] for each in true]) for at in range(6)]
    truth = TruePoses(*columns)
    poses, scores, pictures = (np.array([each[at] for each in found]) for at in range(3))
    return truth, poses, scores, pictures


def by_pycocotools(
    truth: TruePoses, poses: Floats, scores: Floats, pictures: NDArray[np.int64], sigmas: Floats
) -> tuple[dict[str, float], Any]:
    names = [f"joint {at}" for at in range(truth.joints.shape[1])]
    annotations = [
        {
            "id": at + 1, "image_id": int(truth.pictures[at]), "category_id": 1, "iscrowd": int(truth.crowds[at]),
            "area": float(truth.areas[at]), "keypoints": truth.joints[at].flatten().tolist(),
            "num_keypoints": int((truth.joints[at, :, 2] > 0).sum()),
            "bbox": [*truth.boxes[at, :2], *(truth.boxes[at, 2:] - truth.boxes[at, :2])],
        }
        for at in range(len(truth.joints))
    ]  # fmt: skip
    images = [{"id": picture} for picture in range(25)]
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "p", "keypoints": names}]}
    results = [
        {
            "image_id": int(picture), "category_id": 1, "score": float(score),
            "keypoints": np.concatenate([pose, np.ones((len(pose), 1))], 1).flatten().tolist(),
        }
        for pose, score, picture in zip(poses, scores, pictures, strict=True)
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = data
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"oks_ap": evaluation.stats[0], "oks_ap50": evaluation.stats[1], "oks_ap75": evaluation.stats[2]}, evaluation


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("joints", [17, 4])
def test_average_precision_is_pycocotools(seed: int, joints: int) -> None:
    """Another order of equal scores, crowds matched once, people without joints counted as missed, another sigma."""
    truth, poses, scores, pictures = crowded(seed, joints)
    sigmas = COCO_SIGMAS if joints == 17 else np.linspace(0.02, 0.2, joints)
    expected, evaluation = by_pycocotools(truth, poses, scores, pictures, sigmas)
    assert oks_ap(poses, scores, pictures, truth, sigmas.tolist()) == pytest.approx(expected, abs=1e-12)
    picture = next(each for each in range(25) if len(evaluation.ious[each, 1]))
    mine, theirs = pictures == picture, truth.pictures == picture
    here = TruePoses(*(getattr(truth, name)[theirs] for name in TruePoses.__dataclass_fields__))
    order = np.argsort(-scores[mine], kind="mergesort")
    np.testing.assert_allclose(oks(poses[mine][order], here, sigmas.tolist()), evaluation.ious[picture, 1])


def test_the_truth_itself_is_perfect() -> None:
    """A precision that never reaches 1."""
    truth, *_ = crowded(0, 17)
    right = ~truth.ignored
    found = truth.joints[right, :, :2]
    measured = oks_ap(found, np.ones(len(found)), truth.pictures[right], truth, COCO_SIGMAS.tolist())
    assert measured == {"oks_ap": 1.0, "oks_ap50": 1.0, "oks_ap75": 1.0}
    nobody = TruePoses(*(getattr(truth, name)[~right] for name in TruePoses.__dataclass_fields__))
    assert oks_ap(found, np.ones(len(found)), truth.pictures[right], nobody, COCO_SIGMAS.tolist()) == {}
