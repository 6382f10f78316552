"""DistillTrainer: transformers.Trainer around a Distiller, with as little on top as possible."""

from __future__ import annotations

import copy
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from limbeck.balance import GradientNorms, on_labels
from limbeck.beside import (
    FollowStudent,
    HasEpochs,
    MakesBatches,
    SetEpoch,
    TellProgress,
    TermLog,
    lookups_made_once,
)
from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError
from limbeck.gradients import probe
from limbeck.models import save
from limbeck.sources import ByLength, HasLengths, collate_samples, ids_of
from limbeck.teachers import fingerprint

log = logging.getLogger(__name__)

TEACHER_STATE = "teacher.safetensors"
STAGING = ".checkpoint.partial"
PROBE_EVERY = 50
"""Steps between probes where the balance needs them and nobody said how many."""


class DistillTrainer(Trainer):
    """Trains a Distiller: logs each term, evaluates and saves the student only, restores everything on resume.

    On top of transformers.Trainer:

    * each term is logged as `term/<name>`, its mean over the steps since the last log; the values stay on the device
      until then, so that no step waits for them;
    * a term that is NaN or infinite stops the run with its name, one that never changes gives a warning;
    * one batch of 8 equals four accumulated batches of 2, and two processes of 4, also where labels are missing:
      terms are divided by the count over all of them;
    * a checkpoint is written beside its place and renamed, so that a kill while saving costs nothing;
    * the teacher must be the same at the end as at the start;
    * `train_sampling_strategy="group_by_length"` asks the data set for its `lengths`, (n,);
    * `validate`, where given, measures the student in the place of `compute_metrics`;
    * every `probe_every` steps (0: never, but for `balance="gradient"`) it logs of each term `gradient/norm/<name>` and
      `gradient/cosine/<name>`, with the gradient of the term on labels; the training is the same to the bit.

    Data sets give dicts with `inputs` and `labels`, or (input, label) pairs, unless you pass a `data_collator`.
    `remove_unused_columns` and `logging_nan_inf_filter` of the arguments are switched off: the first would drop
    what the models need, the second would wait for the device at every step and hide what this class reports.
    """

    model: Distiller

    def __init__(
        self,
        distiller: Distiller,
        args: TrainingArguments | None = None,
        *,
        data_collator: Callable[[Any], Any] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        probe_every: int = 0,
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
        **trainer_options: Any,
    ) -> None:
        args = copy.copy(args) if args is not None else TrainingArguments(output_dir="runs/distill")
        args.remove_unused_columns = False
        args.logging_nan_inf_filter = False
        args.label_names = ["labels"]
        self._staging: Path | None = None
        super().__init__(
            distiller,
            args,
            data_collator=data_collator or collate_samples,
            callbacks=[TellProgress(), FollowStudent(), *(callbacks or [])],
            **trainer_options,
        )
        if isinstance(self.train_dataset, HasEpochs):
            self.add_callback(SetEpoch(self.train_dataset))
        if self.train_dataset is not None and any(term.loss.needs_ids for term in distiller.objective.terms):
            distiller.prepare(ids_of(self.train_dataset, self.data_collator, self.args.dataloader_num_workers))
        # The loss divides by counts over the whole step, so the Trainer must not divide it again.
        self.model_accepts_loss_kwargs = True
        self._validate = validate
        self._term_log = TermLog(distiller)
        self._balances = isinstance(distiller.objective.balance, GradientNorms)
        self.probe_every = probe_every or (PROBE_EVERY if self._balances else 0)
        self._probed = -1

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        """As of transformers' Trainer, whose groups by length it replaces: those come longest first, look at every
        sample to know its length, and are others where a training goes on."""
        data = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or not isinstance(data, HasLengths):
            return cast("Sampler[int] | None", super()._get_train_sampler(train_dataset))
        each = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = ByLength(data.lengths, each, seed=seed)
        self.add_callback(SetEpoch(sampler))
        return sampler

    # -- the step ----------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Distiller's loss; `num_items_in_batch` holds the terms' denominators."""
        if model.training and self._probe_is_due():
            self._probe(inputs)
        output = model(inputs, num_items_in_batch)
        if model.training:
            self._term_log.add(output.terms)
        return (output.loss, output) if return_outputs else output.loss

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The batches of a step and their counts; what the Distiller makes itself comes in place of the data's."""
        if isinstance(self.model, MakesBatches):
            epoch_iterator = map(self.model.training_batch, epoch_iterator)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | None:
        """The terms' counts over all batches and processes of this step, divided by the number of processes because
        gradients are averaged over them. None where the step is one batch, which can count for itself."""
        world = self.args.world_size
        if not batch_samples or (world == 1 and len(batch_samples) == 1):
            return None
        counts: Tensor = torch.stack([self.model.counts(batch) for batch in batch_samples]).sum(0).to(device)
        if world > 1:
            counts = cast("Tensor", self.accelerator.reduce(counts, reduction="sum"))
        shared: Tensor = counts.clamp(min=1) / world
        return shared

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | None = None) -> Any:
        """Without clipping the norm is only a log entry, not worth a pass over all gradients at every step."""
        untyped: Any = super()
        return grad_norm if self.args.max_grad_norm <= 0 else untyped._get_grad_norm(model, grad_norm)

    # -- probes ------------------------------------------------------------------------------------------------

    def _probe_is_due(self) -> bool:
        """Whether this batch is the first of a step that is probed. Before the first step only a balance asks."""
        step = self.state.global_step
        if not self.probe_every or step % self.probe_every or step == self._probed:
            return False
        return step > 0 or self._balances

    def _probe(self, batch: dict[str, Tensor]) -> None:
        """Logs the terms' gradients in a batch, and tells them to the balance."""
        self._probed = self.state.global_step
        # Sharded parameters are not there to take gradients of.
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        average = self._average if self.args.world_size > 1 else None
        found = None if sharded else probe(self.model, batch, average)
        if found is None:
            if self._balances:
                raise LimbeckError(
                    "balance='gradient' cannot measure gradients of sharded parameters; take 'uncertainty' or 'fixed'"
                )
            self.probe_every = 0
            return
        if self.model.objective.balance is not None:
            self.model.objective.balance.observe(found.norms)
        self.log(found.entries())

    def _average(self, tensor: Tensor) -> Tensor:
        return cast("Tensor", self.accelerator.reduce(tensor, reduction="mean"))

    # -- logs and guards ---------------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains as transformers.Trainer does; raises LimbeckError if the teacher was changed by it."""
        modules = list(self.model.teacher.modules()) if self.model.teacher is not None else []
        before = fingerprint(modules)
        with lookups_made_once():
            result = super().train(*args, **kwargs)
        if fingerprint(modules) != before:
            raise LimbeckError(
                "the teacher changed during training; something outside limbeck trains it or runs it in train mode "
                "(an optimizer over its parameters, shared layers with the student, a stray teacher.train())"
            )
        return result

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each term's mean since the last log, and its factor where terms are balanced."""
        if "loss" in logs:
            logs.update(self._term_log.drain(self))
            logs.update(self._factors())
        super().log(logs, start_time)

    def _factors(self) -> dict[str, float]:
        objective = self.model.objective
        if objective.balance is None:
            return {}
        factors = objective.balance.factors().tolist()
        return {f"balance/{term.name}": factor for term, factor in zip(objective.terms, factors, strict=True)}

    # -- evaluation: the student only ----------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """As of transformers' Trainer; or what `validate` measures of the student, in every process by itself. Whatever
        that draws at random, the training after it is the same."""
        if self._validate is None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        start, student = time.perf_counter(), self.accelerator.unwrap_model(self.model).student
        with torch.random.fork_rng():
            measured = self._validate(student)
        measured |= {"runtime": time.perf_counter() - start}
        found = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Every sample is evaluated, also where training drops the last, smaller batch."""
        dropped, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = dropped

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """The student's logits and the labels; the teacher does not run. Of a student with several heads a dict of
        those that learn from labels, and one of these labels."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            signal = self.model.student_signal(inputs)
        if prediction_loss_only:
            return next(iter(signal.values())).new_zeros((), dtype=torch.float32), None, None
        if "logits" in signal:
            return None, signal["logits"].float(), inputs.get("labels")
        heads = [term for term in self.model.objective.terms if on_labels(term)]
        names = dict.fromkeys(name for term in heads for name in term.student_names) or dict.fromkeys(signal)
        labels = {term.labels: inputs[term.labels] for term in heads}
        return None, {name: signal[name].float() for name in names}, labels or None

    # -- saving and resuming -------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the student, as `limbeck.load(folder, into=student)` reads it."""
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)
        elif self.args.should_save:
            student = self.accelerator.unwrap_model(self.model).student
            save(student, Path(output_dir or str(self.args.output_dir)), spec=None, classes=(), preprocessing=None)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The Distiller's state for a checkpoint; tensors that share memory are stored once."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        if state_dict is None:
            safetensors.torch.save_model(self.model, str(folder / "model.safetensors"))
        else:
            safetensors.torch.save_file(state_dict, folder / "model.safetensors")

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging is not None else str(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes the checkpoint beside its place and renames it, then drops the ones beyond save_total_limit."""
        folder = Path(str(self.args.output_dir))
        name = f"checkpoint-{self.state.global_step}"
        self._staging = folder / STAGING
        if self.args.should_save:
            shutil.rmtree(self._staging, ignore_errors=True)
            (self._staging / name).mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
            state = self.model.teacher.state_dict() if self.model.teacher is not None else {}
            if state and self.args.should_save:
                tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
                safetensors.torch.save_file(tensors, self._staging / name / TEACHER_STATE)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                shutil.rmtree(folder / name, ignore_errors=True)
                (self._staging / name).rename(folder / name)
                for old in checkpoints(folder)[: -(self.args.save_total_limit or len(checkpoints(folder)))]:
                    shutil.rmtree(old, ignore_errors=True)
        finally:
            if self.args.should_save:
                shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = None
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = Path(resume_from_checkpoint) / TEACHER_STATE
        if state.exists() and self.model.teacher is not None:
            self.model.teacher.load_state_dict(safetensors.torch.load_file(state))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Of tensors that share memory, as tied embeddings do, a checkpoint has one: the others are not missing."""
        state = self.model.state_dict(keep_vars=True)
        loaded = {state[name].data_ptr() for name in state.keys() - set(load_result.missing_keys)}
        missing = [name for name in load_result.missing_keys if state[name].data_ptr() not in loaded]
        if missing:
            raise LimbeckError(
                f"the checkpoint has no {missing[0]!r} ({len(missing)} missing); resume with the models and terms that "
                "wrote it, or start in another folder"
            )
        super()._issue_warnings_after_load(load_result._replace(missing_keys=[]))


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest step first; what a kill left half-written is not among them."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to resume from, or None."""
    return next(reversed(checkpoints(folder)), None)
