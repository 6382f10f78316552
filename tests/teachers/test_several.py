"""One student with several heads, a teacher for each."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import TrainingArguments

from limbeck import Distiller, DistillTrainer, Term
from limbeck.errors import LimbeckError
from limbeck.losses import KD, FeatureMSE, Supervised
from limbeck.teachers import Ema, Several

BATCH = {
    "inputs": torch.randn(6, 5, generator=torch.Generator().manual_seed(0)),
    "art_labels": torch.tensor([0, 1, 2, -1, -1, 0]),
    "place_labels": torch.tensor([3, 2, 1, 0, 3, 2]),
}


class Heads(nn.Module):
    """A body and two heads, whose names in the dict are no modules of the student."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(5, 8)
        self.heads = nn.ModuleDict({"for_art": nn.Linear(8, 3), "for_place": nn.Linear(8, 4)})

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = self.body(inputs).tanh()
        return {"art": self.heads["for_art"](hidden), "place": self.heads["for_place"](hidden)}


def teacher(seed: int, classes: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, classes))


def terms() -> list[Term]:
    return [
        Term(Supervised(), 0.5, student="art", labels="art_labels", name="art"),
        Term(Supervised(), 0.25, student="place", labels="place_labels", name="place"),
        Term(KD(2.0), 1.0, student="art", teacher="art.logits", name="art-kd"),
        Term(KD(2.0), 2.0, student="place", teacher="place.logits", name="place-kd"),
    ]


def test_every_head_has_its_labels_and_its_teacher() -> None:
    """Heads taught by each other's teacher, or a mean over samples that have no label of that task."""
    student, art, place = Heads(), teacher(1, 3), teacher(2, 4)
    output = Distiller(student, Several({"art": art, "place": place}), terms(), example=BATCH)(BATCH)
    mine = student(BATCH["inputs"])

    def soft(logits: Tensor, model: nn.Module) -> Tensor:
        target = (model(BATCH["inputs"]) / 2).softmax(-1).detach()
        return 4 * F.kl_div((logits / 2).log_softmax(-1), target, reduction="batchmean")

    expected = {
        "art": F.cross_entropy(mine["art"], BATCH["art_labels"], ignore_index=-1),
        "place": F.cross_entropy(mine["place"], BATCH["place_labels"]),
        "art-kd": soft(mine["art"], art),
        "place-kd": soft(mine["place"], place),
    }
    torch.testing.assert_close(output.terms, {name: value.detach() for name, value in expected.items()})
    total = 0.5 * expected["art"] + 0.25 * expected["place"] + expected["art-kd"] + 2 * expected["place-kd"]
    torch.testing.assert_close(output.loss, total)
    assert output.logits is None


def test_signals_inside_a_teacher_are_tapped_by_its_name() -> None:
    """A tap that is looked for in the wrong teacher."""
    student, art = Heads(), teacher(1, 3)
    several = Several({"art": art, "place": teacher(2, 4)})
    found = Distiller(student, several, [Term(FeatureMSE(), student="body", teacher="art.0")], example=BATCH)(BATCH)
    torch.testing.assert_close(found.loss, F.mse_loss(student.body(BATCH["inputs"]), art[0](BATCH["inputs"]).detach()))
    assert set(several(BATCH)) == {"art.logits", "art.0"}


