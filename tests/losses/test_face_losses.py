"""Losses between embeddings and against identities, against plain loops and pytorch-metric-learning."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from tests.losses.contract import PROMISES, Case, Promise
from torch import Tensor
from torch.nn import functional as F

from limbeck import Distiller, Term
from limbeck.errors import LimbeckError
from limbeck.losses import (
    RKD,
    ArcFace,
    ClassCentres,
    CosFace,
    EmbeddingCosine,
    EmbeddingL2,
    Loss,
    embedding_cosine,
    embedding_l2,
    margin_softmax,
)
from limbeck.losses.margins import metric_losses
from limbeck.models import ModelSpec, Shape, build

PERSONS = 3


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def naive_cosine(student: Tensor, teacher: Tensor, _labels: Tensor, loss: Loss) -> list[float]:
    assert isinstance(loss, EmbeddingCosine)
    both = zip(student.tolist(), teacher.tolist(), strict=True)
    return [(1 - cosine(s, t)) ** loss.power for s, t in both]


def naive_l2(student: Tensor, teacher: Tensor, _labels: Tensor, loss: Loss) -> list[float]:
    assert isinstance(loss, EmbeddingL2)
    values = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        a, b = (math.hypot(*s), math.hypot(*t)) if loss.normalize else (1.0, 1.0)
        values.append(sum((x / a - y / b) ** 2 for x, y in zip(s, t, strict=True)))
    return values


def with_margin(kind: str, value: float, margin: float) -> float:
    if kind == "cosface":
        return value - margin
    angle = math.acos(value)
    # Beyond 180 degrees cos would rise again; a straight line goes on falling.
    return math.cos(angle + margin) if angle <= math.pi - margin else value - margin * math.sin(margin)


def cross_entropy(logits: list[float], label: int) -> float:
    top = max(logits)
    return top + math.log(sum(math.exp(each - top) for each in logits)) - logits[label]


def at_centres(
    vector: list[float], centres: list[list[float]], label: int, kind: str, margin: float, scale: float
) -> float:
    cosines = [cosine(vector, centre) for centre in centres]
    return cross_entropy(
        [scale * (with_margin(kind, each, margin) if at == label else each) for at, each in enumerate(cosines)], label
    )


def naive_margin(student: Tensor, _teacher: Tensor, labels: Tensor, loss: Loss) -> list[float]:
    assert isinstance(loss, ArcFace | CosFace)
    margin = math.radians(loss.margin) if loss.name == "arcface" else loss.margin
    centres = loss.head.W.t().tolist()
    return [
        0.0 if label < 0 else at_centres(vector, centres, label, loss.name, margin, loss.scale)
        for vector, label in zip(student.tolist(), labels.tolist(), strict=True)
    ]


def naive_centres(student: Tensor, teacher: Tensor, labels: Tensor, loss: Loss) -> list[float]:
    assert isinstance(loss, ClassCentres)
    margin = math.radians(loss.margin) if loss.kind == "arcface" else loss.margin
    centres = loss.head.W.t().tolist()
    values = []
    for s, t, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        if label >= 0 and loss.hard:
            values.append(at_centres(s, centres, label, loss.kind, margin, loss.scale))
            continue
        mine, theirs = ([loss.scale * cosine(each, centre) for centre in centres] for each in (s, t))
        log_q, log_p = ([-cross_entropy(logits, at) for at in range(len(centres))] for logits in (mine, theirs))
        values.append(sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True)))
    return values


def centred(width: int, **options: object) -> ClassCentres:
    loss = ClassCentres(**options)  # type: ignore[arg-type]
    loss.remember(random(PERSONS, width, seed=9))
    return loss


CASES = [
    Case("cosine", EmbeddingCosine, (6, 5), (6, 5), naive_cosine, mismatch=(6, 4)),
    Case("cosine-power-1", partial(EmbeddingCosine, 1), (6, 5), (6, 5), naive_cosine, mismatch=(5, 5)),
    Case("l2", EmbeddingL2, (6, 5), (6, 5), naive_l2, mismatch=(6, 4)),
    Case("l2-as-it-is", partial(EmbeddingL2, False), (6, 5), (6, 5), naive_l2, mismatch=(5, 5)),
    Case("arcface", partial(ArcFace, PERSONS), (8, 5), (8, 5), naive_margin, equal=False),
    Case("arcface-wide", partial(ArcFace, PERSONS, 80.0, 8.0), (8, 2), (8, 2), naive_margin, equal=False),
    Case("cosface", partial(CosFace, PERSONS), (8, 5), (8, 5), naive_margin, equal=False),
    Case("centres", partial(centred, 5), (8, 5), (8, 5), naive_centres, equal=False, mismatch=(8, 4)),
    Case("centres-cosface", partial(centred, 5, kind="cosface"), (8, 5), (8, 5), naive_centres, equal=False),
    Case("centres-shares", partial(centred, 5, hard=False, scale=8.0), (8, 5), (8, 5), naive_centres),
]  # fmt: skip


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    promise(case)


@pytest.mark.parametrize("kind", [ArcFace, CosFace])
def test_margins_are_those_of_pytorch_metric_learning(kind: Callable[..., ArcFace | CosFace]) -> None:
    """A margin at another place, or a mean over other items, than in the library that users compare with."""
    loss = kind(7)
    loss.build(random(1, 16, dtype=torch.float32), None)
    embeddings, labels = random(32, 16, dtype=torch.float32) * 5, torch.arange(32) % 7
    reducers = importlib.import_module("pytorch_metric_learning.reducers")
    theirs = type(loss.head)(7, 16, margin=loss.margin, scale=loss.scale, reducer=reducers.DoNothingReducer())
    theirs.load_state_dict(loss.head.state_dict())
    expected = theirs(embeddings, labels)["loss"]["losses"]
    torch.testing.assert_close(loss(embeddings, labels), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [ArcFace, CosFace])
def test_an_embedding_on_its_centre_has_a_finite_gradient(kind: Callable[..., ArcFace | CosFace]) -> None:
    """The slope of an angle of 0, which is infinite: one picture that is learned by heart ends the training."""
    loss = kind(PERSONS)
    loss.build(torch.zeros(1, 4), None)
    on = loss.head.W.detach().t().clone().requires_grad_()
    values = torch.cat([loss(on, torch.arange(PERSONS)), loss(-on, torch.arange(PERSONS))])
    values.sum().backward()
    assert bool(values.isfinite().all())
    assert on.grad is not None
    assert bool(on.grad.isfinite().all())
    assert bool(loss.head.W.grad.isfinite().all())


def test_mixed_precision_does_not_round_cosines() -> None:
    """Cosines times 64 in bfloat16, and class centres that a head turns into half precision for good."""
    loss = ArcFace(PERSONS)
    loss.build(torch.zeros(1, 8), None)
    embeddings, labels = random(6, 8, dtype=torch.float32), torch.arange(6) % PERSONS
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(embeddings, labels)
    torch.testing.assert_close(inside, loss(embeddings, labels), rtol=0, atol=0)
    loss(embeddings.bfloat16(), labels)
    assert loss.head.W.dtype is torch.float32


def test_directions_do_not_depend_on_length() -> None:
    """An embedding that is compared with its length, which says how good a picture is and not who is in it."""
    student, teacher = random(8, 5), random(8, 5, seed=1)
    torch.testing.assert_close(embedding_cosine(7 * student, teacher), embedding_cosine(student, teacher))
    torch.testing.assert_close(embedding_l2(7 * student, 3 * teacher), embedding_l2(student, teacher))
    halves = embedding_l2(student, teacher) / 2
    torch.testing.assert_close(halves, embedding_cosine(student, teacher, power=1))
    torch.testing.assert_close(halves, 1 - F.cosine_similarity(student, teacher))


def test_class_centres_stay_as_they_are() -> None:
    """A teacher's head that is trained away under the student."""
    loss = centred(5)
    assert not list(loss.parameters())
    before = loss.head.W.clone()
    student = random(4, 5, dtype=torch.float32).requires_grad_()
    loss(student, random(4, 5, seed=1, dtype=torch.float32), torch.tensor([0, -1, 2, 1])).sum().backward()
    assert torch.equal(loss.head.W, before)
    assert student.grad is not None
    assert bool((student.grad.abs().sum(1) > 0).all())


