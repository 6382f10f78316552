"""DistillTrainer: the same numbers however a step is cut, guards that speak, and resuming to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from limbeck import Distiller, DistillTrainer, Ema, LimbeckError, Term, load
from limbeck.losses import KD, Loss, Supervised
from limbeck.sources import as_training_data
from limbeck.trainer import checkpoints, last_checkpoint

WORKER = Path(__file__).parent / "training_worker.py"


def net(seed: int, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 3))


def data(samples: int = 32, unlabelled: int = 3) -> Any:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (samples,), generator=generator)
    labels[::unlabelled] = -1
    return as_training_data((torch.randn(samples, 6, generator=generator), labels), 3)[0]


def trainer(tmp_path: Path, distiller: Distiller, train_data: Any = None, **options: Any) -> DistillTrainer:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 8, "max_steps": 6, "learning_rate": 0.1, "optim": "sgd",
        "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no", "report_to": [],
        "disable_tqdm": True, "use_cpu": True, "max_grad_norm": 0.0, "dataloader_pin_memory": False,
    }  # fmt: skip
    arguments = TrainingArguments(output_dir=str(tmp_path), **(settings | options))
    return DistillTrainer(distiller, arguments, train_dataset=data() if train_data is None else train_data)


def weights(distiller: Distiller) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in distiller.student.parameters()])


def losses(found: DistillTrainer, key: str = "loss") -> list[float]:
    return [entry[key] for entry in found.state.log_history if key in entry]


def test_one_batch_of_8_equals_4_accumulated_of_2(tmp_path: Path) -> None:
    """Means of means weight a micro-batch with one labelled sample like one with two."""
    whole, parts = Distiller(net(0), net(1)), Distiller(net(0), net(1))
    first = trainer(tmp_path / "a", whole)
    first.train()
    second = trainer(tmp_path / "b", parts, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    second.train()
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-6)
    for key in ("loss", "term/kd", "term/supervised"):
        torch.testing.assert_close(losses(second, key), losses(first, key), rtol=1e-4, atol=1e-5)


def test_terms_are_logged_and_add_up(tmp_path: Path) -> None:
    found = trainer(tmp_path, Distiller(net(0), net(1)))
    found.train()
    for loss, hard, soft in zip(losses(found), losses(found, "term/supervised"), losses(found, "term/kd"), strict=True):
        assert loss == pytest.approx(0.1 * hard + 0.9 * soft, rel=1e-4)


def test_training_equals_a_bare_loop(tmp_path: Path) -> None:
    """The Trainer must add nothing to the step: same data order, same weights as torch by hand."""
    distiller = Distiller(net(0), net(1))
    found = trainer(tmp_path, distiller)
    seen: list[Tensor] = []
    inner = distiller.forward

    def spy(batch: Any, denominators: Any = None) -> Any:
        seen.append(batch["ids"].clone())
        return inner(batch, denominators)

    distiller.forward = spy  # type: ignore[method-assign]
    found.train()
    student, teacher, samples = net(0), net(1), data()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    rows = {sample: row for row, sample in enumerate(samples.ids.tolist())}
    for ids in seen:
        batch = samples.__getitems__([rows[sample] for sample in ids.tolist()])
        logits, taught = student(batch["inputs"]), teacher(batch["inputs"]).detach()
        soft = nn.functional.kl_div((logits / 4).log_softmax(-1), (taught / 4).softmax(-1), reduction="batchmean") * 16
        (0.1 * nn.functional.cross_entropy(logits, batch["labels"], ignore_index=-1) + 0.9 * soft).backward()
        optimizer.step()
        optimizer.zero_grad()
    by_hand = torch.cat([parameter.detach().flatten() for parameter in student.parameters()])
    torch.testing.assert_close(weights(distiller), by_hand, rtol=1e-5, atol=1e-6)


def test_a_term_that_becomes_nan_is_named(tmp_path: Path) -> None:
    """Otherwise a run goes on for hours with NaN weights, and transformers logs the old loss."""

    class Poison(Loss):
        name = "poison"

        def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
            return (student - teacher).sum(-1) * float("nan")

    with pytest.raises(LimbeckError, match=r"term 'poison' became nan at batch 1"):
        trainer(tmp_path, Distiller(net(0), net(1), [Term(Supervised()), Term(Poison())])).train()


def test_a_constant_term_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A term between equal tensors is silently useless; a moving one must not be warned about."""
    distiller = Distiller(net(0), net(0), [Term(KD(), weight=0.0, name="idle"), Term(Supervised(), weight=0.0)])
    trainer(tmp_path, distiller, max_steps=30, per_device_train_batch_size=32).train()
    assert "term 'idle' was exactly" in caplog.text
    caplog.clear()
    trainer(tmp_path, Distiller(net(0), net(1)), max_steps=30).train()
    assert "exactly" not in caplog.text


