"""A teacher that says something only of some tokens: the others count for nothing, wherever terms are averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.test_token_alignment import TEXTS, llama, rows, tokenizer
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainingArguments

from limbeck import Distiller, DistillTrainer, Term, label
from limbeck.errors import LimbeckError
from limbeck.losses import KD, ULD, GeneralizedJSD, Loss, ReverseKL, Supervised
from limbeck.shortcuts import SHORTCUTS
from limbeck.store import TopKLogits
from limbeck.teachers import Teacher
from limbeck.teachers.retokenized import Retokenized
from limbeck.teachers.shared_tokens import SharedTokens
from limbeck.types import LinearHead, Signal, TopK, dense_logits


def across(shared: bool, *, spoilt: bool = False) -> Teacher:
    """A teacher of merged bytes for a student of bytes, which speaks of every second token or so; `spoilt`: with other
    numbers where it says nothing."""
    teacher = Retokenized(llama(len(tokenizer("bpe")), seed=1), tokenizer("bpe"), tokenizer("bytes"))
    found: Teacher = SharedTokens(teacher) if shared else teacher
    return _Spoilt(found) if spoilt else found


class _Spoilt(Teacher):
    """As the teacher inside, with garbage where it says nothing."""

    def __init__(self, teacher: Teacher) -> None:
        self.inside = teacher
        self.compact = teacher.compact

    def require(self, names: Any) -> None:
        self.inside.require(names)

    def masks(self, batch: Any) -> Any:
        return self.inside.masks(batch)

    def __call__(self, batch: Any) -> Signal:
        signal = self.inside(batch)
        silent = ~signal.masks["logits"]
        if "logits" in signal.tensors:
            logits = signal["logits"].clone()
            logits[silent] = torch.randn(int(silent.sum()), logits.shape[-1]) * 9
            return Signal({"logits": logits}, signal.masks)
        top = signal.targets["logits"]
        assert isinstance(top, TopK)
        log_probs = top.log_probs.clone()
        log_probs[silent] = torch.randn(int(silent.sum()), log_probs.shape[1]).log_softmax(-1) - 0.1
        return Signal({}, signal.masks, {"logits": TopK(top.ids, log_probs, top.log_tail, top.temperature)})


def expected(student: nn.Module, teacher: Teacher, loss: Loss, batch: dict[str, Tensor]) -> float:
    """The mean over tokens that have a next one and a teacher, one at a time."""
    inside = teacher.teacher if isinstance(teacher, SharedTokens) else teacher
    assert isinstance(inside, Retokenized)
    reading = inside.read(batch)
    with torch.no_grad():
        mine = student(**batch, use_cache=False).logits
        theirs = inside.teacher(reading.batch).target("logits")
        assert isinstance(theirs, Tensor | LinearHead)
        if isinstance(theirs, LinearHead):
            shape = theirs.hidden.shape[:2]
            flat = LinearHead(theirs.hidden.flatten(0, 1), theirs.weight, theirs.bias)
            theirs = dense_logits(flat).view(*shape, -1)
    theirs = theirs.flatten(0, 1)[:, : inside.speller.vocabulary]
    values = []
    for row, mask in enumerate(batch["attention_mask"].tolist()):
        for i in range(sum(mask) - 1):
            at = int(reading.positions[row, i])
            if at < 0:
                continue
            target: Any = theirs[at][None]
            if isinstance(teacher, SharedTokens):
                log_p = target.log_softmax(-1)
                named = log_p[:, teacher.teacher_ids]
                tail = (1 - named.double().exp().sum(1)).log().float()
                target = TopK(teacher.student_ids[None], named, tail)
            values.append(float(loss(mine[row, i][None], target)[0]))
    assert 10 < len(values) < int(batch["attention_mask"].sum()) - len(mask)
    return sum(values) / len(values)


LOSSES: list[tuple[Loss, bool]] = [(KD(1.0), True), (ReverseKL(1.0), True), (GeneralizedJSD(1.0), True), (ULD(), False)]


@pytest.mark.parametrize(("loss", "shared"), LOSSES, ids=lambda each: getattr(each, "name", str(each)))
@pytest.mark.parametrize("shortcuts", [SHORTCUTS, ()], ids=["shortcuts", "plain"])
def test_tokens_without_a_teacher_count_for_nothing(loss: Loss, shared: bool, shortcuts: Any) -> None:
    """A distribution that the teacher never gave in the loss, its gradient, or the number that a term is divided by; in
    any of the ways in which terms are computed. Labels count everywhere all the same."""
    student, batch = llama(260), rows("bytes")
    terms = [Term(Supervised(), 0.5), Term(loss, 2.0)]
    distiller = Distiller(student, across(shared), terms, shortcuts=shortcuts)
    output = distiller(batch)
    labels = Distiller(student, None, [Term(Supervised())])(batch).loss.item()
    mean = expected(student, across(shared), loss, batch)
    assert output.terms[loss.name].item() == pytest.approx(mean, rel=1e-4)
    assert output.loss.item() == pytest.approx(0.5 * labels + 2.0 * mean, rel=1e-4)
    output.loss.backward()
    gradient = [p.grad.clone() for p in student.parameters() if p.grad is not None]
    assert all(bool(each.isfinite().all()) for each in gradient)
    student.zero_grad()
    torch.manual_seed(3)
    other = Distiller(student, across(shared, spoilt=True), terms, shortcuts=shortcuts)
    output = other(batch)
    output.loss.backward()
    assert output.terms[loss.name].item() == pytest.approx(mean, rel=1e-4)
    again = [p.grad for p in student.parameters() if p.grad is not None]
    torch.testing.assert_close(again, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("compact", [True, False])
def test_counts_are_those_of_the_aligned(shared: bool, compact: bool) -> None:
    """Accumulated batches weighed by all of their tokens, where a term speaks of some."""
    loss = KD(1.0) if shared else ULD()
    shortcuts = SHORTCUTS if compact else ()
    distiller = Distiller(llama(260), across(shared), [Term(Supervised()), Term(loss)], shortcuts=shortcuts)
    batch = rows("bytes") | {"labels": rows("bytes")["input_ids"].clone()}
    batch["labels"][batch["attention_mask"] == 0] = -100
    batch["labels"][0, :9] = -100
    batch["labels"][1, 4:7] = -1
    where = batch["labels"][:, 1:] != -100
    real = (batch["attention_mask"][:, 1:] & batch["attention_mask"][:, :-1]).bool()
    mask = across(shared).masks(batch)["logits"][:, :-1]
    known = where & real & (batch["labels"][:, 1:] != -1)
    assert distiller.counts(batch).tolist() == [int(known.sum()), int((where & real & mask).sum())]


class _Rows(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[index] for name, values in rows("bytes").items()}


@pytest.mark.parametrize("shared", [False, True])
def test_accumulated_steps_are_those_of_one_batch(shared: bool, tmp_path: Path) -> None:
    """A step in pieces that is another than the step at once."""
    weights = []
    for size in (4, 1):
        loss = KD(1.0) if shared else ULD()
        distiller = Distiller(llama(260), across(shared), [Term(Supervised()), Term(loss)])
        settings: dict[str, Any] = {
            "per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size, "max_steps": 2,
            "learning_rate": 1e-2, "optim": "sgd", "save_strategy": "no", "report_to": [], "disable_tqdm": True,
            "use_cpu": True, "dataloader_pin_memory": False, "log_level": "error", "logging_strategy": "no",
        }  # fmt: skip
        arguments = TrainingArguments(output_dir=str(tmp_path / str(size)), **settings)
        DistillTrainer(distiller, arguments, train_dataset=_Rows(), data_collator=_stacked).train()
        weights.append([p.detach().clone() for p in distiller.student.parameters()])
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)


def _stacked(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def test_it_is_not_stored(tmp_path: Path) -> None:
    """A store in which tokens without a teacher look like those with one."""
    with pytest.raises(LimbeckError, match=r"the teacher says nothing of some tokens.*not from a store"):
        label(across(False), _Rows(), tmp_path / "store", signals={"logits": TopKLogits(5)}, collate=_stacked)
