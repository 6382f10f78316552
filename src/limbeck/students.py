"""Students of a recipe: who teaches whom, one training each, and what is kept of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.compare import ALONE, DISTILLED, Candidate, alone_terms, setting_name
from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError
from limbeck.files import read_json
from limbeck.generation import generate
from limbeck.models import load, unwrapped
from limbeck.models.encoded import encoded_tokens
from limbeck.models.huggingface import is_transformers
from limbeck.models.lora import add_adapters
from limbeck.models.shrinking import shrink
from limbeck.models.texts import TEXT_MODELS, TextLSTM, TextNgrams, TextStatic
from limbeck.online import OnPolicy
from limbeck.processes import processes
from limbeck.recipe import (
    SHIPPING,
    WEIGHT_KEYS,
    AssistantRecipe,
    ModelRecipe,
    PseudoBoxesRecipe,
    Recipe,
    SequenceRecipe,
    StudentRecipe,
    build_terms,
)
from limbeck.recipe_stores import note_origins
from limbeck.sequences import SEQUENCES, sequence_targets
from limbeck.session import RECORD, Session, teacher_said, training_split
from limbeck.sources.boxes import DetectionSet
from limbeck.sources.texts import Tokenizing
from limbeck.sources.texts.pairs import PairSet
from limbeck.starting import copy_layers
from limbeck.tasks.object_detection import pseudo_boxes
from limbeck.tasks.texts import teachers_tokenizing, token_counts
from limbeck.teachers import Live, Stored, Teacher
from limbeck.teachers.fingerprint import weights_hash
from limbeck.training import steps_of

APART = 1000
"""Added to the seed a generation: each draws its own weights and order, as born-again networks do."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the results: its name, the recipe that its students follow, a training for each of the recipe's seeds,
    and who teaches a seed's student (None: nobody).

    `source` gives the teacher whose weights a student may take. `family` is its architecture's name among those of one
    run. `start` gives the model that a seed's training begins with, where that is not the recipe's student but what
    `wanted` builds, None for the student; one that is not `shown` is only a step to another. `after` names the entry
    whose training it goes on from, of which the cost is its own, too.
    """

    name: str
    recipe: Recipe
    teacher: Callable[[int], Teacher] | None
    source: Callable[[], Teacher]
    generation: int = 1
    family: str = "student"
    about: str = ""
    start: Callable[[int], nn.Module] | None = None
    wanted: ModelRecipe | None = None
    shown: bool = True
    after: str | None = None


def lineup(session: Session, teacher: Teacher, recipe: Recipe, setting: str = "") -> list[Entry]:
    """The entries of one setting, each after those that teach it: assistants, alone, distilled, later generations."""
    mentors = assistants(session, teacher, recipe, setting)
    mentor = partial(_kept_teacher, session, mentors[-1].name) if mentors else partial(same_teacher, teacher)
    source = partial(mentor, 0)
    # A setting may change the student, whose size and speed are then others.
    family = "student" if recipe.student == session.recipe.student else setting_name("student", setting)
    entries = [*mentors]
    if not setting or _alone(recipe) != _alone(session.recipe):  # else the first setting's is the same training
        entries.append(Entry(setting_name(ALONE, setting), recipe, None, source, family=family))
    entries.append(Entry(setting_name(DISTILLED, setting), recipe, mentor, source, family=family))
    for generation in range(2, recipe.generations + 1):
        before = entries[-1].name
        name = setting_name(f"{DISTILLED}-gen{generation}", setting)
        about = f"the students of {before} teach the same architecture"
        mentor = partial(_kept_teacher, session, before)
        entries.append(Entry(name, recipe, mentor, source, generation, family, about))
    return entries


def _alone(recipe: Recipe) -> dict[str, Any]:
    """What a student that learns of labels alone depends on."""
    of_teachers = (
        "about", "assistants", "balance", "generations", "label", "on_policy", "sequence_level", "pseudo_boxes",
        "settings", *SHIPPING,
    )  # fmt: skip
    kept = {key: value for key, value in recipe.resolved().items() if key not in (*of_teachers, "terms")}
    built = zip(recipe.terms, build_terms(recipe.terms), strict=True)
    terms = [given for given, term in built if not (term.uses_teacher or term.own)]
    if len(terms) == 1:  # which gets the weight 1, see alone_terms
        terms = [{key: value for key, value in terms[0].items() if key not in WEIGHT_KEYS}]
    return kept | {"terms": terms}


def assistants(session: Session, teacher: Teacher, recipe: Recipe, setting: str = "") -> list[Entry]:
    """The teacher assistants of a recipe, each taught by the one before, trained once for all seeds."""
    entries: list[Entry] = []
    for number, wanted in enumerate(recipe.assistants, 1):
        name = setting_name(f"assistant-{number}", setting)
        mentor = partial(_kept_teacher, session, entries[-1].name) if entries else partial(same_teacher, teacher)
        about = f"{wanted.model} learned from {entries[-1].name if entries else 'the teacher'}, to teach"
        entries.append(Entry(name, _as_student(recipe, wanted), mentor, partial(mentor, 0), family=name, about=about))
    return entries


def rehearse(session: Session, recipe: Recipe, teacher: Teacher) -> Teacher:
    """Builds what a recipe's trainings will build, so that a mistake shows before the first of them; gives who will
    teach the student, untrained where that is an assistant.

    Raises:
        LimbeckError: what would stop one of the trainings at its start.
    """
    split = training_split(recipe, session.data, 0)
    for wanted in recipe.assistants:
        assistant = session.build(wanted)
        distiller_of(assistant, teacher, recipe, split)
        teacher = Live(assistant, shortcuts=recipe.train.shortcuts)
    source = partial(same_teacher, teacher, 0)
    student = build_student(session, recipe.student, source)
    distiller_of(student, teacher, recipe, split)
    if recipe.generations > 1:
        before = Live(student, shortcuts=recipe.train.shortcuts)
        distiller_of(build_student(session, recipe.student, source), before, recipe, split)
    return teacher


def train_all(session: Session, entries: Sequence[Entry]) -> None:
    """Trains what is not there yet, seed by seed."""
    if processes().is_main_process:
        note_origins(session.folder, session.recipe)
    for seed in range(max(entry.recipe.seeds for entry in entries)):
        for entry in entries:
            if seed < entry.recipe.seeds:
                _train(session, entry, seed)


def _train(session: Session, entry: Entry, seed: int) -> None:
    recipe, unit = entry.recipe, f"{entry.name}-{seed}"
    place = place_of(session.folder, entry.name, seed)
    if (place / RECORD).exists():
        return
    drawn = seed + APART * (entry.generation - 1)
    distiller, split = prepared(session, entry, seed, drawn)
    config = recipe.train
    if entry.teacher is None:
        config = replace(config, steps=steps_of(config, len(session.data.train)))
    trained = session.train(unit, distiller, split, config, drawn, f"{entry.name} {seed + 1}/{recipe.seeds}")
    session.keep(unit, place, entry.wanted or recipe.student, trained, f"{entry.name}, seed {seed}")


def prepared(session: Session, entry: Entry, seed: int, drawn: int) -> tuple[Distiller, Any]:
    """What one training starts from: `drawn` decides the first weights and the views, `seed` who teaches."""
    recipe = entry.recipe
    torch.manual_seed(drawn)
    student = entry.start(seed) if entry.start is not None else build_student(session, recipe.student, entry.source)
    split = training_split(recipe, session.data, drawn)
    teacher = entry.teacher(seed) if entry.teacher is not None else None
    if teacher is None:
        split = recipe.kind.alone(split)
    if teacher is not None and recipe.sequence_level is not None:
        split = as_written(session, recipe.sequence_level, teacher, split)
        if isinstance(teacher, Stored) and teacher.fallback is not None:
            teacher = teacher.fallback  # what is stored was said of the references
    if teacher is not None and recipe.pseudo_boxes is not None:
        split = as_found(session, recipe.pseudo_boxes, teacher, split)
    return distiller_of(student, teacher, recipe, split), split


def as_written(session: Session, wanted: SequenceRecipe, teacher: Teacher, split: PairSet) -> PairSet:
    """A training split with the teacher's translations in the place of the references; written by the first training
    that asks for them, and kept for all others."""
    module = _only_module(teacher).to("cuda" if torch.cuda.is_available() else "cpu")
    settings = f"{weights_hash([module])} {wanted.beams} {wanted.max_new_tokens} {wanted.length_penalty}"
    place = session.folder / f"{SEQUENCES}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
    generate(
        module, session.data.train, beams=wanted.beams, max_new_tokens=wanted.max_new_tokens, say=session.say,
        length_penalty=wanted.length_penalty, return_all_beams=True, cache=place, label="the teacher translates",
    )  # fmt: skip
    return split.with_targets(sequence_targets(place, mode=wanted.mode, references=split))


def as_found(session: Session, wanted: PseudoBoxesRecipe, teacher: Teacher, split: DetectionSet) -> DetectionSet:
    """A training split with what the teacher finds in its pictures; it looks in the first training that asks for it,
    and what it found is kept for all others."""
    settings = f"{teacher.identity()} {wanted.threshold}"
    place = session.folder / f"pseudo-boxes-{hashlib.sha256(settings.encode()).hexdigest()[:12]}.safetensors"
    found = pseudo_boxes(teacher, session.data.train, wanted.threshold, place, session.say)
    return split.with_found(found, wanted.pictures)


def distiller_of(student: nn.Module, teacher: Teacher | None, recipe: Recipe, split: Any) -> Distiller:
    """A student with the recipe's terms and its teacher; without one, with its terms on labels."""
    task, terms = recipe.kind, build_terms(recipe.terms)
    if teacher is None:
        terms = alone_terms(terms, build_terms(list(task.terms(recipe.data))))
    terms = task.fitted(terms, split, teacher)
    options: dict[str, Any] = {
        "example": split.__getitems__(list(range(min(2, len(split))))),
        "shortcuts": recipe.train.shortcuts,
    }
    if teacher is None:
        return Distiller(student, None, terms, **options)
    options["balance"] = recipe.balance
    if recipe.on_policy is not None:
        return OnPolicy(student, teacher, terms, **recipe.on_policy.model_dump(), **options)
    return Distiller(student, teacher, terms, **options)