def test_a_teacher_that_changes_is_noticed(tmp_path: Path) -> None:
    teacher = net(1)
    student = nn.Sequential(net(0)[:3], teacher[3])  # shares its last layer with the teacher
    with pytest.raises(LimbeckError, match="teacher changed during training"):
        trainer(tmp_path, Distiller(student, teacher)).train()


def test_ema_teacher_moves_and_resumes(tmp_path: Path) -> None:
    """The average must follow each optimizer step, and come back from a checkpoint."""
    student = net(0)
    distiller = Distiller(student, Ema(student, decay=0.5))
    found = trainer(tmp_path, distiller, max_steps=4, save_strategy="steps", save_steps=2)
    found.train()
    assert distiller.teacher is not None
    end = {name: tensor.clone() for name, tensor in distiller.teacher.state_dict().items()}
    again = net(0)
    resumed = Distiller(again, Ema(again, decay=0.5))
    trainer(tmp_path, resumed, max_steps=4).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.teacher is not None
    for name, tensor in resumed.teacher.state_dict().items():
        assert torch.equal(tensor, end[name])


def test_save_model_holds_the_student_only(tmp_path: Path) -> None:
    """A teacher inside the checkpoint is ten times the file and somebody else's weights."""
    distiller = Distiller(net(0), net(1))
    found = trainer(tmp_path / "run", distiller)
    found.train()
    found.save_model(str(tmp_path / "student"))
    restored = load(tmp_path / "student", into=net(5))
    x = torch.randn(4, 6)
    assert torch.equal(restored(x), distiller.student.eval()(x))
    size = (tmp_path / "student" / "model.safetensors").stat().st_size
    assert size < 4 * weights(distiller).numel() + 2000


def test_half_written_checkpoints_are_not_resumed_from(tmp_path: Path) -> None:
    found = trainer(tmp_path, Distiller(net(0), net(1)), save_strategy="steps", save_steps=2, save_total_limit=2)
    found.train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-6"]
    (tmp_path / ".checkpoint.partial" / "checkpoint-8").mkdir(parents=True)
    last = last_checkpoint(tmp_path)
    assert last is not None
    assert last.name == "checkpoint-6"


def worker(folder: Path, *options: str, processes: int = 1, wait: bool = True) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    command = [sys.executable, *(launcher if processes > 1 else []), str(WORKER), str(folder), *options]
    process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if wait:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    return process


def finished(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "end.json").read_text())  # type: ignore[no-any-return]


def test_killed_runs_end_with_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL at three random steps: dropout, order, optimizer, schedule, all must come back."""
    worker(tmp_path / "whole")
    expected = finished(tmp_path / "whole")
    kills = torch.randint(5, 55, (3,)).sort().values.tolist()
    folder = tmp_path / "killed"
    for step in kills:
        process = worker(folder, "--slow", wait=False)
        progress = folder / "progress"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if progress.exists() and int(progress.read_text() or 0) >= step:
                break
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (folder / "end.json").exists()
    worker(folder)
    got = finished(folder)
    assert got["resumed_from"] >= min(kills) - 3 > 0
    assert got["weights"] == expected["weights"], f"killed at steps {kills}"


def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    """The same global batches, views and labelled counts over gloo: losses equal to 1e-5."""
    worker(tmp_path / "one", "--batch-size=8", "--no-dropout")
    worker(tmp_path / "two", "--batch-size=4", "--no-dropout", processes=2)
    one, two = finished(tmp_path / "one"), finished(tmp_path / "two")
    assert one["world"] == 1
    assert two["world"] == 2
    assert len(one["losses"]) == 60
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(two["terms"], one["terms"], rtol=1e-5, atol=1e-5)
