"""A recipe's label stores: written by `limbeck label`, looked into by `limbeck label --inspect`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.labelling import keys_of, label
from limbeck.losses import kd
from limbeck.models.heads import is_causal_lm
from limbeck.processes import processes
from limbeck.recipe import Recipe, TeacherRecipe, build_codecs, build_terms
from limbeck.recipe_stores import (
    LABELS,
    same_model,
    teacher_text,
    writable,
)
from limbeck.session import (
    RECORD,
    Session,
    claim,
    open_data,
    open_live,
    preview_teacher,
    ready_made,
    same_classes,
    teacher_name,
    training_split,
)
from limbeck.store import LabelStore, TopKLogits
from limbeck.students import build_student, distiller_of
from limbeck.tasks import LANGUAGE_MODELLING, Opening
from limbeck.teachers import Stored, Teacher, same_inputs
from limbeck.teachers.endpoint import is_endpoint, label_by_endpoint, named_endpoint
from limbeck.tokens import TokenPlan
from limbeck.types import LinearHead, Sampled, Target, TopK, dense_logits

LOGITS = "logits"
SAMPLE = 256
"""Records on which a store is compared with its live teacher."""
SAME_CLASS, KL_APART, FEATURES_APART = 0.99, 1e-2, 0.05
"""How well a store agrees with its teacher: the share of records with the same most likely class, at least; nats, and
parts of the largest number of a feature, at most."""


def label_recipe(
    recipe: Recipe, folder: Path, *, trust_code: bool = False, say: Callable[[str], None] = print
) -> list[LabelStore]:
    """Writes the label store of each of the recipe's teachers: its training split in all views, and its test split.

    A teacher with `train` is trained first, in `folder` as a run would. The store goes to the teacher's `store`, or to
    `folder/labels`. Mistakes that would show only when students learn from the labels are found before.

    Raises:
        LimbeckError: as `limbeck.run.run` and `limbeck.label`; a teacher that is only a store; a term of the recipe
            that could not be computed from the labels; a place where nothing can be written.
    """
    say = say if processes().is_main_process else _silent
    recipe = recipe.model_copy(update={"methods": {}})  # as a run has it, which may share the folder
    for index, wanted in enumerate(recipe.teacher):
        if not wanted.model:
            name = teacher_name(recipe, index)
            raise LimbeckError(f"{name}: is only a label store ({wanted.store}); name its model to label with")
    if processes().is_main_process:
        claim(folder, recipe, students=False)
    alive = _alive(recipe)
    data = open_data(alive, say)
    session = Session(alive, data, folder, trust_code, say)
    _served(session, recipe)
    paths = [store_path(recipe, folder, index) for index in range(len(recipe.teacher))]
    if len({path.resolve() for path in paths}) < len(paths):
        raise LimbeckError(f"the teachers of {recipe.name} share a store ({paths[0]}); give each a folder of its own")
    if processes().is_main_process:
        for path in paths:
            writable(path)
    splits = _labelled(session)
    stores: list[LabelStore] = []
    for index, wanted in enumerate(recipe.teacher):
        name, path = teacher_name(recipe, index), paths[index]
        if is_endpoint(wanted.model):
            say(f"{name}: labels go to {path}")
            answered = _asked(session, wanted, splits[0], path)
            stores += [answered] if answered is not None else []
            continue
        teacher = open_live(session, wanted, name).teacher
        say(f"{name}: labels go to {path}")
        stores.append(
            label(
                teacher,
                splits,
                path,
                signals=build_codecs(recipe.label.signals),
                batch_size=recipe.label.batch_size,
                name=teacher_text(wanted),
                workers=recipe.train.workers,
                classes=data.classes,
                say=say,
            )
        )
    return stores


def _asked(session: Session, wanted: TeacherRecipe, split: Any, path: Path) -> LabelStore | None:
    """What an endpoint says of the training split; None where its budget was spent before the end."""
    endpoint, budget = named_endpoint(wanted.model, wanted.options)
    kept = build_codecs(session.recipe.label.signals)[LOGITS]
    assert isinstance(kept, TopKLogits)
    return label_by_endpoint(
        endpoint, split, path, tokenizer=session.data.train.tokenizing.tokenizer, k=kept.k,
        name=teacher_text(wanted), budget=budget, say=session.say,
    )  # fmt: skip


def _asks(recipe: Recipe) -> bool:
    """Whether the recipe's teacher is behind an endpoint.

    Raises:
        LimbeckError: one is, and what the recipe asks for is not what an endpoint can say.
    """
    found = [wanted for wanted in recipe.teacher if is_endpoint(wanted.model)]
    if not found:
        return False
    if len(recipe.teacher) > 1:
        raise LimbeckError(f"teacher: {found[0].model} names only its likeliest tokens, so it teaches alone")
    named_endpoint(found[0].model, found[0].options)
    if recipe.task != LANGUAGE_MODELLING.name or recipe.data.packed:  # type: ignore[attr-defined]
        raise LimbeckError(
            f"teacher: {found[0].model} is asked for the next tokens of texts, each by itself; take the task "
            f"{LANGUAGE_MODELLING.name} and data.packed=false"
        )
    signals = build_codecs(recipe.label.signals)
    kept = signals.get(LOGITS)
    if len(signals) > 1 or not isinstance(kept, TopKLogits) or kept.temperature != 1:
        raise LimbeckError(
            "label.signals: an endpoint names its likeliest tokens, at temperature 1; take "
            "{logits: {codec: top-k, k: 20}}"
        )
    return True


def _labelled(session: Session) -> list[Any]:
    """The splits of which labels are kept."""
    return session.task.labelled(session.recipe.data, session.data, session.recipe.label.views)


def _alive(recipe: Recipe) -> Recipe:
    """The recipe with its teachers alone, as if nothing had been stored of them."""
    return recipe.model_copy(
        update={"teacher": [wanted.model_copy(update={"store": None}) for wanted in recipe.teacher]}
    )


def _served(session: Session, recipe: Recipe) -> None:
    """Raises LimbeckError where a term of the recipe could not be computed from what is going to be stored."""
    codecs = build_codecs(recipe.label.signals)
    if _asks(recipe):
        for term in build_terms(recipe.terms):
            if term.uses_teacher and (why := codecs[LOGITS].refuses(term.loss)):
                raise LimbeckError(f"{term.title}: {why}")
        return
    teacher = preview_teacher(session).teacher
    for setting, variant in recipe.variants().items():
        variant = _alive(variant)
        split = training_split(variant, session.data, 0)
        first = variant.assistants[0] if variant.assistants else None
        student = build_student(session, variant.student, lambda: teacher) if first is None else session.build(first)
        distiller = distiller_of(student, teacher, variant, split)
        for term in distiller.objective.terms:
            for name in term.teacher_names if term.uses_teacher else ():
                codec = codecs.get(name or LOGITS)
                why = codec.refuses(term.loss) if codec is not None else (
                    f"needs the teacher's {name or LOGITS!r}, of which label.signals keeps nothing; add it, with the "
                    "codec 'features' or one for logits"
                )  # fmt: skip
                if why:
                    where = f"settings.{setting}: " if setting else ""
                    raise LimbeckError(f"{where}{term.title}: {why}")
                if len(recipe.teacher) > 1 and codec is not None and codec.kind is not Tensor:
                    raise LimbeckError(
                        f"label.signals.{name or LOGITS}: {len(recipe.teacher)} teachers are averaged, which needs "
                        f"whole tensors of each; take the codec 'dense' instead of {codec.name!r}"
                    )


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
        findings.append(Finding("samples", ", ".join(f"{key} {value}" for key, value in plan.preprocessing.items())))
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
    data = recipe.kind.load(recipe.data, Opening([store], ready_made(recipe)))
    session = Session(recipe, data, folder, trust_code, _silent)
    index = _whose(recipe, folder, store)
    wanted, name = recipe.teacher[index], teacher_name(recipe, index)
    try:
        same_classes(store.manifest.plan.classes, data.classes, f"the label store {store.folder}")
        same_model(store, wanted)
    except LimbeckError as error:
        return [Finding("agreement", str(error), ok=False)]
    trained = wanted.train is None or (folder / name / RECORD).exists()
    if not wanted.model or not trained:
        return [Finding("agreement", f"not looked at: the recipe's {name} is not ready in {folder}")]
    teacher = open_live(session, wanted, name).teacher
    if teacher.identity() != store.manifest.plan.weights:
        text = f"the recipe's teacher has other weights ({teacher.identity()[:16]}…) than the store's"
        return [Finding("agreement", text, ok=False)]
    try:
        # A store of views is looked into as a student sees them; any other holds the samples as they were labelled.
        views = store.manifest.plan.views is not None
        train = session.task.training(recipe.data, data, 0, store) if views else _labelled(session)[0]
    except LimbeckError as error:
        return [Finding("agreement", str(error), ok=False)]
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    batch = train.__getitems__(chosen.tolist())
    ids, numbers, content, _ = keys_of(batch)
    rows = store.rows(ids, numbers)
    held = rows >= 0
    if not bool(held.any()):
        return [Finding("agreement", "the store holds none of the recipe's training samples", ok=False)]
    batch = {key: tensor[held] for key, tensor in batch.items()}
    same_inputs(store, rows[held], content[held])
    return [each for name in store.signals for each in _agreement(Stored(store), teacher, name, batch)]


def _whose(recipe: Recipe, folder: Path, store: LabelStore) -> int:
    """Which of a recipe's teachers a store is of, by where it is, else by what it is called."""
    for index in range(len(recipe.teacher)):
        if store_path(recipe, folder, index).resolve() == store.folder.resolve():
            return index
    names = [teacher_text(wanted) for wanted in recipe.teacher]
    return names.index(store.manifest.plan.teacher) if store.manifest.plan.teacher in names else 0


