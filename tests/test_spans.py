"""Starts and ends of answers through the Distiller, and through a label store."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from limbeck import Distiller, LimbeckError, Live, Stored, Term, label
from limbeck.losses import DIST, DKD, KD, METHODS, AnnealedKD, FeatureMSE, Supervised
from limbeck.models import forward_of
from limbeck.shortcuts import SHORTCUTS
from limbeck.store import DenseLogits, Features, TopKLogits
from limbeck.terms import default_terms
from limbeck.tokens import TokenPlan
from limbeck.types import Signal

T = 4.0
LENGTHS = (12, 9, 12, 7, 5)
ANSWERS = ((4, 6), (0, 0), (-1, -1), (3, 3), (2, 4))


def bert(seed: int, layers: int = 1, width: int = 16, std: float = 0.3) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = transformers.BertForQuestionAnswering(config).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def questions(rows: Any = slice(None), longest: int | None = None) -> dict[str, Tensor]:
    """Windows as WindowSet gives them: CLS, two tokens of the question, then the context."""
    picked = torch.arange(len(LENGTHS))[rows]
    lengths = torch.tensor(LENGTHS)[picked]
    longest = int(lengths.max()) if longest is None else longest
    ids = torch.randint(3, 40, (len(LENGTHS), 16), generator=torch.Generator().manual_seed(0))
    real = torch.arange(longest) < lengths[:, None]
    places = torch.arange(longest).expand_as(real)
    starts, ends = torch.tensor(ANSWERS)[picked].unbind(1)
    return {
        "input_ids": ids[picked, :longest] * real,
        "attention_mask": real.long(),
        "token_type_ids": (real & (places > 2)).long(),
        "span_mask": real & ((places > 1) | (places == 0)),
        "start_positions": starts,
        "end_positions": ends,
        "labels": starts.clone(),
        "ids": picked,
    }


def by_hand(student: nn.Module, teacher: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """0.1 · cross-entropy + 0.9 · T² · KL, each the mean of start and end, window by window over what may be chosen."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    mine, theirs = student(**inputs), teacher(**inputs)
    hard, soft = [], []
    for side in ("start", "end"):
        for row in range(len(batch["input_ids"])):
            allowed = batch["span_mask"][row].nonzero().squeeze(1)
            q, p = (getattr(out, f"{side}_logits")[row, allowed] for out in (mine, theirs))
            position = int(batch[f"{side}_positions"][row])
            if position >= 0:
                chosen = allowed.tolist().index(position)
                hard.append(q.logsumexp(0) - q[chosen])
            p = (p.detach() / T).softmax(0)
            soft.append(T * T * (p * (p.log() - (q / T).log_softmax(0))).sum())
    return 0.1 * torch.stack(hard).mean() + 0.9 * torch.stack(soft).mean()


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("shortcuts", [SHORTCUTS, frozenset()], ids=["all", "none"])
def test_a_step_against_one_by_hand(shortcuts: frozenset[str]) -> None:
    """Start and end mixed up, the question or padding taking probability, an unlabelled window in the mean, T² lost."""
    student, teacher, batch = bert(0), bert(1, layers=2, width=20), questions()
    distiller = Distiller(student, Live(teacher, shortcuts=shortcuts), default_terms(T), shortcuts=shortcuts)
    output = distiller(batch)
    output.loss.backward()
    found = gradients(student)
    student.zero_grad()
    expected = by_hand(student, teacher.eval(), batch)
    expected.backward()
    torch.testing.assert_close(output.loss, expected, rtol=1e-9, atol=1e-12)
    known = gradients(student)
    assert len(found) == len(known) > 10
    for mine, theirs in zip(found, known, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-10)
    assert output.logits is not None
    assert output.logits.shape == (5, 12, 2)


