"""The losses of detectors against plain loops, and what all losses promise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.losses import detection_reference as naive
from tests.losses.contract import PROMISES, Case, Promise
from torch import Tensor, nn

from limbeck import LimbeckError
from limbeck.losses import (
    FGD,
    BoxGIoU,
    BoxIoU,
    CrossHead,
    Localization,
    Loss,
    ModelLoss,
    QualityFocal,
    QueryMatching,
    SoftBoxes,
    box_giou,
    cross_head,
    fgd,
    localization,
    model_loss,
    quality_focal,
    query_matching,
    soft_boxes,
)
from limbeck.losses.detection.confidence import with_quality
from limbeck.losses.detection.cross_head import aligned_scale
from limbeck.losses.detection.fgd import RelationBlock
from limbeck.losses.detection.localization import projected
from limbeck.losses.detection.matching import matched
from limbeck.losses.detection.soft_boxes import NOTHING, found_by

BATCH, PLACES, KINDS, BINS, SIZE = 4, 5, 3, 6, (40, 60)
LOGITS, BOXES, EDGES = (BATCH, PLACES, KINDS), (BATCH, PLACES, 4), (BATCH, PLACES, 4, BINS)


def as_boxes(raw: Tensor) -> Tensor:
    """Boxes with a width and height, from any numbers (…, 4)."""
    raw = raw if raw.dtype is torch.float64 else raw.float()
    known = raw.nan_to_num()  # NaN that is masked reaches the loss, but not the gradient of what makes boxes here
    centre, size = known[..., :2] * 8 + 25, torch.nn.functional.softplus(known[..., 2:]) * 9 + 1
    return torch.where(raw.isnan(), torch.nan, torch.cat([centre - size / 2, centre + size / 2], -1))


def as_edges(raw: Tensor) -> Tensor:
    """Positions of bins for each query of (batch, queries, 4, bins), rising away from the middle of a box. They are
    given to a loss, not learned, so they do not follow from `raw`; the same in all pictures."""
    dtype = torch.float64 if raw.dtype is torch.float64 else torch.float32
    steps = torch.nn.functional.softplus(numbers(*raw.shape[1:], seed=raw.shape[1], dtype=dtype)).cumsum(-1)
    return steps.expand(raw.shape) * torch.tensor([-1.0, -1, 1, 1], dtype=steps.dtype).unsqueeze(-1)


class Boxed(Loss):
    """A loss of which some signals are made boxes, or positions of bins, first."""

    def __init__(self, loss: Loss, student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
        super().__init__()
        self.loss, self.of = loss, (student, teacher)
        self.name, self.inputs = loss.name, loss.inputs

    def forward(self, student: Any, teacher: Any, *given: Any) -> Tensor:
        return self.loss(self.made(student, self.of[0]), self.made(teacher, self.of[1]), *given)

    @staticmethod
    def made(signals: Any, places: tuple[int, ...]) -> Any:
        if isinstance(signals, Tensor):
            return as_boxes(signals) if places else signals
        found = [as_boxes(each) if index in places else each for index, each in enumerate(signals)]
        return [*found[:3], as_edges(found[3])] if len(found) == 4 else found


def listed(signals: Any) -> Any:
    return signals.tolist() if isinstance(signals, Tensor) else [each.tolist() for each in signals]


def queries(student: Any, teacher: Any, _labels: Tensor, loss: Any) -> list[float]:
    student, teacher = Boxed.made(student, (1,)), Boxed.made(teacher, (1,))
    inner = loss.loss
    settings = {name: getattr(inner, name) for name in ("classes", "boxes", "edges", "beta", "temperature")}
    return naive.query_matching(listed(student), listed(teacher), SIZE, **settings)


PICTURES = {"batch": {"inputs": torch.zeros(BATCH, 3, *SIZE)}}
MORE, FEWER = (BATCH, PLACES + 1), (BATCH, PLACES - 2)

CASES = [
    Case(
        "quality-focal", QualityFocal, LOGITS, LOGITS,
        lambda s, t, _, loss: naive.quality_focal(s.tolist(), t.tolist(), loss.beta),
        couples=True, mismatch=(BATCH, PLACES, KINDS + 1),
    ),
    Case(
        "cross-entropy", lambda: QualityFocal(beta=0.0), LOGITS, LOGITS,
        lambda s, t, _, loss: naive.quality_focal(s.tolist(), t.tolist(), 0.0),
        equal=False, couples=True, mismatch=(BATCH, PLACES + 2, KINDS),
    ),
    Case(
        "box-iou", lambda: Boxed(BoxIoU(), (0,), (0,)), BOXES, (BOXES, LOGITS),
        lambda s, t, _, loss: naive.boxes(as_boxes(s).tolist(), as_boxes(t[0]).tolist(), t[1].tolist(), 0),
        couples=True, mismatch=((*MORE, 4), (*MORE, KINDS)),
    ),
    Case(
        "box-giou", lambda: Boxed(BoxGIoU(), (0,), (0,)), BOXES, (BOXES, LOGITS),
        lambda s, t, _, loss: naive.boxes(as_boxes(s).tolist(), as_boxes(t[0]).tolist(), t[1].tolist(), 1),
        couples=True, mismatch=((*MORE, 4), (*MORE, KINDS)),
    ),
    Case(
        "localization", Localization, EDGES, (EDGES, LOGITS),
        lambda s, t, _, loss: naive.localization(s.tolist(), t[0].tolist(), t[1].tolist(), loss.temperature),
        couples=True, mismatch=((*EDGES[:3], BINS + 1), LOGITS),
    ),
    Case(
        "query-matching", lambda: Boxed(QueryMatching(), (1,), (1,)), (LOGITS, BOXES), (LOGITS, BOXES), queries,
        couples=True, given=PICTURES, mismatch=((BATCH, PLACES, KINDS + 1), BOXES), slack=1e-6,
    ),
    Case(
        "fewer-queries-teach", lambda: Boxed(QueryMatching(boxes=0.5, beta=2.0), (1,), (1,)),
        (LOGITS, BOXES), ((*FEWER, KINDS), (*FEWER, 4)), queries, couples=True, given=PICTURES,
    ),
    Case(
        "more-queries-teach", lambda: Boxed(QueryMatching(classes=2.0), (1,), (1,)),
        (LOGITS, BOXES), ((*MORE, KINDS), (*MORE, 4)), queries, couples=True, given=PICTURES,
    ),
    Case(
        "edges-of-other-bins", lambda: Boxed(QueryMatching(edges=0.5), (1,), (1,)),
        (LOGITS, BOXES, EDGES, EDGES), ((*FEWER, KINDS), (*FEWER, 4), (*FEWER, 4, 4), (*FEWER, 4, 4)), queries,
        couples=True, given=PICTURES,
    ),
]  # fmt: skip


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    promise(case)


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_losses_are_zero_where_student_and_teacher_agree() -> None:
    """A loss that pulls the student away from the teacher, where shapes of both sides differ."""
    boxes, logits, edges = as_boxes(numbers(*BOXES)), numbers(*LOGITS), numbers(*EDGES)
    assert float(box_giou(boxes, boxes, logits).abs().max()) < 1e-7
    assert float(localization(edges, edges, logits).abs().max()) < 1e-12
    assert float(cross_head(logits, logits, boxes, boxes).abs().max()) < 1e-7
    bins = as_edges(numbers(*EDGES, seed=1))
    signals = (logits, boxes, edges, bins)
    assert float(query_matching(signals, signals, SIZE).abs().max()) < 1e-6


@pytest.mark.parametrize("loss", [QualityFocal(), BoxGIoU(), BoxIoU(), Localization()], ids=lambda loss: loss.name)
def test_other_locations_are_named(loss: Loss) -> None:
    """Locations of another grid that are compared because the numbers fit, or an error without a way on."""
    signals = {"logits": numbers(2, 7, 3), "boxes": as_boxes(numbers(2, 7, 4)), "distribution": numbers(2, 7, 4, 5)}
    names = loss.teacher_signals or "logits"
    given = [signals[name] for name in names] if isinstance(names, tuple) else signals[names]
    own = signals[loss.student_signals if isinstance(loss.student_signals, str) and loss.student_signals else "logits"]
    with pytest.raises(LimbeckError, match=r"other locations.*pseudo_boxes"):
        loss(own[:, :5], given)


def test_a_projected_distribution_keeps_its_mean() -> None:
    """Mass that goes to the wrong side of a bin, or is lost beyond the last one."""
    onto = as_edges(numbers(2, 3, 4, 7))
    places = as_edges(numbers(2, 3, 4, 5, seed=1)).clamp(
        onto.minimum(onto.flip(-1)).amin(-1, keepdim=True), onto.amax(-1, keepdim=True)
    )
    p = numbers(2, 3, 4, 5, seed=2).softmax(-1)
    got = projected(p, places, onto)
    torch.testing.assert_close(got.sum(-1), torch.ones(2, 3, 4, dtype=got.dtype))
    torch.testing.assert_close((got * onto).sum(-1), (p * places).sum(-1))
    same = numbers(2, 3, 4, 7, seed=3).softmax(-1)
    torch.testing.assert_close(projected(same, onto, onto), same)
    far = projected(p, onto[..., -1:].expand_as(p) * 9, onto)
    torch.testing.assert_close(far[..., -1], torch.ones_like(far[..., -1]))


def test_a_detector_s_own_loss_is_handed_on() -> None:
    """A picture without annotation whose NaN gets through."""
    values = torch.tensor([1.0, torch.nan, 3.0], requires_grad=True)
    where = torch.tensor([True, False, True])
    got = model_loss(values, where)
    assert got.tolist() == [1.0, 0.0, 3.0]
    got.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 0.0, 1.0]
    assert ModelLoss()(values[:1]).tolist() == [1.0]
    with pytest.raises(LimbeckError, match="one value a picture"):
        model_loss(torch.zeros(3, 2))


FIELD = (BATCH, 4, 5, 6)


def field() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    boxes = torch.tensor([[0.0, 0, 30, 20], [10, 10, 25, 30], [3, 3, 4, 4]], dtype=torch.float64).expand(BATCH, -1, -1)
    kinds = torch.tensor([[0, 1, -1], [2, -1, -1], [-1, -1, -1], [0, -2, 1]])
    return numbers(*FIELD), numbers(*FIELD, seed=1), boxes, kinds


def test_fgd_equals_loops() -> None:
    """A box's area, the smallest of boxes on each other, attentions, or a picture without boxes."""
    student, teacher, boxes, kinds = field()
    known = torch.tensor([True, True, True, False])
    settings = {"temperature": 0.7, "alpha": 0.3, "beta": 0.2, "gamma": 0.1}
    got = fgd(student, teacher, boxes, kinds, SIZE, known, **settings)
    for row in range(BATCH):
        own = boxes[row][kinds[row] >= 0].tolist()
        expected = naive.fgd(student[row].tolist(), teacher[row].tolist(), own, SIZE, bool(known[row]), **settings)
        assert float(got[row]) == pytest.approx(expected, rel=1e-9)
    none = fgd(
        student,
        teacher,
        torch.zeros(BATCH, 0, 4, dtype=torch.float64),
        torch.zeros(BATCH, 0, dtype=torch.int64),
        SIZE,
        **settings,
    )
    expected = naive.fgd(student[0].tolist(), teacher[0].tolist(), [], SIZE, True, **settings)
    assert float(none[0]) == pytest.approx(expected, rel=1e-9)


