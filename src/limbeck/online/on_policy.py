"""On-policy distillation: a student learns from its teacher on what it says itself."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from limbeck.balance import Balancing
from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError
from limbeck.losses import GeneralizedJSD
from limbeck.losses.numeric import fraction, positive
from limbeck.models.forward import unwrapped
from limbeck.models.heads import is_causal_lm
from limbeck.online.replay import ReplayBuffer
from limbeck.online.sampling import Prompts, Samples, sample
from limbeck.processes import processes
from limbeck.scoring import Reader, compare_models
from limbeck.shortcuts import SHORTCUTS
from limbeck.sources import as_training_data
from limbeck.teachers import Stored, TeacherLike
from limbeck.terms import Term
from limbeck.types import Batch


class OnPolicy(Distiller):
    """A Distiller of causal language models that in a share of its steps learns from the student's own continuations.

    In such a step the student continues prompts, the first tokens of the batch's rows; no gradient goes through the
    draws. Student and teacher then read the sequences, and the terms compare them at the tokens that were drawn, which
    have no label: terms on labels skip them. Other steps learn from the batch as it is.

    DistillTrainer and `limbeck.training.train` ask for the batches by themselves; a loop of your own does so with

        loss = distiller(distiller.training_batch(batch)).loss

    The draws are a function of the seed and the step. A checkpoint keeps the count of steps and the sequences, so that
    a resumed training goes on as it would have; of several processes each has its own draws, and on resuming the
    sequences of the first.

    Args:
        student, teacher: causal language models with the same tokens; the teacher must be able to read any text, which
            a label store is not.
        objective: the terms; by default the generalised JSD of the paper at β = 0.5 and temperature 1.
        prompt: tokens of a prompt at most.
        new_tokens: tokens that are drawn at most; fewer where one ends the text.
        share: the paper's λ, which share of steps is on-policy.
        temperature: of the student's draws; the paper has 1.
        reuse: how many on-policy steps learn from a generation, as drawing takes longer than learning.
        size: how many sequences are kept for that, of which a step without a generation takes some at random; None
            keeps those of the last generation.
        ends: tokens that end a text; those of the student's configuration by default.
        seed: of the draws.
        example, balance, shortcuts: as of a Distiller.

    Raises:
        LimbeckError: a model does not fit, no term uses the teacher, or a number is out of range.

    Agarwal et al. 2024, "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
    arXiv:2306.13649, algorithm 1.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: TeacherLike,
        objective: Sequence[Term] | None = None,
        *,
        prompt: int,
        new_tokens: int,
        share: float = 1.0,
        temperature: float = 1.0,
        reuse: int = 1,
        size: int | None = None,
        ends: tuple[int, ...] | None = None,
        seed: int = 0,
        example: Batch | None = None,
        balance: Balancing = "fixed",
        shortcuts: Collection[str] = SHORTCUTS,
    ) -> None:
        if not is_causal_lm(student):
            raise LimbeckError(
                f"OnPolicy: the student, a {type(student).__name__}, is not a causal language model of transformers"
            )
        terms = [Term(GeneralizedJSD(1.0, 0.5))] if objective is None else objective
        if not any(term.uses_teacher for term in terms):
            raise LimbeckError("OnPolicy: no term uses the teacher, and what the student says has no labels; add one")
        super().__init__(student, teacher, terms, example=example, balance=balance, shortcuts=shortcuts)
        if isinstance(self.teacher, Stored) and self.teacher.fallback is None:
            raise LimbeckError(
                "OnPolicy: a label store knows no text that the student says; give a live teacher, or the store with "
                "one as fallback"
            )
        for name, count in (("prompt", prompt), ("new_tokens", new_tokens), ("reuse", reuse), ("size", size or 1)):
            if count < 1:
                raise LimbeckError(f"OnPolicy {name}: expected 1 or more, got {count}")
        self.prompt, self.new_tokens, self.reuse, self.seed = prompt, new_tokens, reuse, seed
        self.share = fraction(share, "OnPolicy share")
        self.temperature = positive(temperature, "OnPolicy temperature")
        self._ends = ends
        self._buffer = ReplayBuffer(size)
        self._steps = self._own_steps = 0
        # A draw that only the student's padding has would be an error in the teacher's table.
        read = [student, *(self.teacher.modules() if self.teacher is not None else ())]
        self._vocabulary = min(_entries(model) for model in read if is_causal_lm(model))

    def training_batch(self, batch: Batch) -> Batch:
        """What the next step learns from: the batch itself, or what the student says to its prompts."""
        step = self._steps
        self._steps += 1
        if random.Random(f"{self.seed} share {step}").random() >= self.share:
            return batch
        fresh = self._own_steps % self.reuse == 0 or not len(self._buffer)
        self._own_steps += 1
        drawn = random.Random(f"{self.seed} draws {step} {processes().process_index}").getrandbits(63)
        ids = batch["input_ids"]
        if not fresh:
            samples = self._buffer.draw(len(ids), torch.Generator().manual_seed(drawn))
            return {name: tensor.to(ids.device) for name, tensor in samples.batch().items()}
        generator = torch.Generator(ids.device).manual_seed(drawn)
        samples = self._continued(Prompts.of(batch, self.prompt), generator)
        if self.reuse > 1:
            self._buffer.add(samples)
        return samples.batch()

    def _continued(self, prompts: Prompts, generator: torch.Generator) -> Samples:
        return sample(
            self.student, prompts, self.new_tokens, temperature=self.temperature, ends=self._ends,
            vocabulary=self._vocabulary, generator=generator,
        )  # fmt: skip

    def get_extra_state(self) -> Tensor:
        """The count of steps and the sequences that are kept, for a checkpoint."""
        return torch.cat([torch.tensor([self._steps, self._own_steps]), self._buffer.state()])

    def set_extra_state(self, state: Tensor) -> None:
        """Takes in what `get_extra_state` gave."""
        state = state.cpu()
        self._steps, self._own_steps = state[:2].tolist()
        self._buffer.restore(state[2:])