@pytest.mark.parametrize("named", [True, False])
def test_models_of_other_widths_learn_by_all_of_them(named: bool) -> None:
    """Embeddings that are found under no name, a projector that is missing, and relations that ask for one width."""
    torch.manual_seed(0)
    shape = Shape(0, 3, (16, 16), "embedding")
    student = build(ModelSpec("embedding:resnet8", {"width": 6}), shape)
    teacher = build(ModelSpec("embedding:iresnet10", {"width": 10, "widths": [4, 4, 4, 4]}), shape)
    signals = {"student": "embedding", "teacher": "embedding"} if named else {}
    terms = [Term(ArcFace(PERSONS), **({"student": "embedding"} if named else {}))]
    terms += [Term(loss, **signals) for loss in (EmbeddingCosine(), EmbeddingL2(), centred(10), RKD())]
    labels = torch.tensor([0, 1, 2, -1, 0, 1, 2, -1])
    batch = {"inputs": random(8, 3, 16, 16, dtype=torch.float32), "labels": labels}
    distiller = Distiller(student, teacher, terms, example=batch)
    output = distiller(batch)
    assert bool(output.loss.isfinite())
    output.loss.backward()
    trained = [name for name, each in distiller.named_parameters() if each.requires_grad and each.grad is not None]
    assert {name for name, each in distiller.named_parameters() if each.requires_grad} == set(trained)
    assert {name.split(".")[1] for name in trained if name.startswith("objective.projectors")} == {"projectors"}
    assert {term.name for term in distiller.objective.terms if term.projector is not None} == {
        "embedding-cosine", "embedding-l2", "class-centres",
    }  # fmt: skip


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that broadcast, heads of another width, and losses that were not told what they need."""
    loss = ArcFace(PERSONS)
    with pytest.raises(LimbeckError, match="give the Distiller example=batch"):
        loss(random(2, 4), torch.tensor([0, 1]))
    with pytest.raises(LimbeckError, match="how many persons there are is not known; give classes"):
        ArcFace().build(random(2, 4), None)
    loss.build(random(2, 4), None)
    with pytest.raises(LimbeckError, match=r"labels of shape \(2,\)"):
        margin_softmax(random(2, 4), torch.zeros(2, 1, dtype=torch.int64), loss.head)
    with pytest.raises(LimbeckError, match=r"embeddings of shape \(batch, 4\)"):
        loss(random(2, 5), torch.tensor([0, 1]))
    with pytest.raises(LimbeckError, match="no labels"):
        loss(random(2, 4), None)
    with pytest.raises(LimbeckError, match=r"centres are not known; call remember"):
        ClassCentres()(random(2, 4), random(2, 4), None)
    with pytest.raises(LimbeckError, match="did you mean 'arcface'"):
        ClassCentres(kind="arcfac")  # type: ignore[arg-type]
    with pytest.raises(LimbeckError, match="1 or more"):
        EmbeddingCosine(0.5)
    with pytest.raises(LimbeckError, match="tap what gives a vector"):
        embedding_cosine(random(2, 4, 3), random(2, 4, 3))
    monkeypatch.setitem(__import__("sys").modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(LimbeckError, match=r'pip install "limbeck\[faces\]"'):
        metric_losses("arcface")