def test_micro_batches_of_different_length_equal_one_batch() -> None:
    """Windows weighted by the batch that they are in, or padding that counts."""
    student, teacher = bert(0), bert(1)
    distiller = Distiller(student, teacher, [*default_terms(T), Term(FeatureMSE(), 0.5, "hidden.1", "hidden.1")])
    whole = distiller(questions())
    whole.loss.backward()
    expected = gradients(student)
    student.zero_grad()
    parts = [questions(slice(0, 3)), questions(slice(3, 5))]
    assert parts[0]["input_ids"].shape[1] != parts[1]["input_ids"].shape[1]
    counts = torch.stack([distiller.counts(part) for part in parts]).sum(0)
    assert counts.tolist() == [2 * 4, 2 * 5, sum(LENGTHS)]
    losses = [distiller(part, counts).loss for part in parts]
    sum(losses).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(sum(losses), whole.loss, rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(gradients(student), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-10)


def test_questions_without_labels_teach_through_the_teacher_alone() -> None:
    """A window without a label that is learned as one without an answer, or not distilled."""
    student, teacher, batch = bert(0), bert(1), questions()
    hidden = {**batch, **{name: torch.full((5,), -1) for name in ("start_positions", "end_positions", "labels")}}
    distiller = Distiller(student, teacher, default_terms(T))
    output, with_labels = distiller(hidden), distiller(batch)
    assert float(output.terms["supervised"]) == 0.0
    torch.testing.assert_close(output.terms["kd"], with_labels.terms["kd"])
    assert distiller.counts(hidden).tolist() == [0.0, 10.0]
    plain = {name: tensor for name, tensor in batch.items() if name not in ("start_positions", "end_positions")}
    torch.testing.assert_close(Distiller(student, teacher, [Term(KD(T))])(plain).loss, with_labels.terms["kd"])


class Given(nn.Module):
    """A model that gives its own parameter as logits, the same for every batch of its shape."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"start_logits": self.logits[..., 0], "end_logits": self.logits[..., 1]}


ON_LOGITS = [
    m.module
    for m in METHODS
    if m.module.wants == "logits"
    and "teacher" in m.module.inputs
    and not m.module.student_signals
    and m.family != "detection"
]
NEED_ALL = ("logit-mse", "standardized", "sigmoid-kd")


@pytest.mark.parametrize("kind", [kind for kind in ON_LOGITS if kind.name not in NEED_ALL], ids=lambda k: k.name)
def test_what_is_outside_takes_no_part_at_extreme_logits(kind: type[Any]) -> None:
    """A large finite number in place of -inf, which a larger logit of the question or of padding would beat."""
    torch.manual_seed(0)
    batch = {**questions(), "inputs": torch.zeros(5, 1)}
    outside = ~batch["span_mask"]
    for scale in (1.0, 1e4):
        mine, theirs = torch.randn(2, 5, 12, 2) * scale
        values = []
        for junk in (0.0, 3e38):
            student, teacher = (Given(each.masked_fill(outside.unsqueeze(-1), junk)) for each in (mine, theirs))
            loss = Distiller(student, teacher, [Term(kind())])(batch).loss
            loss.backward()
            gradient = student.logits.grad
            assert gradient is not None
            assert bool(gradient.isfinite().all())
            assert bool((gradient[outside] == 0).all())
            values.append(loss.detach())
        assert bool(values[0].isfinite())
        assert torch.equal(*values)


@pytest.mark.parametrize("name", NEED_ALL)
def test_a_loss_that_cannot_leave_tokens_out_is_named_before_training(name: str) -> None:
    """NaN at the first step."""
    [loss] = [kind() for kind in ON_LOGITS if kind.name == name]
    with pytest.raises(LimbeckError, match=f"term {name}: its loss needs all logits to be finite"):
        Distiller(bert(0), bert(1), [Term(loss)], example=questions())


@pytest.mark.parametrize("loss", [KD(), DKD(), DIST(), AnnealedKD()], ids=lambda loss: loss.name)
def test_other_padding_changes_nothing(loss: Any) -> None:
    """A loss that counts the excluded positions as classes. DIST does, by its definition."""
    distiller = Distiller(bert(0), bert(1), [Term(loss)])
    few, wide = distiller(questions()).loss, distiller(questions(longest=16)).loss
    assert torch.allclose(few, wide, rtol=1e-6) == (loss.name != "dist")


def test_batches_prepared_for_transformers() -> None:
    """Windows without span_mask: the text's own tokens may be chosen, padding never."""
    student, teacher, batch = bert(0), bert(1), questions()
    plain = {name: tensor for name, tensor in batch.items() if name not in ("span_mask", "labels")}
    loss = Distiller(student, teacher, default_terms(T))(plain).loss
    expected = by_hand(student, teacher.eval(), {**batch, "span_mask": batch["attention_mask"].bool()})
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)


def test_the_model_makes_no_loss_of_its_own() -> None:
    """Time for a loss that nobody asked for, with -1 taken for the first token."""
    signal = forward_of(bert(0))(questions())
    assert {*signal} == {"logits"}
    assert signal["logits"].shape == (5, 12, 2)


