"""Mutual learning: the gradients of the paper's losses, for every student, in any loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import TrainingArguments

from limbeck import DistillTrainer, LimbeckError
from limbeck.online import Mutual
from limbeck.sources import as_training_data


def net(seed: int, width: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3)).double()


def batch(unlabelled: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (10,), generator=generator)
    labels[:unlabelled] = -1
    return {"inputs": torch.randn(10, 6, generator=generator, dtype=torch.float64), "labels": labels}


@pytest.mark.parametrize(("count", "temperature", "weight"), [(2, 1.0, 1.0), (3, 2.0, 0.5)])
def test_gradients_are_those_of_hand_written_dml(count: int, temperature: float, weight: float) -> None:
    """A gradient that leaks into the peers, KL with its sides swapped, or a sum over peers instead of their mean."""
    mine = [net(seed, 8 + seed) for seed in range(count)]
    theirs = [net(seed, 8 + seed) for seed in range(count)]
    given = batch()
    output = Mutual(mine, temperature=temperature, weight=weight)(given)
    output.loss.backward()
    logits = [student(given["inputs"]) for student in theirs]
    for index, own in enumerate(logits):
        peers = [peer.detach() for other, peer in enumerate(logits) if other != index]
        hard = F.cross_entropy(own, given["labels"])
        soft = sum(
            F.kl_div(
                (own / temperature).log_softmax(-1), (peer / temperature).softmax(-1), reduction="batchmean"
            )
            for peer in peers
        ) * temperature**2 / len(peers)  # fmt: skip
        torch.testing.assert_close(output.terms[f"supervised-{index}"], hard.detach())
        torch.testing.assert_close(output.terms[f"mutual-{index}"], soft.detach())
        (hard + weight * soft).backward()
    for one, other in zip(mine, theirs, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(output.logits, logits[0])


def test_unlabelled_samples_learn_from_the_peers() -> None:
    """Without labels, students would not teach each other at all, or the mean would count wrong samples."""
    students = [net(0), net(1)]
    given = batch(unlabelled=6)
    terms = Mutual(students)(given).terms
    logits = students[0](given["inputs"])
    torch.testing.assert_close(terms["supervised-0"], F.cross_entropy(logits[6:], given["labels"][6:]).detach())
    peer = students[1](given["inputs"]).softmax(-1)
    torch.testing.assert_close(
        terms["mutual-0"], F.kl_div(logits.log_softmax(-1), peer, reduction="batchmean").detach()
    )


def test_all_students_are_trained_and_the_first_is_evaluated(tmp_path: Path) -> None:
    """In DistillTrainer a peer that is no submodule would stay as it was, or the wrong one be saved."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 6, generator=generator)
    data, _ = as_training_data((inputs, inputs[:, :3].argmax(-1)), 3)
    mutual = Mutual([net(0).float(), net(1, 12).float()])
    before = [student[0].weight.detach().clone() for student in mutual.students]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=40, per_device_train_batch_size=16, learning_rate=0.05, logging_steps=10,
        save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = DistillTrainer(mutual, arguments, train_dataset=data, eval_dataset=data, probe_every=10)
    trainer.train()
    assert all(not torch.equal(student[0].weight, old) for student, old in zip(mutual.students, before, strict=True))
    history = [entry for entry in trainer.state.log_history if "term/mutual-1" in entry]
    assert history[-1]["term/supervised-0"] < history[0]["term/supervised-0"]
    probed = [entry for entry in trainer.state.log_history if "gradient/norm/mutual-1" in entry]
    assert all(entry["gradient/norm/mutual-1"] > 0 and -1 <= entry["gradient/cosine/mutual-1"] <= 1 for entry in probed)
    predicted = trainer.predict(data)
    torch.testing.assert_close(torch.tensor(predicted.predictions), mutual.students[0].eval()(inputs).detach())
    trainer.save_model(str(tmp_path / "student"))
    assert (tmp_path / "student" / "model.safetensors").exists()


def test_mistakes_are_named() -> None:
    """One module twice would teach itself what it already says."""
    one = net(0)
    with pytest.raises(LimbeckError, match="two students or more"):
        Mutual([one])
    with pytest.raises(LimbeckError, match="each a module of its own; got 1"):
        Mutual([one, one])
    with pytest.raises(LimbeckError, match="temperature"):
        Mutual([one, net(1)], temperature=0.0)


def test_modes_reach_every_student() -> None:
    """A peer left in eval mode by somebody's evaluation would train without dropout from then on."""
    mutual = Mutual([net(0), net(1)]).train()
    mutual.students[1].eval()
    mutual.train()
    assert mutual.students[1].training
