"""Exits from features: their heads, and the losses between their answers and a teacher's, or the student's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.losses import contract
from tests.losses import reference_answers as answers
from tests.losses.contract import PROMISES, Promise
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck import Distiller, Term
from limbeck.errors import LimbeckError
from limbeck.losses import BYOT, DIST, KD, OFA, ExitKD, FeatureMSE, Loss, Supervised, byot, kd, ofa

MAP, SMALL, TOKENS, VECTORS, LOGITS = (4, 3, 6, 9), (4, 3, 2, 3), (4, 5, 6), (4, 6), (4, 3)


def head(feature: Tensor, loss: Loss) -> list[list[float]]:
    """The exit's logits, with plain loops over the head's weights."""
    weights = {name: value.tolist() for name, value in loss.state_dict().items()}
    return [_linear(_pooled(one.tolist(), weights), weights) for one in feature]


def _linear(vector: list[float], weights: dict[str, Any]) -> list[float]:
    rows, biases = weights["head.last.weight"], weights["head.last.bias"]
    return [sum(a * b for a, b in zip(row, vector, strict=True)) + bias for row, bias in zip(rows, biases, strict=True)]


def _pooled(feature: Any, weights: dict[str, Any]) -> list[float]:
    if not isinstance(feature[0], list):
        return list(feature)
    if not isinstance(feature[0][0], list):
        mean = [sum(token[c] for token in feature) / len(feature) for c in range(len(feature[0]))]
        centre = sum(mean) / len(mean)
        spread = math.sqrt(sum((m - centre) ** 2 for m in mean) / len(mean) + 1e-5)
        scale, shift = weights["head.first.weight"], weights["head.first.bias"]
        return [(m - centre) / spread * a + b for m, a, b in zip(mean, scale, shift, strict=True)]
    height, width = len(feature[0]), len(feature[0][0])
    cells = [(r, c) for r in _bins(height) for c in _bins(width)]
    out = [0.0] * len(weights["head.first.weight"])
    for rows, columns in cells:
        mean = [
            sum(channel[r][c] for r in rows for c in columns) / (len(rows) * len(columns)) for channel in feature
        ]  # fmt: skip
        for k, (kernel, bias) in enumerate(zip(weights["head.first.weight"], weights["head.first.bias"], strict=True)):
            out[k] += max(0.0, sum(w[0][0] * m for w, m in zip(kernel, mean, strict=True)) + bias) / len(cells)
    return out


def _bins(size: int) -> list[range]:
    """The rows of which each of at most 4 averages is taken."""
    count = min(size, 4)
    return [range(size * i // count, -(-size * (i + 1) // count)) for i in range(count)]


def _ofa(student: Tensor, teacher: Tensor, labels: Tensor, loss: Loss) -> list[float]:
    return answers.ofa(head(student, loss), teacher.tolist(), labels.tolist(), 1.5, 1.0)


def _byot(student: Tensor, teacher: Tensor, labels: Tensor, loss: Loss) -> list[float]:
    return answers.byot(head(student, loss), teacher.tolist(), labels.tolist(), 0.3, 3.0)


def _kd(student: Tensor, teacher: Tensor, labels: Tensor, loss: Loss) -> list[float]:
    return answers.kd(head(student, loss), teacher.tolist(), 2.0)


CASES = [
    contract.Case(f"{name}-{kind}", make, shape, LOGITS, naive, equal=False, mismatch=(4, 2))
    for name, make, naive in (
        ("ofa", lambda: OFA(width=7), _ofa),
        ("byot", lambda: BYOT(width=7), _byot),
        ("exit", lambda: ExitKD(KD(2.0), width=7), _kd),
    )
    for kind, shape in (("map", MAP), ("small-map", SMALL), ("tokens", TOKENS), ("vectors", VECTORS))
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: contract.Case, promise: Promise) -> None:
    promise(case)


generator = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64) * 2
LABELS = torch.tensor([0, 4, 3, -1, 2, 1])


@pytest.mark.parametrize(("gamma", "temperature"), [(1.0, 1.0), (1.5, 1.0), (2.0, 4.0)])
def test_ofa_is_the_authors_code(gamma: float, temperature: float) -> None:
    """An enhancement of the wrong class, or before the softmax."""
    labels = torch.where(LABELS < 0, TEACHER.argmax(1), LABELS)
    one_hot = F.one_hot(labels, 5)
    p, q = F.softmax(TEACHER / temperature, 1), F.softmax(STUDENT / temperature, 1)
    expected = -(((p + one_hot) ** gamma - one_hot) * torch.log(q)).sum(1)
    mine = ofa(STUDENT, TEACHER, LABELS, gamma=gamma, temperature=temperature)
    torch.testing.assert_close(mine, temperature**2 * expected)
    assert torch.equal(mine, ofa(STUDENT, TEACHER, labels, gamma=gamma, temperature=temperature))


def test_ofa_at_gamma_1_teaches_as_kd_does() -> None:
    """γ = 1 is the teacher's cross-entropy, whose gradient is that of KL."""
    one, other = STUDENT.clone().requires_grad_(), STUDENT.clone().requires_grad_()
    ofa(one, TEACHER, None, gamma=1.0, temperature=4.0).sum().backward()
    kd(other, TEACHER, temperature=4.0).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_an_excluded_class_adds_nothing() -> None:
    """0 · log 0."""
    wide = [torch.cat([logits, logits.new_full((6, 2), -torch.inf)], 1) for logits in (STUDENT, TEACHER)]
    student = wide[0].requires_grad_()
    for function in (ofa, byot):
        values = function(student, wide[1], LABELS)
        torch.testing.assert_close(values, function(STUDENT, TEACHER, LABELS))
        (gradient,) = torch.autograd.grad(values.sum(), student)
        assert bool((gradient[:, 5:] == 0).all())