def candidates(folder: Path, entries: Sequence[Entry], trust_code: bool) -> Iterator[Candidate]:
    """What trainings have left, to be measured: a candidate for each seed and checkpoint."""
    for entry in entries:
        if not entry.shown:
            continue
        for seed in range(entry.recipe.seeds):
            place = place_of(folder, entry.name, seed)
            record = read_json(place / RECORD)
            cost = {**record["cost"], "train_seconds": _seconds(folder, entries, entry, seed)}
            for checkpoint in ("last", "selected"):
                if (place / checkpoint).is_dir():
                    yield Candidate(
                        entry.name, seed, checkpoint, partial(load, place / checkpoint, trust_code=trust_code),
                        entry.family, cost, record["history"],
                    )  # fmt: skip


def _seconds(folder: Path, entries: Sequence[Entry], entry: Entry, seed: int) -> float:
    """How long an entry's training took, with those that it goes on from."""
    seconds = float(read_json(place_of(folder, entry.name, seed) / RECORD)["cost"]["train_seconds"])
    before = next((each for each in entries if each.name == entry.after), None)
    return seconds + (_seconds(folder, entries, before, seed) if before is not None else 0.0)


def chain_notes(folder: Path, entries: Sequence[Entry]) -> list[str]:
    """What assistants and generations are, and what they cost in training, in a line each."""
    notes = []
    for entry in entries:
        if entry.about:
            records = [read_json(place_of(folder, entry.name, seed) / RECORD) for seed in range(entry.recipe.seeds)]
            seconds = sum(record["cost"]["train_seconds"] for record in records) / len(records)
            notes.append(f"{entry.name}: {entry.about}; {seconds:,.1f} s of training each")
    return notes


