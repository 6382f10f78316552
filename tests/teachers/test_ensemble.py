"""Ensembles that weigh their teachers in each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from limbeck import Distiller, Term
from limbeck.errors import LimbeckError
from limbeck.losses import DKD, KD, Standardized, Supervised
from limbeck.teachers import Ensemble, Live, Teacher, adapter
from limbeck.types import Batch, Preprocessing, Signal, TopK

CLASSES = 4


class Says(nn.Module):
    """A model that gives the logits it was told to, in front of whatever comes."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits[: len(inputs)]


def drawn(teachers: int = 3, samples: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(samples, CLASSES, generator=generator, dtype=torch.float64) for _ in range(teachers)]


def batch(labels: Sequence[int] | None = (0, 1, 2, 3, 0, 1, 2)) -> Batch:
    given = {"inputs": torch.zeros(7, 2, dtype=torch.float64)}
    return given if labels is None else {**given, "labels": torch.tensor(labels)}


def ensemble(logits: list[Tensor], **options: object) -> Ensemble:
    return Ensemble([Says(each) for each in logits], combine="confidence", **options)  # type: ignore[arg-type]


def naive_weights(logits: list[Tensor], labels: Sequence[int]) -> list[list[float]]:
    """CA-MKD's weights of each sample from the paper's equations; those of unlabelled samples from entropies."""
    found = []
    for sample, label in enumerate(labels):
        if label >= 0:
            costs = [-math.log(each[sample].softmax(-1)[label].item()) for each in logits]
            total = sum(math.exp(cost) for cost in costs)
            found.append([(1 - math.exp(cost) / total) / (len(logits) - 1) for cost in costs])
        else:
            entropies = [-sum(p * math.log(p) for p in each[sample].softmax(-1).tolist()) for each in logits]
            total = sum(math.exp(-entropy) for entropy in entropies)
            found.append([math.exp(-entropy) / total for entropy in entropies])
    return found