def test_fgd_relates_positions() -> None:
    """A relation block that is not what the paper's is: attention over positions, then two convolutions, added."""
    torch.manual_seed(0)
    block = RelationBlock(4).double()
    maps = numbers(*FIELD)
    torch.testing.assert_close(block(maps), maps)  # it begins as the identity
    nn.init.normal_(block.transform[-1].weight)
    first, norm, _, last = block.transform
    expected = []
    for each in maps:
        weights = (each * block.attention.weight[0]).sum(0).add(block.attention.bias).flatten().softmax(0)
        context = (each.flatten(1) * weights).sum(1)
        hidden = first.weight[:, :, 0, 0] @ context + first.bias
        hidden = (hidden - hidden.mean()) / (hidden.var(unbiased=False) + norm.eps).sqrt()
        expected.append(each + (last.weight[:, :, 0, 0] @ hidden.relu() + last.bias)[:, None, None])
    torch.testing.assert_close(block(maps), torch.stack(expected))
    student, teacher, boxes, kinds = field()
    other = RelationBlock(4).double()
    got = fgd(student, teacher, boxes, kinds, SIZE, None, (block, other), lam=0.5)
    more = 0.5 * (block(student) - other(teacher)).square().sum((1, 2, 3))
    torch.testing.assert_close(got, fgd(student, teacher, boxes, kinds, SIZE) + more)


