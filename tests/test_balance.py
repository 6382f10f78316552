"""Balance: factors with the gradients of their papers, in every loop, cut in any way, and resumed."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import TrainingArguments

from limbeck import Distiller, DistillTrainer, LimbeckError, Schedule, Term
from limbeck.balance import GradientNorms, Uncertainty
from limbeck.gradients import probe
from limbeck.losses import KD, FeatureMSE, Supervised
from limbeck.shortcuts import SHORTCUTS
from limbeck.sources import as_training_data

WORKER = Path(__file__).parent / "balance_worker.py"


def net(seed: int, width: int = 16) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3))


def batch(samples: int = 8, unlabelled: int = 2, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (samples,), generator=generator)
    labels[:unlabelled] = -1
    return {"inputs": torch.randn(samples, 6, generator=generator), "labels": labels}


def terms() -> list[Term]:
    return [Term(Supervised(), 0.3), Term(KD(2.0), 0.7), Term(FeatureMSE(), 2.0, student="1", teacher="1")]


def by_hand(student: nn.Sequential, teacher: nn.Sequential, given: dict[str, Tensor]) -> list[Tensor]:
    x, labels = given["inputs"], given["labels"]
    logits, target = student(x), (teacher(x) / 2).softmax(-1).detach()
    return [
        F.cross_entropy(logits, labels, ignore_index=-1),
        4 * F.kl_div((logits / 2).log_softmax(-1), target, reduction="batchmean"),
        F.mse_loss(student[:2](x), teacher[:2](x).detach()),
    ]


def trainer(tmp_path: Path, distiller: Distiller, **options: Any) -> DistillTrainer:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 8, "max_steps": 6, "learning_rate": 0.1, "optim": "sgd",
        "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no", "report_to": [],
        "disable_tqdm": True, "use_cpu": True, "max_grad_norm": 0.0, "dataloader_pin_memory": False,
    }  # fmt: skip
    probe_every = options.pop("probe_every", 0)
    given = batch(32, 10)
    data, _ = as_training_data((given["inputs"], given["labels"]), 3)
    arguments = TrainingArguments(output_dir=str(tmp_path), **(settings | options))
    return DistillTrainer(distiller, arguments, train_dataset=data, probe_every=probe_every)


def state(distiller: Distiller) -> dict[str, Tensor]:
    return copy.deepcopy(distiller.state_dict())


def test_uncertainty_is_the_papers_loss() -> None:
    """s / 2 with the wrong factor, a log-variance without the loss's gradient, or the user's weight forgotten."""
    student, teacher, given = net(0), net(1), batch()
    distiller = Distiller(student, teacher, terms(), balance="uncertainty")
    balance = distiller.objective.balance
    assert isinstance(balance, Uncertainty)
    noise = torch.tensor([0.4, -0.3, 0.9])
    with torch.no_grad():
        balance.log_variances.copy_(noise)
    output = distiller(given)
    output.loss.backward()
    other, s = net(0), noise.clone().requires_grad_()
    values = by_hand(other, teacher, given)
    weighted = zip((0.3, 0.7, 2.0), s, values, strict=True)
    expected = sum(w * torch.exp(-own) * value + own / 2 for w, own, value in weighted)
    expected.backward()
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(balance.log_variances.grad, s.grad)
    for one, two in zip(student.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_uncertainty_finds_the_optimum_of_a_fixed_loss() -> None:
    """Minimised over s alone, w · exp(−s) · L + s / 2 is least at s = log 2wL."""
    distiller = Distiller(net(0), net(1), terms()[:2], balance="uncertainty")
    given = batch()
    balance = distiller.objective.balance
    assert isinstance(balance, Uncertainty)
    optimizer = torch.optim.SGD(balance.parameters(), 0.5)
    for _ in range(400):
        optimizer.zero_grad()
        output = distiller(given)
        output.loss.backward()
        optimizer.step()
    expected = torch.stack([0.6 * output.terms["supervised"], 1.4 * output.terms["kd"]]).log()
    torch.testing.assert_close(balance.log_variances.detach(), expected, atol=1e-3, rtol=1e-3)


def test_a_term_that_is_over_leaves_its_noise_alone() -> None:
    """s / 2 alone drives the log-variance of a term without weight to −∞."""
    distiller = Distiller(
        net(0), net(1), [Term(Supervised()), Term(KD(), Schedule(0.9, until=0.5))], balance="uncertainty"
    )
    distiller.progress(3.0, 0.6)
    distiller(batch()).loss.backward()
    balance = distiller.objective.balance
    assert isinstance(balance, Uncertainty)
    assert balance.log_variances.grad is not None
    assert balance.log_variances.grad[1] == 0
    assert balance.log_variances.grad[0] != 0


def test_one_batch_of_8_equals_4_accumulated_of_2(tmp_path: Path) -> None:
    """s / 2 counted once a micro-batch."""
    whole = Distiller(net(0), net(1), terms(), balance="uncertainty")
    parts = Distiller(net(0), net(1), terms(), balance="uncertainty")
    trainer(tmp_path / "a", whole).train()
    trainer(tmp_path / "b", parts, per_device_train_batch_size=2, gradient_accumulation_steps=4).train()
    assert not torch.equal(state(whole)["objective.balance.log_variances"], torch.zeros(3))
    torch.testing.assert_close(state(whole), state(parts), rtol=1e-5, atol=1e-5)


def test_two_processes_have_the_loss_of_one() -> None:
    """Each process adding all of s / 2, or half of it, where gradients are averaged over both."""
    distiller = Distiller(net(0), net(1), terms(), balance="uncertainty")
    balance = distiller.objective.balance
    assert isinstance(balance, Uncertainty)
    with torch.no_grad():
        balance.log_variances.copy_(torch.tensor([0.4, -0.3, 0.9]))
    given = batch()
    halves = [{name: tensor[at] for name, tensor in given.items()} for at in (slice(0, 4), slice(4, 8))]
    shared = torch.stack([distiller.counts(half) for half in halves]).sum(0) / 2
    torch.testing.assert_close(sum(distiller(half, shared).loss for half in halves) / 2, distiller(given).loss)


def test_language_models_take_their_factors_in_chunks() -> None:
    """Terms that are computed together, without a graph for their values, would leave the log-variances untaught."""
    config = transformers.LlamaConfig(
        vocab_size=24, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    teacher = transformers.LlamaForCausalLM(config)
    ids = torch.randint(0, 24, (3, 7))
    found = []
    for shortcuts in (SHORTCUTS, SHORTCUTS - {"linear-head"}):
        torch.manual_seed(1)
        student = transformers.LlamaForCausalLM(config)
        distiller = Distiller(student, teacher, terms()[:2], balance="uncertainty", shortcuts=shortcuts)
        balance = distiller.objective.balance
        assert isinstance(balance, Uncertainty)
        with torch.no_grad():
            balance.log_variances.copy_(torch.tensor([0.4, -0.3]))
        output = distiller({"input_ids": ids})
        output.loss.backward()
        means = torch.stack([output.terms["supervised"], output.terms["kd"]])
        weights = torch.tensor([0.3, 0.7]) * torch.tensor([-0.4, 0.3]).exp()
        torch.testing.assert_close(output.loss, (weights * means).sum() + 0.05)
        torch.testing.assert_close(balance.log_variances.grad, 0.5 - weights * means)
        found.append(student.lm_head.weight.grad)
    torch.testing.assert_close(found[0], found[1])


def test_gradients_are_as_long_as_the_weights_say() -> None:
    """A factor that is its own inverse, or measured with the weights already in it."""
    student, teacher, given = net(0), net(1), batch()
    distiller = Distiller(student, teacher, terms(), balance="gradient")
    found = probe(distiller, given)
    assert found is not None
    assert distiller.objective.balance is not None
    before = distiller(given).loss
    plain = sum(w * v for w, v in zip((0.3, 0.7, 2.0), by_hand(student, teacher, given), strict=True))
    torch.testing.assert_close(before, plain)
    distiller.objective.balance.observe(found.norms)
    factors = distiller.objective.balance.factors()
    reference = None
    for index, (weight, value) in enumerate(zip((0.3, 0.7, 2.0), by_hand(student, teacher, given), strict=True)):
        scaled = weight * factors[index] * value
        parts = torch.autograd.grad(scaled, list(student.parameters()), allow_unused=True, retain_graph=True)
        norm = torch.sqrt(sum(each.square().sum() for each in parts if each is not None))
        reference = norm / 0.3 if reference is None else reference
        torch.testing.assert_close(norm, weight * reference)
    total = sum(w * f * v for w, f, v in zip((0.3, 0.7, 2.0), factors, by_hand(student, teacher, given), strict=True))
    torch.testing.assert_close(distiller(given).loss, total)


def test_norms_are_averaged_and_useless_ones_passed_over() -> None:
    """One batch without labels would switch every teacher's term off."""
    balance = GradientNorms([0, 0], [False, True])
    assert balance.factors().tolist() == [1.0, 1.0]
    balance.observe(torch.tensor([0.0, 4.0]))
    assert balance.factors().tolist() == [1.0, 1.0]
    balance.observe(torch.tensor([2.0, float("nan")]))
    assert balance.factors().tolist() == [1.0, 0.5]
    balance.observe(torch.tensor([0.0, 8.0]))
    torch.testing.assert_close(balance.factors(), torch.tensor([1.0, 2.0 / 4.4]))