@pytest.mark.parametrize("labels", [(0, 1, 2, 3, 0, 1, 2), (0, -1, 2, -1, 0, -1, -1)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_confidence_gives_the_gradient_of_the_papers_sum(labels: Sequence[int], temperature: float) -> None:
    """Logits mixed as if one mixture served all temperatures, or weights that trust the worst teacher most."""
    logits = drawn()
    start = torch.randn(7, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    paper = start.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    log_q = (paper / temperature).log_softmax(-1)
    for sample, weights in enumerate(naive_weights(logits, labels)):
        for weight, each in zip(weights, logits, strict=True):
            p = (each[sample] / temperature).softmax(-1)
            total = total + weight * (p * (p.log() - log_q[sample])).sum() * temperature**2
    total.backward()
    ours = start.clone().requires_grad_()
    taught = ensemble(logits, temperature=temperature)(batch(labels))["logits"]
    KD(temperature)(ours, taught).sum().backward()
    torch.testing.assert_close(ours.grad, paper.grad)


def test_confidence_trusts_the_teacher_that_is_right() -> None:
    """The sign of the cross-entropy turned round; a sample without label must follow the surer teacher."""
    sure = 5.0 * nn.functional.one_hot(torch.arange(7) % CLASSES, CLASSES).double()
    unsure = torch.zeros(7, CLASSES, dtype=torch.float64)
    right = ensemble([sure, unsure], temperature=1.0)(batch([0, 1, 2, 3, 0, 1, 2]))["logits"]
    wrong = ensemble([sure, unsure], temperature=1.0)(batch([1, 2, 3, 0, 1, 2, 3]))["logits"]
    told = ensemble([sure, unsure], temperature=1.0)(batch(None))["logits"]
    peak = [each.softmax(-1).amax(-1) for each in (right, wrong, told)]
    half = (sure.softmax(-1).amax(-1) + 0.25) / 2
    assert (peak[0] > half).all()
    assert (peak[1] < half).all()
    assert (peak[2] > half).all()


def test_features_have_the_weights_of_the_logits() -> None:
    """Features averaged evenly beside logits that are not."""

    class Both(Teacher):
        def __init__(self, logits: Tensor, value: float) -> None:
            self._signal = Signal({"logits": logits, "layer": torch.full((7, 2, 3), value, dtype=torch.float64)})

        def require(self, names: object) -> None: ...

        def __call__(self, batch: Batch) -> Signal:
            return self._signal

    logits = drawn(2)
    given = Ensemble([Both(logits[0], 1.0), Both(logits[1], 0.0)], combine="confidence")(batch())
    weights = torch.tensor(naive_weights(logits, (0, 1, 2, 3, 0, 1, 2)), dtype=torch.float64)[:, 0]
    torch.testing.assert_close(given["layer"], weights.view(7, 1, 1).expand(7, 2, 3))


def test_per_class_follows_what_the_sample_is_taken_for() -> None:
    """Weights of the label leaked in, or of a class that nobody takes the sample for."""
    logits = drawn(2)
    weights = [[0.9, 0.1, 0.5, 0.5], [0.1, 0.9, 0.5, 0.5]]
    given = Ensemble([Says(each) for each in logits], weights, "per-class")
    mean = sum(each.softmax(-1) for each in logits) / 2
    expected = torch.zeros(7, CLASSES, dtype=torch.float64)
    for sample in range(7):
        trust = [sum(mean[sample, c].item() * table[c] for c in range(CLASSES)) for table in weights]
        for each, own in zip(logits, trust, strict=True):
            expected[sample] += each[sample] * own / sum(trust)
    torch.testing.assert_close(given(batch())["logits"], expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(given(batch(None))["logits"], given(batch())["logits"])


def test_one_teacher_is_itself() -> None:
    """(1 − softmax) / (teachers − 1) of one teacher is 0/0."""
    (logits,) = drawn(1)
    mixed = ensemble([logits])(batch())["logits"]
    torch.testing.assert_close(mixed.softmax(-1), logits.softmax(-1))


def test_excluded_classes_stay_excluded() -> None:
    """0 · −inf made every weight NaN."""
    logits = drawn(2)
    for each in logits:
        each[:, 3] = -torch.inf
    mixed = ensemble(logits)(batch([0, -1, 2, 0, -1, 1, 2]))["logits"]
    assert mixed[:, :3].isfinite().all()
    assert (mixed[:, 3] == -torch.inf).all()


def test_another_temperature_is_refused_when_built() -> None:
    """The mixture is right at one temperature; at another it is silently another method."""
    student = nn.Linear(2, CLASSES).double()
    teachers = [Says(each) for each in drawn(2)]
    for loss in (KD(2.0), DKD(temperature=2.0), Standardized(KD(2.0))):
        with pytest.raises(LimbeckError, match=r"mixes its teachers for temperature 4, the loss has 2; give Ensemble"):
            Distiller(student, Ensemble(teachers, combine="confidence"), [Term(Supervised()), Term(loss)])
    Distiller(student, Ensemble(teachers, combine="confidence", temperature=2.0), [Term(KD(2.0))])
    Distiller(student, Ensemble(teachers), [Term(KD(2.0))])


def test_weights_multiply_confidence() -> None:
    """Weights of the user that are dropped where they are not the only ones."""
    logits = drawn(2)
    factors = torch.tensor([1.0, 3.0])
    found = Ensemble([Says(each) for each in logits], [1.0, 3.0], "confidence", temperature=1.0)(batch())["logits"]
    weights = torch.tensor(naive_weights(logits, (0, 1, 2, 3, 0, 1, 2)), dtype=torch.float64) * factors
    weights = weights / weights.sum(1, keepdim=True)
    expected = sum(w.unsqueeze(1) * each.softmax(-1) for w, each in zip(weights.t(), logits, strict=True))
    torch.testing.assert_close(found.softmax(-1), expected)


def test_what_an_ensemble_cannot_mix_is_named() -> None:
    """Wrong tables, labels of another kind, and answers that are no tensors, found in the first call or before."""
    models = [Says(each) for each in drawn(2)]
    with pytest.raises(LimbeckError, match="combine: expected mean, confidence or per-class"):
        Ensemble(models, combine="median")  # type: ignore[arg-type]
    for table in (None, [0.5, 0.5], [[1.0], [1.0, 2.0]], [[0.0, 1.0], [0.0, 1.0]]):
        with pytest.raises(LimbeckError, match=r"needs weights of shape \(2, classes\)"):
            Ensemble(models, table, "per-class")
    with pytest.raises(LimbeckError, match="needs as many weights"):
        Ensemble(models, [[1.0, 1.0], [1.0, 1.0]])
    with pytest.raises(LimbeckError, match="weights for 3 classes, but the teachers know 4"):
        Ensemble(models, [[1.0] * 3] * 2, "per-class")(batch())
    with pytest.raises(LimbeckError, match="one class index a sample"):
        Ensemble(models, combine="confidence")({**batch(), "labels": torch.rand(7, CLASSES)})

    class Sparse(Teacher):
        def require(self, names: object) -> None: ...

        def __call__(self, batch: Batch) -> Signal:
            return Signal({}, {}, {"logits": TopK(torch.zeros(7, 1).long(), torch.zeros(7, 1), torch.zeros(7))})

    with pytest.raises(LimbeckError, match="needs dense tensors of its teachers, but one gives logits as TopK"):
        Ensemble([Sparse(), Sparse()])(batch())


def test_identity_tells_combinations_apart() -> None:
    """A label store of one combination taken for another's."""
    models = [nn.Linear(2, 3), nn.Linear(2, 3)]
    made = [
        Ensemble(models), Ensemble(models, [1.0, 2.0]), Ensemble(models, combine="confidence"),
        Ensemble(models, combine="confidence", temperature=2.0), Ensemble(models, [[1.0] * 3] * 2, "per-class"),
        Ensemble(models, [[2.0, 1.0, 1.0], [1.0] * 3], "per-class"),
    ]  # fmt: skip
    assert len({each.identity() for each in made}) == len(made)


def test_each_teacher_has_its_own_preparation() -> None:
    """Teachers with other normalisations and sizes fed one and the same pixels."""
    torch.manual_seed(0)
    given = Preprocessing((4, 4), 1, (0.5,), (0.5,))
    first = Preprocessing((4, 4), 1, (0.1,), (0.3,))
    second = Preprocessing((8, 8), 3, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
    models = [nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), nn.Sequential(nn.Flatten(), nn.Linear(192, 3))]
    pixels = torch.rand(5, 1, 4, 4)
    found = Ensemble([Live(models[0], adapt=adapter(given, first)), Live(models[1], adapt=adapter(given, second))])(
        {"inputs": (pixels - 0.5) / 0.5}
    )["logits"]
    large = nn.functional.interpolate(pixels, (8, 8), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
    mean = torch.tensor(second.mean).view(3, 1, 1)
    expected = (models[0]((pixels - 0.1) / 0.3) + models[1]((large - mean) / 0.2)) / 2
    torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-5)


def test_teachers_are_measured_without_the_labels() -> None:
    """A teacher weighed by the labels of the test split would be praised for knowing them."""
    from limbeck.sources import as_training_data
    from limbeck.tasks.classification import predict

    sure = 5.0 * nn.functional.one_hot(torch.tensor([1, 2, 3, 0, 1, 2, 3]), CLASSES).float()
    both = Ensemble([Says(sure), Says(torch.zeros(7, CLASSES))], combine="confidence", temperature=1.0)
    data, collate = as_training_data((torch.zeros(7, 2), torch.arange(7) % CLASSES), CLASSES)
    found = predict(both, data, collate=collate)
    assert torch.equal(found.labels, torch.arange(7) % CLASSES)
    torch.testing.assert_close(found.logits, both(batch(None))["logits"])
