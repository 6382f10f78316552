"""Every method of the table in training: on CNNs, a ViT student and a text student; resumed, accumulated, from stored
labels, on two processes. What does not apply is refused by a clear error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.every_method import PICTURED, SETTINGS, batch_of, by_name, collate, data_of, models_of, terms_of
from torch import Tensor
from transformers import TrainingArguments

import limbeck
from limbeck import Distiller, DistillTrainer, LimbeckError, Stored
from limbeck.losses import METHODS
from limbeck.store import DenseLogits, Features

NAMES = [method.name for method in METHODS]


def made(setting: str, name: str) -> Distiller:
    """A Distiller of the method; its learned parts are the same each time."""
    method = by_name(name)
    student, teacher = models_of(setting)
    torch.manual_seed(1)
    example = batch_of(data_of(setting, method), 0, 4)
    return Distiller(student, teacher, terms_of(method), example=example)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", NAMES)
def test_it_teaches_or_says_why_not(setting: str, name: str) -> None:
    """A method that needs an edit to the models, taps by hand, or breaks on another kind of model; a term without
    effect."""
    why = SETTINGS[setting].refused.get(name)
    if why is not None:
        with pytest.raises(LimbeckError, match=why):
            made(setting, name)
        return
    distiller = made(setting, name)
    samples = data_of(setting, by_name(name))
    distiller.prepare(samples.rows["ids"])
    distiller.train()
    distiller.progress(5.0, 0.5)
    output = distiller(batch_of(samples, 0, 8))
    assert bool(output.loss.isfinite())
    output.loss.backward()
    term = len(distiller.objective.terms) - 1
    assert distiller.objective.terms[term].weight != 0
    gradients = [p.grad for p in distiller.student.parameters() if p.grad is not None]
    assert sum(float(g.abs().sum()) for g in gradients) > 0
    for parameter in distiller.objective.parameters():
        assert parameter.grad is not None


def trainer(distiller: Distiller, folder: Path, setting: str, name: str, **options: Any) -> DistillTrainer:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 8, "max_steps": 6, "learning_rate": 1e-3, "logging_steps": 1,
        "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True, "max_grad_norm": 1.0,
        "dataloader_pin_memory": False, "log_level": "error",
    }  # fmt: skip
    arguments = TrainingArguments(output_dir=str(folder), **(settings | options))
    return DistillTrainer(distiller, arguments, train_dataset=data_of(setting, by_name(name)), data_collator=collate)


def state(distiller: Distiller) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in distiller.state_dict().items()}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SETTINGS["cnn"].refused])
def test_a_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """Learned parts, banks, temperatures and schedules that start anew after a resume; gradient accumulation runs."""
    whole = made("cnn", name)
    options: dict[str, Any] = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    trainer(whole, tmp_path / "whole", "cnn", name, **options).train()
    first = made("cnn", name)
    trainer(first, tmp_path / "cut", "cnn", name, save_strategy="steps", save_steps=3, **options).train()
    again = made("cnn", name)
    trainer(again, tmp_path / "cut", "cnn", name, **options).train(
        resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3")
    )
    expected, got = state(whole), state(again)
    assert expected.keys() == got.keys()
    for key, value in expected.items():
        assert torch.equal(got[key], value), key


@pytest.mark.parametrize("name", [m.name for m in METHODS if "teacher" in m.module().inputs and m.name not in PICTURED])
def test_from_stored_labels(name: str, tmp_path: Path) -> None:
    """A method that works with a live teacher only, where all it needs can be stored."""
    setting = "text" if name in SETTINGS["cnn"].refused else "cnn"
    live = made(setting, name)
    method, samples = by_name(name), data_of(setting, by_name(name))
    _, teacher = models_of(setting)
    wanted = {each for term in live.objective.terms if term.uses_teacher for each in term.teacher_names}
    codecs = {each: DenseLogits() if each == "logits" else Features() for each in wanted}
    if not codecs:
        assert all(not term.uses_teacher for term in live.objective.terms)  # the student is its own teacher
        return
    student, _ = models_of(setting)
    terms = list(live.objective.terms)

    def from_store() -> Distiller:
        folder = tmp_path / "labels"
        store = limbeck.label(teacher, samples, folder, signals=codecs, collate=collate, say=lambda _line: None)
        return Distiller(student, Stored(store), terms)

    if setting == "text":
        with pytest.raises(LimbeckError, match="a live teacher"):
            from_store()
        return
    stored = from_store()
    for distiller in (live, stored):
        distiller.eval()
        distiller.prepare(samples.rows["ids"])
        distiller.progress(5.0, 0.5)
    batch = batch_of(samples, 3, 8)
    torch.testing.assert_close(stored(batch).loss, live(batch).loss, rtol=5e-3, atol=1e-3)
    assert method.name in stored(batch).terms or len(stored(batch).terms) > 1


def test_on_two_processes(tmp_path: Path) -> None:
    """A method whose learned parts, banks or batch statistics break under DistributedDataParallel: after two steps both
    processes have the same weights."""
    worker = Path(__file__).parent / "every_method_worker.py"
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, str(worker), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 0, done.stderr[:6000]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first.keys() == {name for name in NAMES if name not in SETTINGS["cnn"].refused}
    assert first == second