def _agreement(stored: Stored, live: Teacher, name: str, batch: Any) -> list[Finding]:
    """How a stored signal agrees with a live one, and whether that is as well as its codec keeps it."""
    stored.require([name])
    live.require([name])
    answers, wanted = stored(batch), live(batch)
    if "input_ids" in batch:
        plan = TokenPlan(batch, causal=any(is_causal_lm(module) for module in live.modules()))
        answers, wanted = plan.apply(answers), plan.apply(wanted)
    kept, given = answers.target(name), wanted[name].float().cpu()
    kept = dense_logits(kept) if isinstance(kept, LinearHead) else kept
    if isinstance(kept, Tensor) and name != LOGITS:
        scale, apart = float(given.abs().max()), float((kept - given).abs().max())
        text = f"{name}: largest difference {apart:.2e} of {scale:.2e} on {len(given)} records"
        return [Finding("agreement", text, ok=apart <= FEATURES_APART * scale)]
    same = float((_most_likely(kept) == given.argmax(-1)).double().mean())
    text = f"{name}: the most likely class is the same for {100 * same:.1f} % of {len(given)} records"
    # The most frequent draw need not be the most likely class.
    found = [Finding("agreement", text, ok=same >= SAME_CLASS or isinstance(kept, Sampled))]
    if isinstance(kept, Tensor):
        kl = float(kd(kept, given, temperature=1.0).mean())
        found.append(Finding("agreement", f"{name}: KL of live from stored {kl:.1e} nats", ok=kl <= KL_APART))
    return found


def _most_likely(target: Target) -> Tensor:
    if isinstance(target, Tensor):
        return target.argmax(-1)
    assert isinstance(target, TopK | Sampled)
    if isinstance(target, TopK):
        return target.ids.gather(1, target.log_probs.argmax(1, keepdim=True)).squeeze(1)
    return target.ids.mode(1).values


def _silent(_line: str) -> None:
    """Says nothing."""
