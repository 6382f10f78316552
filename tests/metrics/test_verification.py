"""Verification and identification against scikit-learn, scipy and plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import auc, roc_curve
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.metrics.gallery import Alignment, alignment_needed, fit_alignment
from limbeck.metrics.verification import Verified, best_threshold, identification, pair_scores


def pairs(count: int = 400, seed: int = 0, folds: int = 10) -> Verified:
    """Overlapping scores, some of them equal, in folds with both kinds in each."""
    generator = np.random.default_rng(seed)
    same = np.arange(count) % 2 == 0
    scores = np.round(generator.normal(size=count) + 1.5 * same, 2)
    return Verified(scores, same, np.arange(count) // 2 % folds)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def naive_best(scores: np.ndarray, same: np.ndarray) -> float:
    """The most right decisions of any threshold."""
    candidates = [*(np.unique(scores) - 0.005), scores.max() + 1]
    return max(float(((scores >= each) == same).mean()) for each in candidates)


@pytest.mark.parametrize("seed", range(5))
def test_the_curve_is_scikit_learn_s(seed: int) -> None:
    """A curve of another direction, or one whose rates are of the other kind of pair."""
    verified = pairs(seed=seed)
    far, tar, _ = roc_curve(verified.same, verified.scores, drop_intermediate=False)
    assert np.array_equal(verified.curve[0], far)
    assert np.array_equal(verified.curve[1], tar)
    found = verified.metrics()
    assert found["auc"] == pytest.approx(auc(far, tar), abs=1e-12)
    assert found["eer"] == pytest.approx(brentq(lambda x: 1.0 - x - interp1d(far, tar)(x), 0.0, 1.0), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_true_accepts_are_those_of_the_best_threshold_that_is_allowed(seed: int) -> None:
    """An interpolated rate that no threshold reaches, or one at which more strangers are accepted than allowed."""
    verified = pairs(count=1000, seed=seed)
    for name, rate in (("tar_far2", 1e-2), ("tar_far3", 1e-3)):
        best = 0.0
        for threshold in [*np.unique(verified.scores), verified.scores.max() + 1]:
            accepted = verified.scores >= threshold
            if accepted[~verified.same].mean() <= rate:
                best = max(best, float(accepted[verified.same].mean()))
        assert verified.metrics()[name] == best


def test_accuracy_is_decided_on_the_other_folds() -> None:
    """A threshold that has seen the pairs which it decides: the accuracy is then that of the best threshold."""
    verified = pairs(seed=3)
    expected = []
    for fold in range(10):
        mine = verified.folds == fold
        threshold = best_threshold(verified.scores[~mine], verified.same[~mine])
        said = (verified.scores[~mine] >= threshold) == verified.same[~mine]
        assert said.mean() == naive_best(verified.scores[~mine], verified.same[~mine])
        expected.append(float(((verified.scores[mine] >= threshold) == verified.same[mine]).mean()))
    assert verified.metrics()["accuracy"] == pytest.approx(np.mean(expected), abs=1e-12)
    unlucky = Verified(np.array([0.9, 0.05, 0.2, 0.0]), np.array([True, False] * 2), np.array([0, 0, 1, 1]))
    assert unlucky.metrics()["accuracy"] == 0.75  # fold 1 is cut at 0.475, above both of its pairs
    assert unlucky.metrics()["auc"] == 1.0


def test_a_perfect_and_a_blind_model() -> None:
    """Ends of the scale that an off-by-one at the first or last point of a curve moves."""
    same = np.arange(40) % 2 == 0
    perfect = Verified(same.astype(float), same, np.arange(40) // 4)
    assert perfect.metrics() == {"accuracy": 1.0, "auc": 1.0, "eer": 0.0, "tar_far2": 1.0, "tar_far3": 1.0}
    blind = Verified(np.zeros(40), same, np.arange(40) // 4)
    assert blind.metrics() == {"accuracy": 0.5, "auc": 0.5, "eer": 0.5, "tar_far2": 0.0, "tar_far3": 0.0}
    wrong = Verified(1.0 - same, same, np.arange(40) // 4)
    assert wrong.metrics()["auc"] == 0.0
    assert wrong.metrics()["eer"] == 1.0


def test_few_strangers_are_said() -> None:
    """A rate of 1 in 1,000 read off 200 pairs as if these could tell."""
    doubts = pairs().doubts()
    assert len(doubts) == 1
    assert "0.001 needs 1,000 pairs of two persons or more, and there are 200" in doubts[0]
    assert pairs(count=2000).doubts() == []


def test_the_drawn_curve_is_the_curve() -> None:
    """A figure that shows more than the pairs can tell, or a rate of another threshold."""
    verified = pairs()
    far, tar = verified.curve
    drawn = verified.drawn()
    assert drawn["far"][0] == pytest.approx(1 / 200)
    for rate, value in zip(drawn["far"], drawn["tar"], strict=True):
        assert value == tar[far <= rate].max()


def test_rank_one_searches_the_first_pictures() -> None:
    """A query that finds itself, or a picture of the same person that is a query too."""
    embeddings, labels = random(30, 8), torch.arange(30) % 7
    first = {int(label): at for at, label in reversed(list(enumerate(labels)))}
    right = []
    for at, label in enumerate(labels.tolist()):
        if first[label] != at:
            near = {
                person: float(torch.nn.functional.cosine_similarity(embeddings[at], embeddings[one], dim=0))
                for person, one in first.items()
            }
            right.append(max(near, key=near.__getitem__) == label)
    assert identification(embeddings, embeddings, labels)["rank1"] == pytest.approx(sum(right) / len(right))
    assert identification(random(4, 8), random(4, 8), torch.arange(4)) == {}


def test_an_alignment_undoes_a_linear_map() -> None:
    """A gallery that is searched in another space; a map of the transposed matrix, or one that the ridge flattens."""
    teacher = random(500, 12)
    turn = torch.linalg.qr(random(20, 20, seed=1)).Q[:, :12]
    student = torch.nn.functional.normalize(teacher, dim=1) @ turn.t()  # 20 wide
    mapped = fit_alignment(student, teacher)(student)
    assert mapped.shape == teacher.shape
    assert float(torch.nn.functional.cosine_similarity(mapped, teacher, dim=1).min()) > 0.999
    wide = random(500, 20, seed=2)
    units = [torch.nn.functional.normalize(each, dim=1).double().numpy() for each in (wide, teacher)]
    least = torch.from_numpy(np.linalg.lstsq(*units, rcond=None)[0]).float()
    torch.testing.assert_close(fit_alignment(wide, teacher, ridge=1e-9).matrix, least)


def test_when_a_map_is_needed() -> None:
    """A map between embeddings that are of one space already, or none where they are not."""
    teacher = random(100, 16)
    assert not alignment_needed(teacher + 0.3 * random(100, 16, seed=1), teacher)
    assert alignment_needed(random(100, 16, seed=2), teacher)
    assert alignment_needed(random(100, 8), teacher)


def test_an_alignment_is_kept(tmp_path: Path) -> None:
    """A map that is another after a reload; a missing one without the file's name."""
    alignment = fit_alignment(random(50, 6), random(50, 4, seed=1))
    alignment.save(tmp_path)
    assert torch.equal(Alignment.read(tmp_path).matrix, alignment.matrix)
    with pytest.raises(LimbeckError, match=r"gallery\.safetensors: no alignment"):
        Alignment.read(tmp_path / "nowhere")


def test_mistakes_are_named() -> None:
    """NaN taken for a low score, widths that broadcast, and pairs that cannot be decided."""
    with pytest.raises(LimbeckError, match="1 of 3 pairs are NaN"):
        pair_scores(torch.tensor([[1.0], [float("nan")], [1.0]]), torch.ones(3, 1))
    with pytest.raises(LimbeckError, match="one shape"):
        pair_scores(random(3, 4), random(3, 5))
    same = np.array([True, False, True])
    with pytest.raises(LimbeckError, match="two folds"):
        Verified(np.zeros(3), same, np.zeros(3, np.int64))
    with pytest.raises(LimbeckError, match="one kind"):
        Verified(np.zeros(3), np.ones(3, bool), np.arange(3))
    with pytest.raises(LimbeckError, match="got 2, 3 and 3"):
        Verified(np.zeros(2), same, np.arange(3))
    with pytest.raises(LimbeckError, match="same pictures"):
        fit_alignment(random(3, 2), random(4, 2))
    with pytest.raises(LimbeckError, match="labels"):
        identification(random(3, 2), random(3, 2), torch.arange(2))