def test_a_teacher_that_nobody_asks_does_not_run() -> None:
    """A task that a student alone does not learn would still cost its teacher's time."""

    class Never(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            raise AssertionError("nobody asked")

    several = Several({"art": teacher(1, 3), "place": Never()})
    distiller = Distiller(Heads(), several, terms()[2:3], example=BATCH)
    assert set(distiller(BATCH).terms) == {"art-kd"}


def test_mistakes_fail_when_built() -> None:
    """A signal without a teacher's name, another number of classes, and a head that there is not."""
    several = Several({"art": teacher(1, 3), "place": teacher(2, 4)})
    with pytest.raises(LimbeckError, match=r"such as teacher='art\.logits'; got 'logits'"):
        Distiller(Heads(), several, [Term(KD(), student="art")], example=BATCH)
    with pytest.raises(LimbeckError, match=r"got 'atr\.logits'; did you mean 'art'"):
        Distiller(Heads(), several, [Term(KD(), student="art", teacher="atr.logits")], example=BATCH)
    with pytest.raises(LimbeckError, match="must be equal"):
        Distiller(Heads(), several, [Term(KD(), student="art", teacher="place.logits")], example=BATCH)
    with pytest.raises(LimbeckError, match="student has no module 'atr' to tap"):
        Distiller(Heads(), several, [Term(KD(), student="atr", teacher="art.logits")], example=BATCH)
    with pytest.raises(LimbeckError, match="gives art, place, but not 'logits'"):
        Distiller(Heads(), None, [Term(Supervised())], example=BATCH)
    with pytest.raises(LimbeckError, match="without dots"):
        Several({"art.old": teacher(1, 3)})
    with pytest.raises(LimbeckError, match="at least one"):
        Several({})


def test_every_teacher_keeps_its_life() -> None:
    """A mean teacher among several that neither follows nor resumes; one identity for other teachers."""
    art, place = teacher(1, 3), teacher(2, 4)
    several, other = (Several({"art": Ema(art, 0.5), "place": teacher(2, 4)}) for _ in range(2))
    before = several(BATCH)["art.logits"]
    with torch.no_grad():
        art[2].bias.add_(1.0)
    several.teachers["art"].update(art)
    other.load_state_dict(several.state_dict())
    assert not torch.equal(several(BATCH)["art.logits"], before)
    assert torch.equal(other(BATCH)["art.logits"], several(BATCH)["art.logits"])
    swapped = [Several({"art": art, "place": place}), Several({"art": place, "place": art})]
    assert swapped[0].identity() != swapped[1].identity()
    assert len(list(several.modules())) == 1  # what moves is not held to stay as it is


def _accuracy(student: nn.Module, batch: dict[str, Tensor]) -> dict[str, float]:
    scores = student.eval()(batch["inputs"])
    return {
        task: float((scores[task].argmax(-1) == batch[f"{task}_labels"]).float().mean()) for task in ("art", "place")
    }


def test_a_student_with_heads_trains_and_is_evaluated(tmp_path: Path) -> None:
    """The trainer looked for `logits` in every step of an evaluation."""
    generator = torch.Generator().manual_seed(0)
    samples = [
        {"inputs": x, "art_labels": torch.tensor(int(x[0] > 0)), "place_labels": torch.tensor(int(x[1] > 0))}
        for x in torch.randn(48, 5, generator=generator)
    ]

    def collate(few: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([each[name] for each in few]) for name in few[0]}

    def accuracy(prediction: object) -> dict[str, float]:
        scores, truth = prediction.predictions, prediction.label_ids  # type: ignore[attr-defined]
        return {task: float((scores[task].argmax(-1) == truth[f"{task}_labels"]).mean()) for task in ("art", "place")}

    several = Several({"art": teacher(1, 3), "place": teacher(2, 4)})
    distiller = Distiller(Heads(), several, terms(), example=collate(samples[:2]))
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=60, per_device_train_batch_size=8, gradient_accumulation_steps=2,
        learning_rate=0.05, logging_steps=20, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = DistillTrainer(
        distiller, arguments, train_dataset=samples, eval_dataset=samples, data_collator=collate,
        compute_metrics=accuracy, probe_every=20,
    )  # fmt: skip
    trainer.train()
    measured = trainer.evaluate()
    expected = {f"eval_{task}": value for task, value in _accuracy(distiller.student, collate(samples)).items()}
    assert {key: measured[key] for key in expected} == pytest.approx(expected)
    probed = next(entry for entry in trainer.state.log_history if "gradient/norm/art" in entry)
    assert "gradient/cosine/place-kd" in probed
    assert "gradient/cosine/place" not in probed  # it is what place-kd is measured against