def test_fgd_takes_the_boxes_of_a_batch() -> None:
    """Boxes of another size than the pictures, pictures without annotation, blocks that are not learned."""
    student, teacher, boxes, kinds = field()
    batch = {"inputs": torch.zeros(BATCH, 3, *SIZE), "boxes": boxes, "box_classes": kinds}
    loss = FGD()
    with pytest.raises(LimbeckError, match="example=batch"):
        loss(student, teacher, batch)
    loss.build(student, teacher)
    loss.double()
    assert loss.relations is not None
    expected = fgd(student, teacher, boxes, kinds, SIZE, None, (loss.relations[0], loss.relations[1]))
    torch.testing.assert_close(loss(student, teacher, batch), expected)
    only = {**batch, "labels": torch.tensor([1, -1, 0, 2])}
    values = loss(student, teacher, only)
    assert float(values[1].detach()) < float(expected[1].detach())
    loss(student, teacher, batch).sum().backward()
    assert all(each.grad is not None for each in loss.parameters())
    with pytest.raises(LimbeckError, match="no boxes"):
        loss(student, teacher, {"inputs": batch["inputs"]})
    with pytest.raises(LimbeckError, match="shape"):
        fgd(student, teacher[..., :3], boxes, kinds, SIZE)


def test_soft_boxes_equal_loops() -> None:
    """Another target of a location, or weights and divisors of the wrong ones."""
    logits, boxes = numbers(*LOGITS), as_boxes(numbers(*BOXES, seed=1))
    found = numbers(BATCH, 2, KINDS, seed=2), as_boxes(numbers(BATCH, 2, 4, seed=3))
    places = torch.tensor([[0, 1, -1, -2, 0], [-1] * 5, [1] * 5, [-2, -1, 0, 1, -1]])
    for beta in (0.0, 2.0):
        settings = {"classes": 0.7, "boxes": 1.5, "beta": beta}
        got = soft_boxes((logits, boxes), found, places, **settings)
        expected = naive.soft_boxes(listed((logits, boxes)), listed(found), places.tolist(), **settings)
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))
    where = torch.tensor([True, False, True, True])
    spoilt = logits.masked_fill(~where[:, None, None], torch.nan)
    whole = soft_boxes((spoilt, boxes), found, places, where)
    rows = [(each[0][where], each[1][where]) for each in ((logits, boxes), found)]
    torch.testing.assert_close(whole[where], soft_boxes(rows[0], rows[1], places[where]))
    assert float(whole[1]) == 0.0


