"""The Distiller: student, objective and a teacher at its side, one call a step, in any training loop."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from limbeck.balance import Balancing, Uncertainty
from limbeck.errors import LimbeckError
from limbeck.losses import Loss
from limbeck.losses.fused import serves_fused
from limbeck.models import as_module
from limbeck.models.forward import evaluating, forward_of, unwrapped
from limbeck.models.heads import is_causal_lm
from limbeck.models.layout import (
    channels_last_batch,
    channels_last_model,
    contiguous_batch,
    refuses_channels_last,
)
from limbeck.objective import Context, Objective, labelled, taken
from limbeck.pairing import expand, opened
from limbeck.projectors import projector_between
from limbeck.shortcuts import SHORTCUTS, known_shortcuts
from limbeck.taps import SignalReader
from limbeck.teachers import Teacher, TeacherLike, as_teacher
from limbeck.terms import LOGITS, Term, default_terms, settled
from limbeck.tokens import TokenPlan, seeks_spans
from limbeck.types import Batch, Output, Signal


class Distiller(nn.Module):
    """A student, its objective, and a teacher that is *not* a submodule.

    The optimizer, `state_dict`, `.train()`, `.to()` and DistributedDataParallel see the student, the projectors and
    the losses' learned parts, never the teacher.

    Args:
        student: the module to train.
        teacher: a Teacher, a module, the path of an .onnx file, or a list of those; None trains the student alone.
        objective: the terms; by default 0.1 of the labels and 0.9 of the teacher at temperature 4, or the labels only
            where there is no teacher.
        example: a batch. With it, dry forward passes find the taps of terms on features that name none, check every
            term's shapes and build the projectors that differing features need.
        balance: how terms are balanced: by their weights as they are (`fixed`), with a factor for each that is learned
            from its noise (`uncertainty`), or with one that makes the teacher's gradients as long as that of the
            labels (`gradient`: DistillTrainer measures them; a loop of your own must); see `limbeck.balance`.
        shortcuts: what may be done to make a step faster, with the same values and gradients; see
            `limbeck.shortcuts`. A teacher given as a Teacher has its own.

    A batch with `attention_mask`, or of a causal language model, is one of texts: terms then compare the tokens that
    count (see `limbeck.tokens`), and a causal model's logits are taken against the next token's label. An
    encoder-decoder's batch has `decoder_input_ids` too, and its logits are taken against the label of each. Of one with
    `span_mask` or `start_positions`, logits are those of an answer's start and of its end, two items a text.

    Raises:
        LimbeckError: a term names a signal that the student or the teacher cannot give, or needs a teacher and there
            is none.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: TeacherLike | None = None,
        objective: Sequence[Term] | None = None,
        *,
        example: Batch | None = None,
        balance: Balancing = "fixed",
        shortcuts: Collection[str] = SHORTCUTS,
    ) -> None:
        super().__init__()
        self.student = as_module(student)
        self.shortcuts = known_shortcuts(shortcuts)
        self.teacher: Teacher | None = None if teacher is None else as_teacher(teacher, shortcuts)
        terms = default_terms() if objective is None else list(objective)
        if objective is None and teacher is None:
            terms = [term for term in terms if not term.uses_teacher]
        if example is not None:
            terms = expand(terms, self.student, self.teacher, example)
        taught = [term for term in terms if term.uses_teacher]
        if taught and self.teacher is None:
            raise LimbeckError(
                f"the term {type(taught[0].loss).__name__} compares with a teacher, but there is none; "
                "pass a teacher, or only terms on labels"
            )
        if self.teacher is not None:
            if any(module is self.student for module in self.teacher.modules()):
                raise LimbeckError(
                    "teacher and student are one object, so the teacher would learn; pass copy.deepcopy(model)"
                )
            self._introduce(terms)
            terms = [term.with_offered(self.teacher.offers) for term in terms]
            taught = [term for term in terms if term.uses_teacher]
            self.teacher.require({name or LOGITS for term in taught for name in term.teacher_names})
            for term in taught:
                for name in term.teacher_names:
                    if why := self.teacher.refuses(name or LOGITS, term.loss):
                        raise LimbeckError(f"{term.title}: {why}")
        wanted = {name for term in terms for name in (*term.student_names, *(term.teacher_names if term.own else ()))}
        wanted = {name or LOGITS for name in wanted}
        if example is not None:
            example = self._moved(example)
            wanted -= self._given(wanted, example)
        self._read = SignalReader(self.student, wanted, "student")
        self._causal = is_causal_lm(self.student)
        if self._causal and balance == "gradient":
            raise LimbeckError(
                "balance='gradient' cannot tell the terms of a language model apart, whose loss is made in chunks; "
                "take 'uncertainty' or 'fixed'"
            )
        self._heads = balance != "gradient" and self._heads_serve(terms)
        self._channels_last = "channels-last" in self.shortcuts and channels_last_model(self.student)
        self._token_signals: set[str] | None = None
        if self.teacher is not None:
            self.teacher.give_heads(self._heads)
        if example is not None:
            terms = self._with_projectors(terms, example)
        self.objective = Objective(terms, joint="joint-loss" in self.shortcuts, balance=balance)

    def forward(self, batch: Batch, denominators: Tensor | None = None) -> Output:
        """Loss, logits and terms of a batch; `denominators` as in Objective.forward."""
        signal, taught, labels, context = self._compared(batch)
        assert context.student is not None
        shares = None
        if isinstance(self.objective.balance, Uncertainty):
            counts = self.counts(batch)
            shares = counts.clamp(max=1) if denominators is None else counts.to(denominators.device) / denominators
        loss, terms = self.objective(
            signal, taught, labels, denominators, padded_vocabulary=self._causal, context=context, shares=shares
        )
        return Output(loss, context.student.tensors.get(LOGITS), terms)

    def term_values(self, batch: Batch, denominators: Tensor | None = None) -> list[Tensor]:
        """Each term's mean over a batch before its weight, with its graph, so that their gradients can be told apart;
        not for a language model whose logits are made in chunks. `denominators` as in Objective.forward."""
        signal, taught, labels, context = self._compared(batch)
        counts = [None] * len(self.objective.terms) if denominators is None else denominators.unbind()
        return [
            self.objective.value(index, signal, taught, labels, count, context=context)
            for index, count in enumerate(counts)
        ]

    @property
    def chunked(self) -> bool:
        """Whether logits are made in chunks, as of a language model's large vocabulary."""
        return self._causal or self._heads

    def learning(self) -> list[nn.Parameter]:
        """The student's parameters that are trained."""
        return [parameter for parameter in self.student.parameters() if parameter.requires_grad]

    def progress(self, epoch: float, share: float) -> None:
        """Brings schedules to a point of the training: epochs, and the share (0 to 1) of all steps, that are over.
        DistillTrainer calls it before every step; a loop of your own with scheduled terms must."""
        self.objective.progress(epoch, share)

    def prepare(self, ids: Tensor) -> None:
        """Tells losses that keep something of each sample the ids of all training samples, (samples,) int64.
        DistillTrainer calls it before training; a loop of your own with such a loss must."""
        for loss in self.objective.every_loss:
            loss.prepare(ids)
        # DistributedDataParallel would send the first process's memory of all samples to the others at every step.
        self._ddp_params_and_buffers_to_ignore = [
            f"objective.losses.{index}.{name}"
            for index, term in enumerate(self.objective.terms)
            if term.loss.needs_ids
            for name, _ in term.loss.named_buffers()
        ]

    def train(self, mode: bool = True) -> Distiller:
        """As of any module; nothing is walked through where student and objective are in the mode already, which
        trainers ask for at every step."""
        if not (self.training is self.student.training is self.objective.training is mode):
            super().train(mode)
        return self

    def counts(self, batch: Batch) -> Tensor:
        """How many items each term averages over in a batch, (terms,) float32: samples, or tokens that count."""
        plan = self._plan(batch)
        if plan is None:
            return self.objective.counts(batch.get("labels"), len(next(iter(batch.values()))), batch)
        if self._token_signals is None:
            self._learn_tokens(plan, self._dry_run(batch)[0])
        assert self._token_signals is not None
        tokens_have_logits = self._causal or LOGITS in self._token_signals
        samples = self.objective.counts(plan.labels, plan.logits_count if tokens_have_logits else plan.shape[0], batch)
        texts = torch.as_tensor(plan.shape[0], device=samples.device).float()
        spoken = self.teacher.masks(batch) if self.teacher is not None and self.objective.uses_teacher else {}
        counts = []
        for index, term in enumerate(self.objective.terms):
            name = term.student_names[0]
            mask = spoken.get(term.teacher_names[0]) if term.uses_teacher and not term.loss.structured else None
            if mask is not None:
                where = plan.items_where(name, mask)
                known = labelled(plan.labels) if term.loss.skips_unlabelled and plan.labels is not None else where
                counts.append((where & known).sum().to(samples.device).float())
            elif term.loss.structured or name not in self._token_signals or term.on_logits:
                counts.append(texts if term.loss.structured else samples[index])
            else:
                counts.append(torch.as_tensor(plan.count(name), device=samples.device).float())
        return torch.stack(counts)

    def student_signal(self, batch: Batch) -> Signal:
        """What the student alone gives for a batch: its logits and the signals that terms ask of it."""
        return self._read(batch)

    def _introduce(self, terms: Sequence[Term]) -> None:
        """Shows both models to losses that need more of them than signals."""
        losses = [each for term in terms for each in term.loss.modules() if isinstance(each, Loss)]
        losses = [each for each in losses if type(each).meet is not Loss.meet]
        if losses and self.teacher is not None:
            teacher = None
            with suppress(LimbeckError):  # of a store, or of several models, there is no module
                teacher = opened(self.teacher)[0]
            for loss in losses:
                loss.meet(unwrapped(self.student), None if teacher is None else unwrapped(teacher))

    def _heads_serve(self, terms: Sequence[Term]) -> bool:
        """Whether all terms on the student's logits can be computed from its head."""
        on_logits = [term for term in terms if {"", LOGITS} & {*term.student_names}]
        fits = all(term.on_logits and not term.own and serves_fused(term.loss) for term in on_logits)
        return "linear-head" in self.shortcuts and self._read.has_head and bool(on_logits) and fits

    def _compared(self, batch: Batch) -> tuple[Signal, Signal | None, Tensor | None, Context]:
        """What terms compare: the student's signals, the teacher's and the labels, at the tokens that count; and those
        of the whole batch."""
        batch = channels_last_batch(batch) if self._channels_last else batch
        signal = self._student(batch)
        # `alone` keeps a teacher out of the step, not only out of the loss.
        taught = self.teacher(batch) if self.teacher is not None and self.objective.uses_teacher else None
        labels = batch.get("labels")
        context = Context(batch, signal, taught)
        plan = self._plan(batch)
        if plan is not None:
            self._learn_tokens(plan, signal)
            signal, labels = plan.apply(signal), plan.labels
            taught = plan.apply(taught) if taught is not None else None
        return signal, taught, labels, context

    def _student(self, batch: Batch) -> Signal:
        try:
            return self._read.with_head(batch) if self._heads else self._read(batch)
        except RuntimeError as error:
            if not (self._channels_last and refuses_channels_last(error)):
                raise
        self._channels_last = False
        self.student.to(memory_format=torch.contiguous_format)
        return self._read(contiguous_batch(batch))

    def _plan(self, batch: Batch) -> TokenPlan | None:
        """The tokens that count, where the batch is one of texts."""
        if not self._causal and "attention_mask" not in batch and "input_ids" not in batch:
            return None
        compact = "compact-tokens" in self.shortcuts or (self.teacher is not None and self.teacher.compact)
        return TokenPlan(batch, causal=self._causal, compact=compact)

    def _learn_tokens(self, plan: TokenPlan, signal: Signal) -> None:
        if self._token_signals is None:
            self._token_signals = plan.covered(signal)

    def _dry_run(self, batch: Batch) -> tuple[Signal, Signal | None]:
        """What student and teacher give for a batch, without a trace in either."""
        with torch.no_grad(), evaluating(self.student):
            student = self._read(batch)
        return student, self.teacher(batch) if self.teacher is not None else None

    def _moved(self, example: Batch) -> Batch:
        """The example where the student is."""
        device = next((parameter.device for parameter in self.student.parameters()), torch.device("cpu"))
        return {name: tensor.to(device) for name, tensor in example.items()}

    def _given(self, wanted: set[str], example: Batch) -> set[str]:
        """Which of the wanted signals are no modules to tap, but entries of the dict that the student gives."""
        modules = {name for name, _ in self.student.named_modules()}
        if not wanted - modules - {LOGITS}:
            return set()
        with torch.no_grad(), evaluating(self.student):
            return wanted & set(forward_of(self.student)(example)) - modules - {LOGITS}

    def _with_projectors(self, terms: list[Term], example: Batch) -> list[Term]:
        device = next(iter(example.values())).device
        student, taught = self._dry_run(example)
        plan, labels = self._plan(example), example.get("labels")
        context = Context(example, student, taught)
        if plan is not None:
            self._learn_tokens(plan, student)
            student, labels = plan.apply(student), plan.labels
            taught = plan.apply(taught) if taught is not None else None
        built = []
        for term in settled(terms):
            mine, theirs = (context.student, context.teacher) if term.loss.structured else (student, taught)
            assert mine is not None
            source = mine if term.own else theirs
            if term.on_logits or source is None or not term.teacher_names:
                term.loss.build(taken(mine, term.student), None)
            else:
                here, there = taken(mine, term.student), taken(source, term.teacher)
                # Classes are compared with classes: a map between other numbers of them would hide a mistake.
                between_features = term.teacher_names[0].rpartition(".")[2] != LOGITS
                if term.loss.aligned and term.projector is None and between_features:
                    projector = projector_between(here, there, term.title)
                    term = replace(term, projector=projector.to(device) if projector is not None else None)
                term.loss.build(here, there)
            term.loss.to(device)
            built.append(term)
        # A loss that keeps something of each sample does not know them yet; none may learn from the example.
        if tried := [term for term in built if not term.loss.needs_ids]:
            objective = Objective(tried)
            with torch.no_grad(), evaluating(objective):
                _, means = objective(student, taught, labels, padded_vocabulary=self._causal, context=context)
            broken = [name for name, mean in means.items() if not bool(mean.isfinite())]
            if broken and seeks_spans(example):
                raise LimbeckError(
                    f"term {broken[0]}: its loss needs all logits to be finite, and tokens where no answer may begin "
                    "or end have -inf; take one on probabilities, such as kd"
                )
        return built
