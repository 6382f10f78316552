"""Contrast with remembered embeddings, against a loop; banks that are saved, and that a trainer prepares."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.losses.contract import PROMISES, Case, Promise, built
from tests.test_trainer import data, losses, net, trainer
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from limbeck import Distiller, LimbeckError, Term
from limbeck.losses import CRD, Loss, Supervised, crd
from limbeck.sources import collate_samples, ids_of

IDS = torch.tensor([-7, 0, 1, 2, 3, 5, 6, 9, 2**62])
"""Of the contract's batch 0, …, 7 all but 4 and 7 are known."""

Row = list[float]


def prepared(**settings: Any) -> CRD:
    """A loss in the middle of a training: constants measured, some labels seen."""
    loss = CRD(**{"width": 4, "negatives": 5, "temperature": 0.5, **settings})
    loss.prepare(IDS)
    state = loss.state_dict()
    state["log_constants"] = torch.tensor([1.5, 2.5])
    state["sample_labels"] = torch.tensor([0, 2, -1, 1, 1, -1, 2, 0, 1, -1])
    loss.load_state_dict(state)
    return loss


def embedding(row: Row, layer: Any) -> Row:
    out = [
        sum(w * x for w, x in zip(weights, row, strict=True)) + bias
        for weights, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]
    return [x / math.hypot(*out) for x in out]


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def naive(student: Tensor, teacher: Tensor, labels: Tensor, loss: Loss) -> list[float]:
    assert isinstance(loss, CRD)
    known, total = loss.sample_ids.tolist(), len(loss.sample_ids)
    negatives = [i * total // loss.negatives for i in range(loss.negatives)]
    sides = [
        [embedding(row, layer) for row in rows.tolist()]
        for rows, layer in ((student, loss.student_embedding), (teacher, loss.teacher_embedding))
    ]
    banks = [loss.student_bank.tolist(), loss.teacher_bank.tolist()]
    values = []
    for item, label in enumerate(labels.tolist()):
        at = known.index(item) if item in known else None
        value = 0.0
        kept = [
            row for row in negatives
            if row != at and not (loss.other_classes and 0 <= label == loss.sample_labels[row])
        ]  # fmt: skip
        for side, other in ((0, 1), (1, 0)):
            anchor, constant = sides[side][item], math.exp(float(loss.log_constants[side]))
            positive = sides[other][item] if at is None else banks[other][at]
            score = math.exp(dot(anchor, positive) / loss.temperature) / constant
            noise = len(kept) / total
            value -= math.log(score / (score + noise))
            for row in kept:
                score = math.exp(dot(anchor, banks[other][row]) / loss.temperature) / constant
                value -= math.log(noise / (score + noise))
        values.append(value)
    return values


def naive_pooled(student: Tensor, teacher: Tensor, labels: Tensor, loss: Loss) -> list[float]:
    return naive(student.mean((2, 3)), teacher.mean(1), labels, loss)


CASES = [
    Case("crd", prepared, (8, 5), (8, 3), naive, equal=False, couples=True, mismatch=(7, 3)),
    Case("same-classes", lambda: prepared(other_classes=False), (8, 5), (8, 5), naive, equal=False, couples=True),
    Case("maps-and-tokens", prepared, (8, 5, 2, 2), (8, 4, 6), naive_pooled, equal=False, couples=True),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    promise(case)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fresh(samples: int = 20, **settings: Any) -> CRD:
    torch.manual_seed(0)
    loss = CRD(**{"width": 4, "negatives": 8, **settings})
    loss.build(random(6, 5), random(6, 3))
    loss.prepare(torch.arange(samples))
    return loss.train()


STUDENT, TEACHER, LABELS, BATCH = random(6, 5), random(6, 3, seed=1), torch.tensor([0, 1, -1, 2, 0, 1]), torch.arange(6)


def unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


def test_a_step_updates_what_is_remembered_of_its_samples_only() -> None:
    """A bank that never moves, moves for masked or unknown samples, or keeps vectors that are not of length 1."""
    loss = fresh()
    before = [loss.student_bank.clone(), loss.teacher_bank.clone()]
    ids = torch.tensor([3, 8, 500, 0, 4, 5])
    where = torch.tensor([True, True, True, False, True, True])
    loss(STUDENT, TEACHER, LABELS, ids, where)
    assert loss.student_embedding is not None
    assert loss.teacher_embedding is not None
    moved, seen = torch.tensor([3, 8, 4, 5]), torch.tensor([0, 1, 4, 5])
    stays = torch.tensor([row for row in range(20) if row not in moved.tolist()])
    for old, bank, layer, rows in (
        (before[0], loss.student_bank, loss.student_embedding, STUDENT),
        (before[1], loss.teacher_bank, loss.teacher_embedding, TEACHER),
    ):
        mixed = 0.5 * old[moved] + 0.5 * unit(layer(rows))[seen]
        torch.testing.assert_close(bank[moved], unit(mixed))
        assert torch.equal(bank[stays], old[stays])
        assert not bank.requires_grad
    assert loss.sample_labels[moved].tolist() == LABELS[seen].tolist()
    assert bool((loss.sample_labels[stays] == -1).all())


def test_evaluation_changes_nothing_and_repeats() -> None:
    """An evaluation that teaches the banks, or draws random numbers which training would have had."""
    loss = fresh().eval()
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    torch.manual_seed(5)
    first = loss(STUDENT, TEACHER, LABELS, BATCH)
    assert torch.equal(loss(STUDENT, TEACHER, LABELS, BATCH), first)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    for name, value in loss.state_dict().items():
        assert torch.equal(value, state[name])


def test_a_sample_is_not_its_own_negative() -> None:
    """A sample that is pushed from itself; with labels, from the others of its class."""
    loss = fresh(samples=7, negatives=50, other_classes=False).eval()
    assert loss.student_embedding is not None
    assert loss.teacher_embedding is not None
    student, teacher = unit(loss.student_embedding(STUDENT)), unit(loss.teacher_embedding(TEACHER))
    chosen = torch.tensor([i * 7 // 6 for i in range(6)])
    constants = torch.zeros(2)
    loss.load_state_dict({**loss.state_dict(), "log_constants": constants})
    expected = torch.cat([
        crd(student[i:i + 1], teacher[i:i + 1], (loss.student_bank[i:i + 1], loss.teacher_bank[i:i + 1]),
            (loss.student_bank[chosen[chosen != i]], loss.teacher_bank[chosen[chosen != i]]),
            samples=7, log_constants=constants)
        for i in range(6)
    ])  # fmt: skip
    torch.testing.assert_close(loss(STUDENT, TEACHER, LABELS, BATCH), expected)


def test_the_constant_makes_the_first_batch_s_mean_score_that_of_noise() -> None:
    """Z from a sum in place of a mean, from masked items, or measured anew at every step."""
    loss = fresh(temperature=1.0, other_classes=False).train()
    assert loss.student_embedding is not None
    banks = (loss.student_bank.clone(), loss.teacher_bank.clone())
    where = torch.tensor([True, True, False, True, True, True])
    state = torch.random.get_rng_state()
    loss(STUDENT.masked_fill(~where.unsqueeze(1), torch.nan), TEACHER, None, BATCH, where)
    torch.random.set_rng_state(state)
    chosen = torch.randint(20, (8,))
    scores = []
    for item in BATCH[where].tolist():
        anchor = unit(loss.student_embedding(STUDENT))[item].detach()
        scores += [float((anchor @ banks[1][row]).exp()) for row in [item, *chosen[chosen != item].tolist()]]
    constant = sum(scores) / len(scores) * 20
    torch.testing.assert_close(loss.log_constants[0].exp().item(), constant, rtol=1e-5, atol=0)
    measured = loss.log_constants.clone()
    loss(3.0 * TEACHER @ random(3, 5), TEACHER, None, BATCH)
    assert torch.equal(loss.log_constants, measured)


def test_a_batch_in_which_nothing_counts() -> None:
    """NaN in value, gradient or constants from a first batch that is all masked."""
    loss = fresh()
    student = STUDENT.clone().requires_grad_()
    values = loss(student, TEACHER, LABELS, BATCH, torch.zeros(6, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert bool((values == 0).all())
    assert bool((gradient == 0).all())
    assert bool(loss(student, TEACHER, LABELS, BATCH).isfinite().all())
    assert bool(loss.log_constants.isfinite().all())


def test_a_single_sample_and_a_cold_temperature() -> None:
    """The logarithm of no noise, and exponentials beyond the range of float32."""
    for loss in (fresh(samples=1), fresh(temperature=0.005)):
        student = STUDENT[:1].clone().requires_grad_()
        values = loss(student, TEACHER[:1], LABELS[:1], BATCH[:1])
        values.sum().backward()
        assert bool(values.isfinite().all())
        assert student.grad is not None
        assert bool(student.grad.isfinite().all())


def test_mixed_precision_does_not_round_scores() -> None:
    """Scores of a temperature of 0.07 in bfloat16, where rounding a cosine moves its score by a tenth."""
    loss = fresh().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(STUDENT, TEACHER, LABELS, BATCH)
    torch.testing.assert_close(inside, loss(STUDENT, TEACHER, LABELS, BATCH), rtol=0, atol=0)


def test_labels_that_are_no_classes_exclude_nothing() -> None:
    """Several labels a sample, or mixed ones, compared as if they were class indices."""
    loss = built(CASES[0])
    assert isinstance(loss, CRD)
    student, teacher = random(8, 5).double(), random(8, 3).double()
    expected = loss(student, teacher, None, torch.arange(8))
    torch.testing.assert_close(loss(student, teacher, torch.rand(8, 3), torch.arange(8)), expected)
    assert not torch.equal(loss(student, teacher, torch.ones(8).long(), torch.arange(8)), expected)


def test_training_learns_the_pairs() -> None:
    """A sign that pushes a sample's embeddings apart, on either side."""
    loss = fresh(samples=6, negatives=5)
    student = torch.nn.Parameter(STUDENT.clone())
    optimizer = torch.optim.Adam([student, *loss.parameters()], lr=0.02)
    first = loss(student, TEACHER, None, BATCH).mean().item()
    for _ in range(200):
        optimizer.zero_grad()
        value = loss(student, TEACHER, None, BATCH).mean()
        value.backward()
        optimizer.step()
    assert value.item() < 0.5 * first
    assert loss.student_embedding is not None
    assert loss.teacher_embedding is not None
    cosines = unit(loss.student_embedding(student)) @ unit(loss.teacher_embedding(TEACHER)).t()
    assert cosines.argmax(1).tolist() == cosines.argmax(0).tolist() == list(range(6))


@pytest.mark.parametrize("ids", [None, torch.arange(20), torch.arange(3), torch.arange(100, 120)])
def test_a_checkpoint_brings_its_samples(ids: Tensor | None) -> None:
    """A resume into a loss that does not know the samples yet, or knows others: sizes that do not fit, lost banks."""
    loss = fresh()
    loss(STUDENT, TEACHER, LABELS, BATCH)
    other = CRD(width=4, negatives=8)
    other.build(STUDENT, TEACHER)
    if ids is not None:
        other.prepare(ids)
    other.load_state_dict(loss.state_dict())
    for name, value in loss.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    other.prepare(torch.arange(20))  # after loading, as a loop of one's own may
    assert torch.equal(other.student_bank, loss.student_bank)
    torch.manual_seed(1)
    expected = loss(STUDENT, TEACHER, LABELS, BATCH)
    torch.manual_seed(1)
    assert torch.equal(other(STUDENT, TEACHER, LABELS, BATCH), expected)


def test_more_samples_keep_what_is_remembered() -> None:
    """Banks that begin anew where data is added between two trainings."""
    loss = fresh()
    loss(STUDENT, TEACHER, LABELS, BATCH)
    bank, labels = loss.teacher_bank.clone(), loss.sample_labels.clone()
    loss.prepare(torch.tensor([5, -3, 2, 2, 77]))
    assert loss.sample_ids.tolist() == [-3, 2, 5, 77]
    assert torch.equal(loss.teacher_bank[1:3], bank[torch.tensor([2, 5])])
    assert loss.sample_labels[:4].tolist() == [-1, int(labels[2]), int(labels[5]), -1]


def test_mistakes_are_named() -> None:
    """A loss that silently remembers nothing."""
    loss = CRD()
    with pytest.raises(LimbeckError, match="give the Distiller example=batch"):
        loss(STUDENT, TEACHER, None, BATCH)
    loss.build(STUDENT, TEACHER)
    with pytest.raises(LimbeckError, match=r"call distiller\.prepare\(ids\)"):
        loss(STUDENT, TEACHER, None, BATCH)
    loss.prepare(BATCH)
    for ids in (None, BATCH[:3]):
        with pytest.raises(LimbeckError, match=r"expected ids of shape \(6,\)"):
            loss(STUDENT, TEACHER, None, ids)
    with pytest.raises(LimbeckError, match="CRD momentum"):
        CRD(momentum=1.5)


# -- in a training ---------------------------------------------------------------------------------------------------


def distiller() -> Distiller:
    student, teacher = net(0), net(1)
    torch.manual_seed(2)
    terms = [Term(Supervised()), Term(CRD(width=8, negatives=16), weight=0.8, student="1", teacher="1")]
    return Distiller(student, teacher, terms, example=data().__getitems__(list(range(4))))


def state(found: Distiller) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in found.state_dict().items()}


def memory(found: Distiller) -> CRD:
    loss = found.objective.terms[1].loss
    assert isinstance(loss, CRD)
    return loss


def test_the_trainer_prepares_it(tmp_path: Path) -> None:
    """A loop that forgets to tell the loss its samples."""
    taught = distiller()
    run = trainer(tmp_path, taught)
    assert memory(taught).sample_ids.tolist() == sorted(data().ids.tolist())
    start = memory(taught).student_bank.clone()
    run.train()
    assert all(math.isfinite(value) for value in losses(run, "term/crd"))
    assert not torch.equal(memory(taught).student_bank, start)
    # The student's own step got a gradient of it.
    plain = Distiller(net(0), None, [Term(Supervised())])
    trainer(tmp_path, plain).train()
    assert not torch.equal(plain.student[0].weight, taught.student[0].weight)  # type: ignore[index]


def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Banks, constants or negatives that begin anew: they are buffers, and the draws come from torch's generator."""
    whole = distiller()
    trainer(tmp_path / "whole", whole).train()
    cut = distiller()
    trainer(tmp_path / "cut", cut, save_strategy="steps", save_steps=3).train()
    resumed = distiller()
    trainer(tmp_path / "cut", resumed).train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    expected, got = state(whole), state(resumed)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


class Named(Dataset[dict[str, Any]]):
    """Samples that carry their names, and count how often they are read."""

    def __init__(self, key: str = "id") -> None:
        self.key = key
        self.reads = 0

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.reads += 1
        return {"x": torch.ones(6) * index, "y": index % 3, self.key: f"sample {index}"}


def test_ids_are_gathered_only_where_a_loss_needs_them(tmp_path: Path) -> None:
    """A pass over a large set of files before every training."""
    samples = Named()
    trainer(tmp_path, Distiller(net(0), net(1)), samples)
    assert samples.reads == 0
    taught = distiller()
    torch.manual_seed(3)
    run = trainer(tmp_path, taught, samples)
    assert samples.reads == 12
    assert len(memory(taught).sample_ids) == 12
    before = memory(taught).sample_labels.clone()
    run.train()
    assert sorted(memory(taught).sample_labels[:-1].tolist()) == sorted(i % 3 for i in range(12))
    assert bool((before == -1).all())


def test_data_without_ids_is_named() -> None:
    """A training that would remember samples by nothing."""

    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(LimbeckError, match="needs ids; give each sample an entry `ids`"):
        ids_of([(torch.ones(2), 0), (torch.ones(2), 1)], collate_samples)
    with pytest.raises(LimbeckError, match="map-style"):
        ids_of(Endless(), collate_samples)


def test_processes_keep_their_own_banks() -> None:
    """DistributedDataParallel that sends the first process's banks of all samples to the others at every step."""
    taught = distiller()
    taught.prepare(torch.arange(5))
    ignored = set(taught._ddp_params_and_buffers_to_ignore)
    assert ignored == {f"objective.losses.1.{name}" for name, _ in memory(taught).named_buffers()}
    assert ignored <= {name for name, _ in taught.named_buffers()}
