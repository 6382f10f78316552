"""From a saved model to an artifact that was compared with it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.artifact import ARTIFACT, ArtifactCard, GraphCard, Parity, is_artifact, write_artifact_card
from limbeck.artifact.card import TOKENIZER, checksum
from limbeck.artifact.running import Graph
from limbeck.errors import LimbeckError
from limbeck.export import boxes, pictures, texts
from limbeck.export.checking import compare, refuse
from limbeck.export.data import Known, open_data
from limbeck.export.graphs import need_libraries, write_graph
from limbeck.export.others import known_kinds, one_at_a_time, write_other
from limbeck.export.plans import Plan
from limbeck.export.readme import README, model_card
from limbeck.files import staged_folder, write_text
from limbeck.models import SavedCard, load, read_card
from limbeck.models.spec import TextShape

SAMPLES = 256
"""Real inputs on which an artifact is compared with its model."""
WRITTEN = 64
"""Tokens that a language model writes, at most, where nothing else is said."""

Say = Callable[[str], None]


def export(
    folder: Path | str,
    to: Path | str,
    *,
    data: str | None = None,
    known: Known | None = None,
    static_batch: bool = False,
    also: Sequence[str] = (),
    samples: int = SAMPLES,
    trust_code: bool = False,
    say: Say = lambda _line: None,
) -> ArtifactCard:
    """Makes an artifact in `to` of the saved model in `folder`, whole or not at all; one that is there is replaced.

    The artifact is run beside the PyTorch model on `samples` real inputs of the test split, in batches of several
    sizes, and kept only where it gives the same. The batch is of any size, and so are texts; a model that gives the
    same one sample at a time alone is exported so.

    Args:
        data: data by name, where the model does not know its own or others are wanted.
        known: the model's data, where they are open already.
        static_batch: exports it for one sample at a time whatever it can.
        also: other runtimes to write it for, `torch` (torch.export's .pt2) and `openvino` (.xml and .bin, in fp32) and
            `executorch` (.pte for XNNPACK), each compared with PyTorch in the same way.
        say: is told of each step.

    Raises:
        LimbeckError: there is no saved model, nothing says how its inputs are prepared, it cannot be exported, or the
            export differs from the model by more than a relative 1e-4, or in more than 1 of 1,000 predictions.
    """
    folder, to = Path(folder), Path(to)
    need_libraries()
    known_kinds(tuple(also))
    card = read_card(folder)
    if card.preprocessing is None and card.tokenizing is None:
        raise LimbeckError(
            f"{folder}: saved without its preprocessing, so nobody could run the artifact; save it with "
            "limbeck.save(…, preprocessing=…)"
        )
    check_place(to)
    say(f"loading {folder}")
    model = load(folder, trust_code=trust_code)
    known = known or open_data(folder, card, data, say)
    plan = plan_of(model, card, known)
    with staged_folder(to) as staging:
        made = _made(plan, card, known, staging, static_batch, samples, say)
        if also:
            made = _with_others(plan, made, staging, also, samples, say)
        write_artifact_card(staging, made)
        write_text(staging / README, model_card(folder, made, to.name))
    return made


def check_place(to: Path) -> None:
    """Raises LimbeckError where something lies that an artifact must not replace."""
    if to.exists() and (not to.is_dir() or (any(to.iterdir()) and not is_artifact(to))):
        raise LimbeckError(f"{to}: is there, and is no artifact; choose another place with --to")


def plan_of(model: nn.Module, card: SavedCard, known: Known, split: Any = None) -> Plan:
    """What is exported of a model, with real inputs of a split; of the test split where none is given.

    Raises:
        LimbeckError: its data and it do not belong together.
    """
    test, pixels, settings = known.data.test if split is None else split, card.preprocessing, known.settings
    if pixels is not None:
        test = test.with_preprocessing(pixels)
        if card.task == "object-detection":
            return boxes.detected(model, test, card.classes, pixels)
        if card.task == "pose-estimation":
            if tuple(card.classes) != tuple(test.classes):
                raise LimbeckError(f"{test.name}: its joints are not the model's; name data of the same skeleton")
            return pictures.posed(model, test, settings, pixels)
        if card.task == "face-recognition":
            return pictures.recognised(model, test, pixels)
        return pictures.classified(model, test, card.classes, pixels)
    shape = card.shape
    if not isinstance(shape, TextShape):
        raise LimbeckError("the model was saved without the shape of its texts; save it again with shape=TextShape(…)")
    if card.task == "question-answering":
        return texts.answered(model, test, settings)
    if card.task == "translation":
        return texts.translated(model, test, settings)
    if card.task == "language-modelling":
        return texts.modelled(model, test, shape.max_length, min(WRITTEN, shape.max_length // 2))
    return texts.classified(model, test, card.classes, shape)


def _made(
    plan: Plan, card: SavedCard, known: Known, staging: Path, static_batch: bool, samples: int, say: Say
) -> ArtifactCard:
    """The artifact's card, its files being in `staging`."""
    found: tuple[dict[str, Any], Parity] | None = None
    if not static_batch:
        try:
            found = _tried(plan, staging, None, samples, say)
        except LimbeckError as error:
            say(f"not for batches of any size: {error}")
    batch = None if found is not None else 1
    graphs, parity = found if found is not None else _tried(plan, staging, 1, samples, say)
    if plan.tokens is not None:
        tokenizer: Any = known.data.test.tokenizing.tokenizer.backend_tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.save(str(staging / TOKENIZER))
    return ArtifactCard(
        task=card.task,
        classes=plan.classes,
        graphs=graphs,
        pixels=plan.pixels,
        tokens=plan.tokens,
        reading=plan.reading,
        batch=batch,
        parity=parity,
        versions=_versions(),
        sha256={path.name: checksum(path) for path in sorted(staging.iterdir()) if path.name != ARTIFACT},
        about={**card.about, "data": known.learned},
    )


def _with_others(
    plan: Plan, made: ArtifactCard, staging: Path, also: Sequence[str], samples: int, say: Say
) -> ArtifactCard:
    """The card with the files of other runtimes. Raises LimbeckError where one of them gives something else."""
    written: list[str] = []
    longest = None if plan.tokens is None else plan.tokens.max_length
    places = [0] if made.batch is not None else list(range(min(3, plan.count)))
    for kind in also:
        example, runs = dict(plan.take(places)), {}
        for part in plan.parts:
            say(f"exporting the {part.name} for {kind}")
            onnx = staging / made.graphs[part.name].file
            run, files = write_other(kind, part, example, onnx, static=made.batch is not None, longest=longest)
            runs[part.name] = run if made.batch is None else one_at_a_time(run)
            written += [path.name for path in files]
            with torch.no_grad():
                example |= part(example)
        refuse(compare(plan, runs, samples), f"{plan.data}, {kind}")
    sums = {name: checksum(staging / name) for name in written}
    return replace(made, others=tuple(written), sha256={**made.sha256, **sums})


def write_parts(plan: Plan, folder: Path, *, static: bool, say: Say = lambda _line: None) -> dict[str, GraphCard]:
    """Writes a plan's graphs into `folder`, for one sample at a time or batches of any size; what they take and give.

    Raises:
        LimbeckError: one of them cannot be written, or there is one sample alone.
    """
    # Dimensions of 1 would be taken for fixed.
    places = [0] if static else list(range(min(3, plan.count)))
    if not static and len(places) < 2:
        raise LimbeckError(f"{plan.data}: expected at least 2 samples, got {plan.count}; name other data with --data")
    example, cards = dict(plan.take(places)), {}
    for part in plan.parts:
        say(f"exporting the {part.name}")
        cards[part.name] = write_graph(part, example, folder / f"{part.name}.onnx", static=static)
        with torch.no_grad():
            example |= part(example)
    return cards


def _tried(plan: Plan, staging: Path, batch: int | None, samples: int, say: Say) -> tuple[dict[str, Any], Parity]:
    """The graphs' cards and how near they are to the model. Raises LimbeckError where that is not near enough."""
    cards = write_parts(plan, staging, static=batch is not None, say=say)
    graphs = {name: Graph(staging / each.file, each, batch=batch, threads=1) for name, each in cards.items()}
    say(f"comparing it with PyTorch on {plan.data}")
    parity = compare(plan, graphs, samples)
    refuse(parity, str(plan.data))
    return cards, parity


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("limbeck", "torch", "transformers", "timm", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow",
                 "tokenizers"):  # fmt: skip
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
