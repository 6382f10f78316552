"""A recipe's label stores: written by `limbeck label`, looked into by `limbeck label --inspect`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.checks import LimbeckError
from limbeck.content import content_ids
from limbeck.labelling import label
from limbeck.losses import kd
from limbeck.processes import processes
from limbeck.recipe import Recipe, build_augmentation, build_codecs
from limbeck.session import RECORD, Session, claim, open_data, open_live
from limbeck.store import LabelStore
from limbeck.teachers import Stored, Teacher, same_inputs
from limbeck.types import Sampled, Target, TopK

LABELS = "labels"
SAMPLE = 256
"""Records on which a store is compared with its live teacher."""


def label_recipe(
    recipe: Recipe, folder: Path, *, trust_code: bool = False, say: Callable[[str], None] = print
) -> list[LabelStore]:
    """Writes the label store of each of the recipe's teachers: its training split in all views, and its test split.

    A teacher with `train` is trained first, in `folder` as a run would. The store goes to the teacher's `store`, or to
    `folder/labels`.

    Raises:
        LimbeckError: as `limbeck.run.run` and `limbeck.label`; a teacher that is only a store.
    """
    say = say if processes().is_main_process else _silent
    if processes().is_main_process:
        claim(folder, recipe)
    data = open_data(recipe, say)
    session = Session(recipe, data, folder, trust_code, say)
    view, mixing = build_augmentation(recipe.data.augment, data.train.preprocessing.size[0], "data.augment")
    count = recipe.label.views if view is not None or mixing is not None else None
    train = data.train.with_view(view, 0, count=count).with_mixing(mixing)
    stores = []
    for index, wanted in enumerate(recipe.teacher):
        name = "teacher" if len(recipe.teacher) == 1 else f"teacher-{index}"
        if not wanted.model:
            raise LimbeckError(f"{name}: is only a label store ({wanted.store}); name its model to label with")
        path = store_path(recipe, folder, index)
        teacher = open_live(session, wanted, name).teacher
        say(f"{name}: labels go to {path}")
        stores.append(
            label(
                teacher,
                [train, data.test],
                path,
                signals=build_codecs(recipe.label.signals),
                batch_size=recipe.label.batch_size,
                name=wanted.model,
                workers=recipe.train.workers,
                say=say,
            )
        )
    return stores


def store_path(recipe: Recipe, folder: Path, index: int = 0) -> Path:
    """Where the label store of a recipe's teacher is."""
    given = recipe.teacher[index].store
    if given is not None:
        return Path(given)
    return folder / (LABELS if len(recipe.teacher) == 1 else f"{LABELS}-{index}")


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of an inspection, and whether it is good."""

    topic: str
    text: str
    ok: bool = True


def inspect_store(store: LabelStore) -> list[Finding]:
    """What is in a store, what it costs, and whether every file is as it was written."""
    manifest = store.manifest
    plan = manifest.plan
    findings = [
        Finding("teacher", f"{plan.teacher}, weights {plan.weights[:16]}…"),
        Finding("records", f"{manifest.records:,}, in {len(manifest.files)} shards, {manifest.bytes / 1e6:,.1f} MB"),
    ]
    if plan.preprocessing is not None:
        findings.append(Finding("pixels", ", ".join(f"{key} {value}" for key, value in plan.preprocessing.items())))
    views = plan.views
    seen = "none: samples as they are"
    if views is not None:
        seen = f"{views.count} a sample, seed {views.seed}: {views.augmentation}"
        seen += f", mixed by {views.mixing}" if views.mixing != "None" else ""
    findings.append(Finding("views", seen))
    per_record = manifest.bytes / max(manifest.records, 1)
    cost = f"{per_record:,.1f} bytes a record"
    if manifest.items > manifest.records:
        cost += f", {manifest.bytes / manifest.items:.1f} bytes a token ({manifest.items:,} tokens)"
    findings.append(Finding("size", cost))
    for name, signal in store.signals.items():
        options = ", ".join(f"{key} {value}" for key, value in signal.codec.options().items())
        findings.append(Finding(name, f"a {signal.per}: shape {signal.shape}, {options}"))
    wrong = store.verify()
    findings += [Finding("checksums", line, ok=False) for line in wrong]
    if not wrong:
        findings.append(Finding("checksums", f"all {len(manifest.files)} shards are as they were written"))
    return findings


def compare_with_teacher(recipe: Recipe, folder: Path, store: LabelStore, *, trust_code: bool = False) -> list[Finding]:
    """How a store agrees with the recipe's live teacher on a sample of its records."""
    data = open_data(recipe, _silent)
    session = Session(recipe, data, folder, trust_code, _silent)
    wanted = recipe.teacher[0]
    trained = wanted.train is None or (folder / "teacher" / RECORD).exists()
    if not wanted.model or not trained:
        return [Finding("agreement", f"not looked at: the recipe's teacher is not ready in {folder}")]
    teacher = open_live(session, wanted, "teacher").teacher
    if teacher.identity() != store.manifest.plan.weights:
        text = f"the recipe's teacher has other weights ({teacher.identity()[:16]}…) than the store's"
        return [Finding("agreement", text, ok=False)]
    view, mixing = build_augmentation(recipe.data.augment, data.train.preprocessing.size[0], "data.augment")
    views = store.manifest.plan.views
    train = (
        data.train if views is None else data.train.with_view(view, views.seed, count=views.count).with_mixing(mixing)
    )
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    batch = train.__getitems__(chosen.tolist())
    rows = store.rows(batch["ids"], batch["views"])
    same_inputs(store, rows, content_ids(batch["inputs"]))
    return [
        Finding("agreement", f"{name}: {text}")
        for name in store.signals
        for text in _agreement(Stored(store), teacher, name, batch)
    ]


def _agreement(stored: Stored, live: Teacher, name: str, batch: Any) -> list[str]:
    """In words, how a stored signal agrees with a live one."""
    stored.require([name])
    live.require([name])
    kept, given = stored(batch).target(name), live(batch)[name].float().cpu()
    if isinstance(kept, Tensor) and name != "logits":
        scale = float(given.abs().max())
        return [f"largest difference {float((kept - given).abs().max()):.2e} of {scale:.2e} on {len(given)} records"]
    best = _most_likely(kept)
    same = float((best == given.argmax(-1)).double().mean())
    lines = [f"the most likely class is the same for {100 * same:.1f} % of {len(given)} records"]
    if isinstance(kept, Tensor):
        lines.append(f"KL of live from stored {float(kd(kept, given, temperature=1.0).mean()):.1e} nats")
    return lines


def _most_likely(target: Target) -> Tensor:
    if isinstance(target, Tensor):
        return target.argmax(-1)
    assert isinstance(target, TopK | Sampled)
    if isinstance(target, TopK):
        return target.ids.gather(1, target.log_probs.argmax(1, keepdim=True)).squeeze(1)
    return target.ids.mode(1).values


def _silent(_line: str) -> None:
    """Says nothing."""