def test_what_a_teacher_finds() -> None:
    """Boxes below the score, doubles, boxes without width, or rows of another picture."""
    logits = torch.full((2, 5, 2), -9.0)
    logits[0, :4, 0] = torch.tensor([2.0, 1.0, 0.5, 3.0])
    logits[0, 2] = torch.tensor([-9.0, 0.5])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [5, 5, 5, 9], [1, 1, 2, 2]]).repeat(2, 1, 1)
    kept, all_logits, all_boxes = found_by(logits, boxes, score=0.3, overlap=0.6, most=10)
    assert [len(each) for each in kept] == [2, 0]
    assert all_logits.shape == (2, 2, 2)
    assert all_logits[0].argmax(-1).tolist() == [0, 1]
    assert float(all_logits[1].sigmoid().max()) < 1e-6
    assert all_boxes[0].tolist() == [[0, 0, 10, 10], [0, 0, 10, 10]]


class Dense(nn.Module):
    """A stand-in for a detector with two locations."""

    def assigned(self, boxes: list[Tensor]) -> Tensor:
        return torch.tensor([[0 if len(each) else -1, -1] for each in boxes])


def test_soft_boxes_ask_the_student_where() -> None:
    """A dense student that learns at locations which its own loss calls background, or a set matched as if dense."""
    logits, boxes = numbers(2, 2, 3), as_boxes(numbers(2, 2, 4, seed=1))
    teacher = numbers(2, 6, 3, seed=2), as_boxes(numbers(2, 6, 4, seed=3))
    batch = {"inputs": torch.zeros(2, 3, *SIZE)}
    loss = SoftBoxes()
    _, *found = found_by(*teacher, score=0.1, overlap=0.6, most=100)
    as_a_set = loss((logits, boxes), teacher, batch)
    matched = query_matching((logits, boxes), found, SIZE, beta=2.0, boxes=2.0)
    torch.testing.assert_close(as_a_set, matched)
    loss.meet(Dense(), None)
    places = torch.tensor([[0, -1], [0, -1]])
    torch.testing.assert_close(loss((logits, boxes), teacher, batch), soft_boxes((logits, boxes), found, places))
    assert not list(loss.children())


