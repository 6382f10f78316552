"""Probes of gradients: the right numbers, and a training that is the same to the bit with and without them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import TrainingArguments

from limbeck import Distiller, DistillTrainer, Term, TrainConfig, train
from limbeck.gradients import probe
from limbeck.losses import KD, FeatureMSE, Loss, Supervised
from limbeck.sources import as_training_data


def net(seed: int, dropout: float = 0.3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def arrays(samples: int = 48) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (samples,), generator=generator)
    labels[::4] = -1
    return torch.randn(samples, 6, generator=generator), labels


def terms() -> list[Term]:
    return [Term(KD(2.0), 0.9), Term(Supervised(), 0.1), Term(FeatureMSE(), 2.0, student="2", teacher="2", name="hint")]


def trainer(folder: Path, distiller: Distiller, probe_every: int, **options: Any) -> DistillTrainer:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 8, "max_steps": 12, "learning_rate": 0.05, "logging_steps": 4,
        "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    arguments = TrainingArguments(output_dir=str(folder), **(settings | options))
    data, _ = as_training_data(arrays(), 3)
    return DistillTrainer(distiller, arguments, train_dataset=data, probe_every=probe_every)


def test_norms_and_cosines_are_those_of_the_terms() -> None:
    """Weights left in, gradients of the projectors or of a mean over other samples, or a cosine with another term."""
    student, teacher = net(0), net(1).eval()
    x, labels = arrays(16)
    found = probe(Distiller(student, teacher, terms()), {"inputs": x, "labels": labels})
    assert found is not None
    student.eval()
    logits, target = student(x), (teacher(x) / 2).softmax(-1).detach()
    values = [
        4 * F.kl_div((logits / 2).log_softmax(-1), target, reduction="batchmean"),
        F.cross_entropy(logits, labels, ignore_index=-1),
        F.mse_loss(student[:3](x), teacher[:3](x).detach()),
    ]
    flat = []
    for value in values:
        parts = torch.autograd.grad(value, list(student.parameters()), retain_graph=True, allow_unused=True)
        own = [torch.zeros_like(p) if g is None else g for p, g in zip(student.parameters(), parts, strict=True)]
        flat.append(torch.cat([each.flatten() for each in own]))
    entries = found.entries()
    for name, gradient in zip(("kd", "supervised", "hint"), flat, strict=True):
        assert entries[f"gradient/norm/{name}"] == pytest.approx(gradient.norm().item(), rel=1e-4)
        if name != "supervised":
            cosine = F.cosine_similarity(gradient, flat[1], dim=0).item()
            assert entries[f"gradient/cosine/{name}"] == pytest.approx(cosine, abs=1e-4)
    assert "gradient/cosine/supervised" not in entries


class Restless(Loss):
    """A loss that draws random numbers and remembers, whatever its mode."""

    name = "restless"
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        self.seen += 1
        return (student - teacher).square().mean(-1) * (1 + torch.rand(len(student)) / self.seen)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_training_is_the_same_to_the_bit(tmp_path: Path, accumulate: int) -> None:
    """A probe that moves BatchNorm's statistics, draws dropout's numbers, leaves gradients, or a mode behind."""
    ends = []
    for every in (0, 1, 5):
        distiller = Distiller(net(0), net(1), [*terms(), Term(Restless(), 0.5)])
        made = trainer(tmp_path / str(every), distiller, every, gradient_accumulation_steps=accumulate)
        made.train()
        ends.append(
            ({**distiller.state_dict()}, torch.get_rng_state(), [e for e in made.state.log_history if "loss" in e])
        )
        assert distiller.student.training
    for state, random_state, entries in ends[1:]:
        assert all(torch.equal(state[name], tensor) for name, tensor in ends[0][0].items())
        assert torch.equal(random_state, ends[0][1])
        assert [entry["loss"] for entry in entries] == [entry["loss"] for entry in ends[0][2]]


def test_every_probe_is_an_entry_of_the_log(tmp_path: Path) -> None:
    """Probes averaged away, made at every micro-batch, or at a step of their own."""
    made = trainer(tmp_path, Distiller(net(0), net(1), terms()), 5, gradient_accumulation_steps=2)
    made.train()
    probed = [entry for entry in made.state.log_history if "gradient/norm/kd" in entry]
    assert [entry["step"] for entry in probed] == [5, 10]
    assert not any("loss" in entry for entry in probed)
    assert not any("gradient/norm/kd" in entry for entry in trainer_log(tmp_path / "off", 0))


def trainer_log(folder: Path, every: int) -> list[dict[str, float]]:
    made = trainer(folder, Distiller(net(0), net(1), terms()), every)
    made.train()
    return made.state.log_history


def test_a_batch_without_labels_has_no_cosine() -> None:
    """0 / 0 in the log, which is no JSON."""
    x, labels = arrays(8)
    found = probe(Distiller(net(0), net(1), terms()), {"inputs": x, "labels": torch.full_like(labels, -1)})
    assert found is not None
    entries = found.entries()
    assert entries["gradient/norm/supervised"] == 0.0
    assert not any(name.startswith("gradient/cosine") for name in entries)
    alone = probe(Distiller(net(0), net(1), [Term(KD())]), {"inputs": x})
    assert alone is not None
    assert set(alone.entries()) == {"gradient/norm/kd"}


def test_language_models_are_passed_over(tmp_path: Path) -> None:
    """Their logits are made in chunks that serve one backward pass; a run must not stop there."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    student, teacher = transformers.LlamaForCausalLM(config), transformers.LlamaForCausalLM(config)
    texts = [{"input_ids": torch.randint(0, 32, (8,)), "attention_mask": torch.ones(8).long()} for _ in range(8)]
    distiller = Distiller(student, teacher)
    assert probe(distiller, {name: value.unsqueeze(0) for name, value in texts[0].items()}) is None
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=2, logging_steps=1, save_strategy="no",
        report_to=[], disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    collate = transformers.default_data_collator
    made = DistillTrainer(distiller, arguments, train_dataset=texts, data_collator=collate, probe_every=1)
    made.train()
    assert len([entry for entry in made.state.log_history if "loss" in entry]) == 3
    assert not any("gradient/norm/kd" in entry for entry in made.state.log_history)


def test_limbecks_training_probes_about_twenty_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """None at all, or so many that they are what the training does."""
    seconds = [0.0]

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return probe(*arguments)
        finally:
            seconds[0] += time.perf_counter() - start

    monkeypatch.setattr("limbeck.trainer.probe", timed)
    config = TrainConfig(steps=2000, batch_size=16, threads=1)
    trained = train(Distiller(net(0), net(1), terms()), arrays(), None, config)
    assert 15 <= sum("gradient/norm/kd" in entry for entry in trained.history) <= 20
    assert seconds[0] < 0.05 * trained.seconds
    few = train(Distiller(net(0), net(1), terms()), arrays(), None, TrainConfig(steps=100, batch_size=16, threads=1))
    assert sum("gradient/norm/kd" in entry for entry in few.history) <= 1