def test_several_tasks_are_measured_against_their_own_labels() -> None:
    """The second task's teacher scaled by the first task's labels."""
    from limbeck.balance import references_of

    tasks = [
        Term(Supervised(), student="a", labels="a"), Term(Supervised(), student="b", labels="b"),
        Term(KD(), student="b", teacher="b.logits"), Term(KD(), student="a", teacher="a.logits"),
        Term(FeatureMSE(), student="layer", teacher="a.layer"),
    ]  # fmt: skip
    assert references_of(tasks) == [0, 1, 1, 0, 0]
    assert references_of([Term(KD())]) == [None]


def test_two_processes_measure_the_gradients_of_one(tmp_path: Path) -> None:
    """Norms of each process's part of a batch are longer than those of the whole, most of all those of few labels."""
    ends = []
    for processes in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
        end = tmp_path / f"{processes}.json"
        command = [sys.executable, *(launcher if processes > 1 else []), str(WORKER), str(end), str(16 // processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=300)
        assert done.returncode == 0, done.stderr
        ends.append(json.loads(end.read_text()))
    assert [each["world"] for each in ends] == [1, 2]
    assert len(ends[0]["probes"]) == 4
    torch.testing.assert_close(ends[1]["probes"], ends[0]["probes"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ends[1]["losses"], ends[0]["losses"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("balance", ["uncertainty", "gradient"])
def test_a_balance_is_saved_and_resumed(tmp_path: Path, balance: Any) -> None:
    """A resumed run that starts with other factors ends with other weights."""
    whole = Distiller(net(0), net(1), terms(), balance=balance)
    trainer(tmp_path / "whole", whole, save_strategy="steps", save_steps=3, probe_every=2).train()
    expected = state(whole)
    assert any(name.startswith("objective.balance.") for name in expected)
    again = Distiller(net(0), net(1), terms(), balance=balance)
    trainer(tmp_path / "again", again, probe_every=2).train(
        resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3")
    )
    for name, tensor in state(again).items():
        assert torch.equal(tensor, expected[name]), name


def test_the_trainer_measures_for_the_balance(tmp_path: Path) -> None:
    """`gradient` under the default of no probes would be `fixed` under another name; factors belong into the log."""
    distiller = Distiller(net(0), net(1), terms(), balance="gradient")
    found = trainer(tmp_path, distiller)
    found.train()
    entries = [entry for entry in found.state.log_history if "balance/kd" in entry]
    assert all(entry["balance/supervised"] == 1.0 for entry in entries)
    assert entries[0]["balance/kd"] != 1.0
    assert entries[0]["balance/kd"] == pytest.approx(
        next(
            entry["gradient/norm/supervised"] / entry["gradient/norm/kd"]
            for entry in found.state.log_history
            if "gradient/norm/kd" in entry
        )
    )


def test_fixed_is_as_it_was(tmp_path: Path) -> None:
    """Nothing new in the state, and the one node of joint terms still on."""
    distiller = Distiller(net(0), net(1), terms()[:2])
    assert distiller.objective.balance is None
    assert all(name.startswith("student.") for name in distiller.state_dict())
    assert "Joint" in str(distiller(batch()).loss.grad_fn)


def test_mistakes_are_named() -> None:
    """Nothing to measure against, or a name that is none."""
    with pytest.raises(LimbeckError, match="against one on labels, but there is none"):
        Distiller(net(0), net(1), [Term(KD())], balance="gradient")
    config = transformers.LlamaConfig(
        vocab_size=24, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(LimbeckError, match="cannot tell the terms of a language model apart"):
        Distiller(transformers.LlamaForCausalLM(config), None, [Term(Supervised())], balance="gradient")
    with pytest.raises(LimbeckError, match="unknown 'gradients'; did you mean 'gradient'"):
        Distiller(net(0), net(1), balance="gradients")  # type: ignore[arg-type]