def test_byot_is_a_mixture_of_labels_and_the_deepest_answer() -> None:
    """α on the wrong part, T² missing, or an unlabelled sample that costs as if it had label −1."""
    labels = LABELS.clamp(min=0)
    soft = kd(STUDENT, TEACHER, temperature=3.0)
    expected = 0.7 * F.cross_entropy(STUDENT, labels, reduction="none") + 0.3 * soft
    torch.testing.assert_close(byot(STUDENT, TEACHER, labels), expected)
    torch.testing.assert_close(
        byot(STUDENT, TEACHER, LABELS), torch.where(LABELS >= 0, byot(STUDENT, TEACHER, labels), 0.3 * soft)
    )
    assert torch.equal(byot(STUDENT, TEACHER, None), 0.3 * soft)


@pytest.mark.parametrize("make", [OFA, BYOT, ExitKD])
def test_padding_of_a_text_is_not_in_the_mean(make: type[OFA] | type[BYOT] | type[ExitKD]) -> None:
    """An exit that learns how long the batch's longest text is."""
    torch.manual_seed(0)
    loss = make()
    feature, teacher = torch.randn(3, 5, 6), torch.randn(3, 4)
    loss.build(feature, teacher)
    there = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0]]).bool()
    spoilt = torch.where(there.unsqueeze(-1), feature, torch.nan).requires_grad_()
    given = {"teacher": teacher, "labels": torch.tensor([1, 3, -1])}

    def values(features: Tensor, tokens: Tensor | None, rows: slice) -> Tensor:
        inputs = [tokens if name == "tokens" else given[name][rows] for name in loss.inputs]
        result: Tensor = loss(features, *inputs)
        return result

    mine = values(spoilt, there, slice(None))
    expected = [values(feature[i : i + 1, there[i]], None, slice(i, i + 1)) for i in range(3)]
    torch.testing.assert_close(mine, torch.cat(expected))
    mine.sum().backward()
    assert spoilt.grad is not None
    assert bool((spoilt.grad[~there] == 0).all())
    nothing = values(spoilt.detach(), torch.zeros_like(there), slice(None))
    assert bool(nothing.isfinite().all())


class Net(nn.Module):
    """Two stages and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.two(self.one(inputs).relu()).relu().mean((2, 3)))
        return logits


BATCH = {"inputs": torch.randn(4, 3, 8, 8), "labels": torch.tensor([0, 4, -1, 2])}


def test_the_deepest_answer_teaches_and_is_not_taught() -> None:
    """A network whose last layers learn from its first exits."""
    torch.manual_seed(0)
    term = Term(BYOT(), student="one", teacher="logits", own=True)
    distiller = Distiller(Net(), None, [term], example=BATCH)
    distiller(BATCH).loss.backward()
    net = distiller.student
    assert isinstance(net, Net)
    assert net.one.weight.grad is not None
    assert float(net.one.weight.grad.abs().sum()) > 0
    assert net.two.weight.grad is None
    assert net.head.weight.grad is None
    assert all(parameter.grad is not None for parameter in distiller.objective.parameters())


def test_stages_of_one_student_have_exits_of_their_own() -> None:
    """Heads that are shared, or that the optimizer does not see."""
    torch.manual_seed(0)
    terms = [Term(Supervised()), *(Term(OFA(), student=name, teacher="logits") for name in ("one", "two"))]
    distiller = Distiller(Net(), Net(), terms, example=BATCH)
    output = distiller(BATCH)
    output.loss.backward()
    assert set(output.terms) == {"supervised", "ofa", "ofa-2"}
    heads = [name for name, _ in distiller.objective.named_parameters() if ".head." in name]
    assert len(heads) == 8
    assert all(parameter.grad is not None for parameter in distiller.parameters())


def test_any_loss_between_logits_serves_an_exit() -> None:
    """Inputs of the wrapped loss in another order, or a loss that compares no logits."""
    torch.manual_seed(0)
    loss = ExitKD(DIST())
    assert loss.inputs == ("teacher", "where", "tokens")
    loss.build(torch.randn(6, 7), TEACHER)
    feature = torch.randn(6, 7)
    assert torch.equal(loss(feature, TEACHER, None, None), DIST()(loss.logits(feature, None), TEACHER))
    for wrong in (Supervised(), FeatureMSE()):
        with pytest.raises(LimbeckError, match="compares no logits with a teacher's"):
            ExitKD(wrong)


def test_what_has_no_exit_is_named() -> None:
    """An exit from the logits, from a feature of another rank, or without a head."""
    with pytest.raises(LimbeckError, match=r"OFA: give the Distiller example=batch \(or call build\)"):
        OFA()(torch.randn(4, 6), torch.randn(4, 5), None)
    with pytest.raises(LimbeckError, match="ofa: expected one feature of the student and logits"):
        OFA().build(torch.randn(4, 5), None)
    with pytest.raises(LimbeckError, match=r"exit: expected a map .* got shape \(4, 2, 2, 2, 2\)"):
        OFA().build(torch.randn(4, 2, 2, 2, 2), torch.randn(4, 5))
    loss = OFA()
    loss.build(torch.randn(4, 6), torch.randn(4, 5))
    with pytest.raises(LimbeckError, match="its head was built for 2 dimensions"):
        loss(torch.randn(4, 3, 6), torch.randn(4, 5), None)
    with pytest.raises(LimbeckError, match="BYOT alpha"):
        BYOT(alpha=1.5)
    with pytest.raises(LimbeckError, match="OFA gamma"):
        OFA(gamma=0.0)
