"""Training one student (or teacher) to the end of its budget: from a TrainConfig to a trained module."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import safetensors.torch
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import IterableDataset
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError
from limbeck.files import staged_file
from limbeck.measures import Measure, measure_of
from limbeck.metrics import PeakMemory
from limbeck.processes import on_cpu, processes
from limbeck.shortcuts import SHORTCUTS, Shortcut
from limbeck.sources import HasLengths, as_training_data
from limbeck.trainer import DistillTrainer, last_checkpoint

SELECTED = "selected.safetensors"
PROBES, PROBE_SHARE = 20, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """A training budget and how to spend it.

    `epochs` are passes over the training split and `batch_size` is over all processes and accumulation steps;
    `steps`, where given, replaces `epochs`. `weight_decay` spares biases and norms under `adamw` and, as the papers'
    CIFAR protocol has it, nothing under `sgd`. `schedule` runs after `warmup` (a fraction of the steps):
    `cosine` to 0, `constant`, or `multistep` (×`gamma` at each of `milestones`, fractions of the steps).
    `group_by_length` lets texts of about one length share a batch, which pads less; images are not concerned.
    `threads` are torch's CPU threads (None: as they are); 1 suits models whose step takes a millisecond, which several
    threads slow down on a busy machine. `clip` is the largest gradient norm, 0 for none. `checkpoint_seconds` is the
    most work that a kill can cost. `shortcuts` make a step faster with the same values and gradients (all by default;
    see `limbeck.shortcuts`).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    epochs: float = 20.0
    steps: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 1e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 1e-2
    momentum: float = 0.9
    schedule: Literal["cosine", "constant", "multistep"] = "cosine"
    milestones: tuple[float, ...] = (0.625, 0.75, 0.875)
    gamma: float = 0.1
    warmup: float = 0.0
    clip: float = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    group_by_length: bool = True
    workers: int = 0
    threads: int | None = None
    evaluations: int = 10
    checkpoint_seconds: float = 60.0
    shortcuts: tuple[Shortcut, ...] = tuple(sorted(SHORTCUTS))

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "learning_rate", "evaluations"):
            if not getattr(self, name) > 0:
                raise LimbeckError(f"train.{name} must be above 0, got {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise LimbeckError(
                f"train.batch_size {self.batch_size} cannot be cut into accumulate={self.accumulate} equal parts"
            )


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training leaves: the module with its last weights, the weights that did best on validation (None if
    nothing was evaluated), the log entries, seconds of training and evaluation, and the peak of memory in bytes above
    the start."""

    module: nn.Module
    selected: dict[str, torch.Tensor] | None
    history: list[dict[str, float]]
    seconds: float
    peak_memory: float


def train(
    distiller: Distiller,
    train_data: Any,
    validation_data: Any | None = None,
    config: TrainConfig | None = None,
    *,
    seed: int = 0,
    folder: Path | None = None,
    label: str = "training",
    metrics: Callable[[Any], dict[str, float]] | None = None,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    selection: str = "accuracy",
    collate: Callable[[Any], Any] | None = None,
    logs: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trained:
    """Trains a Distiller's student for the whole budget, with a progress bar.

    Args:
        train_data, validation_data: data sets, or pairs of arrays (inputs, labels), as `limbeck.distill` takes them.
        folder: where checkpoints go while it runs. If it holds one, training goes on from it. None: nowhere.
        label: what the progress bar says.
        metrics: from transformers' EvalPrediction to named numbers, for `validation_data`.
        validate: from the student to named numbers; instead of `validation_data` and `metrics` where a batch of logits
            does not say how good a model is, as of one that generates.
        selection: the number that chooses the best weights.
        logs: a folder for TensorBoard, or None.
        callbacks: transformers' callbacks, which may stop the training early.
    """
    config = config or TrainConfig()
    train_data, own_collate = as_training_data(train_data, None)
    collate = collate or own_collate
    if isinstance(train_data, IterableDataset):
        raise LimbeckError(
            f"{label}: training data without a length cannot be spread over epochs; give a map-style set"
        )
    if validation_data is not None:
        validation_data, _ = as_training_data(validation_data, None)
    validates = validation_data is not None or validate is not None
    with _folder(folder) as place:
        arguments, total_steps = _arguments(
            config,
            len(train_data),
            place,
            seed,
            group_by_length=config.group_by_length and isinstance(train_data, HasLengths),
        )
        optimizer = _optimizer(config, distiller)
        scheduler = LambdaLR(optimizer, lambda step: _schedule(config, step, total_steps))
        clock = _Clock()
        own: list[TrainerCallback] = [
            clock,
            _Rhythm(config, total_steps, evaluates=validates),
            _Bar(label, total_steps),
        ]
        if validates:
            own.append(_KeepBest(place, measure_of(selection)))
        if logs is not None:
            from torch.utils.tensorboard import SummaryWriter

            writer: Any = SummaryWriter
            own.append(TensorBoardCallback(writer(log_dir=str(logs))))
        trainer = DistillTrainer(
            distiller,
            arguments,
            data_collator=collate,
            train_dataset=train_data,
            eval_dataset=validation_data,
            compute_metrics=metrics,
            validate=validate,
            callbacks=[*own, *callbacks],
            probe_every=_probe_every(total_steps, len(distiller.objective.terms)),
            optimizers=(optimizer, scheduler),
        )
        for callback in list(trainer.callback_handler.callbacks):
            if type(callback).__name__ == "PrinterCallback":
                trainer.remove_callback(callback)
        checkpoint = last_checkpoint(place)
        with PeakMemory(arguments.device) as memory, _threads(config.threads):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        best = place / SELECTED
        selected = safetensors.torch.load_file(best) if best.exists() else None
        history = [dict(entry) for entry in trainer.state.log_history]
    # Whatever layout the training liked, what comes out of it is as its author wrote it.
    distiller.student.eval().to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return Trained(distiller.student, selected, history, clock.seconds, float(memory.bytes))


@contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="limbeck-") as name:
            yield Path(name)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def steps_of(config: TrainConfig, samples: int) -> int:
    """How many steps a training takes on that many samples."""
    return config.steps or max(1, round(config.epochs * (samples // min(config.batch_size, samples))))


def _arguments(
    config: TrainConfig, samples: int, folder: Path, seed: int, *, group_by_length: bool
) -> tuple[TrainingArguments, int]:
    world = processes().num_processes
    if config.batch_size % (world * config.accumulate):
        raise LimbeckError(
            f"train.batch_size {config.batch_size} cannot be spread over {world} processes "
            f"× accumulate={config.accumulate}"
        )
    batch_size = min(config.batch_size, samples)
    steps = steps_of(config, samples)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=max(1, batch_size // (world * config.accumulate)),
        per_device_eval_batch_size=max(config.batch_size, 256),
        gradient_accumulation_steps=config.accumulate,
        # Every step has the same number of samples, so a step means the same for every process and batch size.
        dataloader_drop_last=True,
        dataloader_num_workers=config.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=on_cpu(),
        max_grad_norm=config.clip,
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        seed=seed,
        data_seed=seed,
        train_sampling_strategy="group_by_length" if group_by_length else "random",
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )
    return arguments, steps


def _probe_every(total: int, terms: int) -> int:
    """Steps from probe to probe: twenty probes a training, or as many as take a twentieth of its time. A probe runs
    student and teacher once and goes back once for each term, which with all that is around it is less than a step a
    term, and one more."""
    return max(math.ceil(total / PROBES), math.ceil((terms + 1) / PROBE_SHARE))


def _optimizer(config: TrainConfig, distiller: Distiller) -> Optimizer:
    parameters = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    if not parameters:
        raise LimbeckError("the student has no parameters that can be trained")
    fused = "fused-optimizer" in config.shortcuts and all(each.is_floating_point() for each in parameters)
    if config.optimizer == "sgd":
        return SGD(parameters, config.learning_rate, config.momentum, weight_decay=config.weight_decay, fused=fused)
    groups = [
        {"params": [each for each in parameters if each.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [each for each in parameters if each.dim() <= 1], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], config.learning_rate, fused=fused)


def _schedule(config: TrainConfig, step: int, total: int) -> float:
    """The learning rate's factor at a step."""
    warmup = round(config.warmup * total)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "multistep":
        return float(config.gamma ** sum(step >= milestone * total for milestone in config.milestones))
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