def place_of(folder: Path, name: str, seed: int) -> Path:
    """Where a run keeps what a training left."""
    return folder / "models" / f"{name}-{seed}"


def _as_student(recipe: Recipe, wanted: AssistantRecipe) -> Recipe:
    """The recipe of an assistant's training: the student's, once, with the assistant in the student's place."""
    student = StudentRecipe(model=wanted.model, options=wanted.options)
    return recipe.model_copy(update={"student": student, "train": wanted.train or recipe.train, "seeds": 1})


def same_teacher(teacher: Teacher, _seed: int) -> Teacher:
    """Who teaches where every seed has the same teacher."""
    return teacher


def _kept_teacher(session: Session, name: str, seed: int) -> Teacher:
    """A trained student of this run, to teach; an assistant serves all seeds."""
    place = place_of(session.folder, name, 0 if name.startswith("assistant-") else seed)
    return Live(load(place / "last", trust_code=session.trust_code), shortcuts=session.recipe.train.shortcuts)


def _only_module(teacher: Teacher) -> nn.Module:
    modules = list(teacher.modules())
    if len(modules) != 1:
        raise LimbeckError(
            f"student: takes weights from one teacher that runs, and there are {len(modules)}; "
            "name one teacher with its model, or leave start (and `from`) out"
        )
    return modules[0]