def test_what_fills_up_a_batch_changes_no_matching() -> None:
    """Pictures with many objects that change what a picture beside them learns."""
    moved = 0
    for seed in range(20):
        student = numbers(1, 30, KINDS, seed=seed), as_boxes(numbers(1, 30, 4, seed=100 + seed))
        found = numbers(1, 3, KINDS, seed=200 + seed), as_boxes(numbers(1, 3, 4, seed=300 + seed))
        padded = (
            torch.cat([found[0], torch.full((1, 20, KINDS), NOTHING, dtype=torch.float64)], 1),
            torch.cat([found[1], torch.zeros(1, 20, 4, dtype=torch.float64)], 1),
        )
        alone, beside = (query_matching(student, each, SIZE) for each in (found, padded))
        torch.testing.assert_close(alone, beside)
        scale = torch.tensor([60.0, 40, 60, 40], dtype=torch.float64)
        places = [matched(*student, *each, scale) for each in (found, padded)]
        assert places[0].tolist() == places[1][:, :3].tolist()
        assert len(set(places[1][0].tolist())) == 23
        moved += len({*places[0][0].tolist()} - {0, 1, 2}) > 0
    assert moved == 20  # it is no matching by number


def test_a_logit_of_class_and_quality() -> None:
    """Scores of 0 or 1 that become infinite, or a root that is not taken."""
    logits, quality = torch.tensor([[[-80.0, 0.0, 80.0]]]), torch.tensor([[80.0]])
    scored = with_quality(logits, quality)
    assert scored.isfinite().all()
    assert scored.sigmoid()[0, 0].tolist() == pytest.approx([math.exp(-40), math.sqrt(0.5), 1.0], rel=1e-5)


def test_features_take_the_teacher_s_scale() -> None:
    """Levels that share a scale, or pictures that do not count and yet change it."""
    student, teacher = numbers(3, 6, 2) * 3 + 1, numbers(3, 6, 2, seed=1) - 2
    where = torch.tensor([True, False, True])
    got = aligned_scale(student, teacher, [4, 2], where)
    rows = aligned_scale(student[where], teacher[where], [4, 2])
    torch.testing.assert_close(got[where], rows)
    for level in (slice(0, 4), slice(4, 6)):
        for channel in range(2):
            own, their = rows[:, level, channel].flatten(), teacher[where][:, level, channel].flatten()
            torch.testing.assert_close(own.mean(), their.mean())
            torch.testing.assert_close(own.std(), their.std(), rtol=1e-5, atol=0)
    flat = aligned_scale(torch.zeros(2, 3, 1, requires_grad=True), numbers(2, 3, 1, dtype=torch.float32), [3])
    flat.sum().backward()
    assert bool(flat.isfinite().all())


def test_cross_head_needs_heads() -> None:
    """A detector without towers, or a teacher that does not run, that fails half way."""
    with pytest.raises(LimbeckError, match="needs a student whose head has towers"):
        CrossHead().meet(nn.Linear(1, 1), None)
    with pytest.raises(LimbeckError, match="example=batch"):
        CrossHead()((numbers(1, 2, 3),) * 2, (numbers(1, 2, 3),) * 4)
    edges, logits = numbers(*EDGES), numbers(*LOGITS)
    other = numbers(*EDGES, seed=1)
    got = cross_head(logits, logits, edges, other, classes=0.0, boxes=2.0)
    torch.testing.assert_close(got, 2.0 * localization(edges, other, logits, temperature=1.0))
    torch.testing.assert_close(
        cross_head(logits, logits + 1, as_boxes(numbers(*BOXES)), as_boxes(numbers(*BOXES)), classes=0.4),
        0.4 * quality_focal(logits, logits + 1),
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: QualityFocal(beta=0.5),
        lambda: Localization(temperature=0.0),
        lambda: FGD(alpha=-1.0),
        lambda: CrossHead(after=-1),
        lambda: QueryMatching(boxes=-1.0),
        lambda: SoftBoxes(score=2.0),
    ],
)
def test_settings_out_of_range(make: Any) -> None:
    """A setting that nobody can mean."""
    with pytest.raises(LimbeckError, match="expected"):
        make()