def test_another_kind_of_model_is_named() -> None:
    """A traceback in a loss, or two classes taken for start and end."""
    student = transformers.BertForSequenceClassification(bert(0).config)  # type: ignore[arg-type]
    with pytest.raises(LimbeckError, match=r"needs logits of a start and an end for each token, \(5, 12, 2\), got"):
        Distiller(student, None, [Term(Supervised())])(questions())


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The questions as a data set that pads each batch to its longest."""

    ids = torch.arange(len(LENGTHS))

    def __len__(self) -> int:
        return len(LENGTHS)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        raise AssertionError("whole batches only")

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return questions(torch.tensor(indices))


def quiet(_line: str) -> None:
    pass


@pytest.mark.parametrize("codec", [DenseLogits(), Features()], ids=lambda codec: codec.name)
def test_a_stored_teacher_gives_what_a_live_one_gives(tmp_path: Path, codec: Any) -> None:
    """Rows that are put back at other tokens, or padding and question with a share of the probability."""
    student, teacher = bert(0), bert(1, layers=2, std=0.5)
    store = label(teacher, Rows(), tmp_path / "store", signals={"logits": codec}, batch_size=2, say=quiet)
    assert store.signals["logits"].per == "token"
    assert store.signals["logits"].shape == (2,)
    for shortcuts in (SHORTCUTS, SHORTCUTS - {"compact-tokens"}):
        for rows in (slice(None), [3, 4], [1, 0]):
            batch = questions(rows)
            live, stored = (
                Distiller(student, taught, default_terms(T), shortcuts=shortcuts)(batch).loss.detach()
                for taught in (Live(teacher), Stored(store))
            )
            torch.testing.assert_close(stored, live, rtol=1e-3, atol=1e-3)
            assert float(live) > 0.05
    read, batch = Stored(store), questions()
    rows, whole = read(batch)["logits"], Live(teacher)(batch)["logits"]
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(rows[real].double(), whole[real], rtol=1e-3, atol=1e-2)
    assert bool((rows[~real] == 0).all())


def test_a_store_completed_by_a_live_teacher(tmp_path: Path) -> None:
    """Rows of tokens replaced by items of spans, where the store lacks a window."""
    student, teacher = bert(0), bert(1)
    few = torch.utils.data.Subset(Rows(), [0, 2, 3])
    store = label(teacher, few, tmp_path / "store", batch_size=2, say=quiet)
    with pytest.raises(LimbeckError, match="are missing"):
        Stored(store)(questions())
    fallback, live = Stored(store, Live(teacher)), Live(teacher)
    losses = [Distiller(student, taught, default_terms(T))(questions()).loss.detach() for taught in (fallback, live)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-3)


def test_a_codec_of_classes_is_refused(tmp_path: Path) -> None:
    """The two logits of a token kept as if they were two classes."""
    with pytest.raises(LimbeckError, match=r"codec 'top-k' keeps probabilities .*with the codec 'dense'"):
        label(bert(1), Rows(), tmp_path / "store", signals={"logits": TopKLogits()}, say=quiet)


def test_several_teachers() -> None:
    """Logits that are averaged after they lost their places."""
    teachers = [bert(1), bert(2)]
    batch = questions()
    loss = Distiller(bert(0), teachers, [Term(KD(T))])(batch).loss
    mean = torch.stack([forward_of(each.eval())(batch)["logits"] for each in teachers]).mean(0)
    items = TokenPlan(batch, causal=False).apply(Signal({"logits": mean.detach()}))["logits"]
    mine = TokenPlan(batch, causal=False).apply(forward_of(bert(0))(batch))["logits"]
    allowed = ~items.isneginf()
    p, log_q = (items / T).softmax(-1), (mine / T).log_softmax(-1)
    kl = torch.where(allowed, F.kl_div(log_q, p, reduction="none"), 0.0).sum(-1)
    torch.testing.assert_close(loss, T * T * kl.mean(), rtol=1e-9, atol=1e-12)


def test_a_trainer_runs_accumulates_and_evaluates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Logits of windows of several lengths that do not fit one array, and steps that depend on how they are cut."""
    from limbeck.trainer import DistillTrainer

    class Same(Rows):
        def __len__(self) -> int:
            return 4

    states = []
    for size, pieces in ((4, 1), (2, 2)):
        student, teacher = bert(0).float(), bert(1).float()
        arguments = transformers.TrainingArguments(
            str(tmp_path / f"run-{size}"), per_device_train_batch_size=size, gradient_accumulation_steps=pieces,
            max_steps=2, learning_rate=1e-2, report_to=[], save_strategy="no", use_cpu=True, optim="sgd", seed=0,
            per_device_eval_batch_size=2, disable_tqdm=True, max_grad_norm=0.0,
        )  # fmt: skip
        trainer = DistillTrainer(Distiller(student, teacher, default_terms(T)), arguments, train_dataset=Same())
        with caplog.at_level(logging.ERROR):
            trainer.train()
        states.append([parameter.detach().clone() for parameter in student.parameters()])
        found = trainer.predict(Rows())
        assert found.predictions.shape == (5, 12, 2)
    for mine, theirs in zip(*states, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