class _Rhythm(TrainerCallback):
    """Says when to log and evaluate (a fixed number of times a run), and when to save (by the clock)."""

    def __init__(self, config: TrainConfig, total_steps: int, *, evaluates: bool) -> None:
        self._every = max(1, math.ceil(total_steps / config.evaluations))
        self._total = total_steps
        self._evaluates = evaluates
        self._save_after = config.checkpoint_seconds
        self._saved_at = time.monotonic()

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        last = state.global_step >= self._total
        if last or state.global_step % self._every == 0:
            control.should_log = True
            control.should_evaluate = self._evaluates
        elif state.global_step == 1:
            control.should_log = True
        if not last and time.monotonic() - self._saved_at >= self._save_after:
            control.should_save = True
            self._saved_at = time.monotonic()


class _Clock(TrainerCallback):
    """Counts the seconds of a training over all its sessions, in the log entries that checkpoints keep."""

    def __init__(self) -> None:
        self._before = 0.0
        self._start: float | None = None

    @property
    def seconds(self) -> float:
        return self._before + (time.perf_counter() - self._start if self._start is not None else 0.0)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._before = max((float(entry.get("seconds", 0.0)) for entry in state.log_history), default=0.0)
        self._start = time.perf_counter()

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        state.log_history[-1]["seconds"] = self.seconds

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._before, self._start = self.seconds, None


class _KeepBest(TrainerCallback):
    """Keeps the student's weights where validation was best; earlier values are read from the log, which resumes."""

    def __init__(self, folder: Path, measure: Measure) -> None:
        self._path, self._measure = folder / SELECTED, measure

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        key = f"eval_{self._measure.key}"
        values = [self._measure.rank(entry[key]) for entry in state.log_history if key in entry]
        if not values or values[-1] <= max(values[:-1], default=-math.inf) or not state.is_world_process_zero:
            return
        student: nn.Module = kwargs["model"].student
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}
        with staged_file(self._path) as staging:
            safetensors.torch.save_file({name: tensor.clone() for name, tensor in weights.items()}, staging)


class _Bar(TrainerCallback):
    """A progress bar of steps with the last loss; silent where the output is no terminal."""

    def __init__(self, label: str, total_steps: int) -> None:
        self._label, self._total = label, total_steps
        self._bar: tqdm[Any] | None = None
        self._shown = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        silent = None if state.is_world_process_zero else True
        self._bar = tqdm(total=self._total, desc=self._label, initial=state.global_step, leave=False, disable=silent)
        self._shown = state.global_step

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self._bar is not None and not self._bar.disable:
            self._bar.update(state.global_step - self._shown)
            self._shown = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if self._bar is not None and logs and "loss" in logs:
            self._bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.close()