def build_student(session: Session, wanted: StudentRecipe, source: Callable[[], Teacher]) -> nn.Module:
    """A recipe's student before training, with what it takes of the weights of the teacher that `source` gives."""
    if wanted.source is None:
        student = session.build(wanted)
    else:
        student = shrink(_only_module(source()), **wanted.sizes, **_tokens(session, wanted))
    if wanted.start is not None and wanted.start.embeddings is not None:
        _start_from_embeddings(session, _only_module(source()), student, wanted.start.embeddings)
    elif wanted.start is not None:
        copy_layers(_only_module(source()), student, wanted.start.layers, blocks=wanted.start.blocks)
    return student if wanted.lora is None else add_adapters(student, wanted.lora)


def _start_from_embeddings(session: Session, teacher: nn.Module, student: nn.Module, kind: str) -> None:
    """Gives a small text student embeddings of its tokens that are its teacher's."""
    if not isinstance(student, TextNgrams | TextLSTM | TextStatic):
        small = ", ".join(TEXT_MODELS)
        raise LimbeckError(f"student.start.embeddings: is of {small}; for a transformers student name its layers")
    inner: Any = unwrapped(teacher)
    if not is_transformers(inner):
        raise LimbeckError("student.start.embeddings: the teacher is no transformers model, whose table is known")
    if kind == "table":
        student.start_from(inner.get_input_embeddings().weight.detach())
        return
    own = session.task.preparation(session.data)
    theirs = teachers_tokenizing(teacher_said(session.recipe.teacher[0]), own) or own
    rows = theirs.encode(own.token_texts())["input_ids"]
    student.start_from(encoded_tokens(teacher, rows, theirs.pad_id, theirs.tokenizer.all_special_ids))


def _tokens(session: Session, wanted: StudentRecipe) -> dict[str, Any]:
    """What chooses the tokens of a student that knows fewer than its teacher."""
    if wanted.vocabulary is None:
        return {}
    tokenizing = session.task.preparation(session.data)
    if not isinstance(tokenizing, Tokenizing):
        raise LimbeckError(f"student.vocabulary: the task {session.task.name} has no tokens; leave it out")
    return {
        "counts": token_counts(session.data.train, tokenizing.vocabulary),
        "unknown": tokenizing.tokenizer.unk_token_id,
        "always": tokenizing.tokenizer.all_special_ids,
    }