def own_sample_kl(
    student: nn.Module,
    teacher: nn.Module | Reader,
    data: Any,
    *,
    prompt: int,
    new_tokens: int,
    temperature: float = 1.0,
    ends: tuple[int, ...] | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, float]:
    """How far a student is from its teacher on what it says itself, which is what on-policy distillation lowers.

    Each row of the data gives a prompt, as in training; the student continues it, and both read the result.

    - `own_reverse_kl`, `own_forward_kl`: the means over drawn tokens of KL(student ‖ teacher) and KL(teacher ‖
      student), in nats, at temperature 1 whatever the draws' is;
    - `own_agreement`: the share of drawn tokens before which both find the same token most probable;
    - `own_tokens`: how many were drawn.

    Args:
        student, teacher: causal language models with the same tokens, or for the teacher a reader (see
            `limbeck.scoring`).
        data: rows as in training.
        prompt, new_tokens, temperature, ends: as of OnPolicy.
        batch_size: rows at a time.
        seed: of the draws.

    Raises:
        LimbeckError: as of `sample` and `compare_models`.
    """
    rows, collate = as_training_data(data, None)
    device = next((parameter.device for parameter in student.parameters()), torch.device("cpu"))
    generator = torch.Generator(device).manual_seed(seed)
    vocabulary = min(_entries(model) for model in (student, teacher) if isinstance(model, nn.Module))
    drawn: list[dict[str, Tensor]] = []
    for batch in DataLoader(rows, batch_size, collate_fn=collate):
        prompts = Prompts.of({name: tensor.to(device) for name, tensor in batch.items()}, prompt)
        found = sample(
            student, prompts, new_tokens, temperature=temperature, ends=ends, vocabulary=vocabulary, generator=generator
        )
        width = prompt + new_tokens
        whole = replace(found, ids=nn.functional.pad(found.ids, (0, width - found.ids.shape[1])))
        said = {name: tensor.cpu() for name, tensor in whole.batch().items()}
        drawn += [{name: tensor[row] for name, tensor in said.items()} for row in range(len(whole.ids))]
    compared = compare_models(student, teacher, drawn, batch_size=batch_size)
    metrics = compared.metrics()
    return {
        "own_reverse_kl": metrics["reverse_kl"],
        "own_forward_kl": metrics["teacher_kl"],
        "own_agreement": metrics["agreement"],
        "own_tokens": float(len(compared.student.labels)),
    }


def _entries(model: nn.Module) -> int:
    """How many entries the logits of a transformers model have."""
    inner: Any = unwrapped(model)
    return int(inner.get_input_embeddings().weight.shape[0])
