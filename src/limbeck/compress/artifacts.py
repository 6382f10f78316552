"""An artifact in int8, of one in fp32 that was exported before."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from torch import nn

from limbeck.artifact import ARTIFACT, ArtifactCard, is_artifact, read_artifact_card, write_artifact_card
from limbeck.artifact.card import check_files, checksum
from limbeck.artifact.running import Graph
from limbeck.compress.quantize import Kind, layers_among, quantize_onnx
from limbeck.errors import LimbeckError, nearest
from limbeck.export import export
from limbeck.export.checking import compare
from limbeck.export.data import Known, open_data
from limbeck.export.exporting import SAMPLES, check_place, plan_of
from limbeck.export.plans import Plan
from limbeck.export.readme import README, model_card
from limbeck.files import staged_folder, write_text
from limbeck.models import load, read_card

Arrays = Mapping[str, np.ndarray[Any, Any]]

CALIBRATION, BATCH = 256, 16


def quantize_artifact(
    source: Path,
    to: Path,
    folder: Path,
    known: Known,
    *,
    kind: Kind = "static",
    calibration: int = CALIBRATION,
    exclude: Collection[str] = (),
    row: str = "",
    trust_code: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> ArtifactCard:
    """Makes an int8 artifact in `to` of the fp32 one in `source`, which was exported of the saved model in `folder`.

    It is compared with the PyTorch model on real inputs; how near it is stands in its card, and nothing is refused, as
    int8 is no copy: measure what it costs.

    Args:
        calibration: training samples from which `static` ranges are told.
        exclude: layers that stay fp32; names that this model does not have are those of others.
        row: what the results of its run call it, and its seed: `distilled+int8, seed 0`.

    Raises:
        LimbeckError: `source` is no artifact in fp32, or cannot be quantized.
    """
    saved = read_card(folder)
    model = load(folder, trust_code=trust_code)
    card = read_artifact_card(source)
    graphs = {name: Graph(source / each.file, each, batch=card.batch, threads=1) for name, each in card.graphs.items()}
    feeds: dict[str, list[Arrays]] = {name: [] for name in graphs}
    if kind == "static":
        say(f"int8: looking at {calibration} training samples")
        for given in real_feeds(plan_of(model, saved, known, known.data.train), graphs, calibration, card.batch):
            for name, graph in graphs.items():
                feeds[name].append({each: given[each] for each in graph.inputs})

    def write(name: str, _outputs: tuple[str, ...], path: Path) -> None:
        say(f"int8: writing the {name}")
        calibrating, file = feeds[name] if kind == "static" else None, source / card.graphs[name].file
        quantize_onnx(file, path, kind=kind, calibration=calibrating, exclude=layers_among(file, exclude))

    about = {"int8": int8_said(kind, calibration, exclude), **({"model": row} if row else {})}
    return rewrite_artifact(source, to, folder, model, known, write, about)


def int8_said(kind: str, calibration: int, exclude: Collection[str]) -> dict[str, Any]:
    """What the card of an int8 artifact says of how it was written, under `int8` of `about`."""
    return {"kind": kind, "calibration": calibration, "exclude": list(exclude)}


def is_written(artifact: Path, said: Mapping[str, Any]) -> bool:
    """Whether an int8 artifact is there, and was written so."""
    return is_artifact(artifact) and read_artifact_card(artifact).about.get("int8") == said


def rewrite_artifact(
    source: Path,
    to: Path,
    folder: Path,
    model: nn.Module,
    known: Known,
    write: Callable[[str, tuple[str, ...], Path], None],
    about: Mapping[str, Any],
) -> ArtifactCard:
    """Makes an int8 artifact in `to` of the fp32 one in `source`, exported of `model`, which was loaded from `folder`.
    Its graphs are what `write` writes, given a graph's name, its outputs and the path; `about` is added to what its
    card says of where it comes from.

    Raises:
        LimbeckError: `source` is no artifact in fp32, or what is at `to` must not be replaced.
    """
    card = read_artifact_card(source)
    check_files(source, card)
    if card.precision != "fp32":
        raise LimbeckError(f"{source}: is in {card.precision}; give the fp32 artifact that it was made of")
    check_place(to)
    with staged_folder(to) as staging:
        for path in source.iterdir():
            if path.name not in (ARTIFACT, README, *card.others, *(each.file for each in card.graphs.values())):
                shutil.copy(path, staging / path.name)
        for name, each in card.graphs.items():
            write(name, tuple(output.name for output in each.outputs), staging / each.file)
        smaller = {
            name: Graph(staging / each.file, each, batch=card.batch, threads=1) for name, each in card.graphs.items()
        }
        plan = plan_of(model, read_card(folder), known)
        made = replace(
            card,
            precision="int8",
            parity=compare(plan, smaller, SAMPLES),
            others=(),  # which are in fp32
            sha256={name: checksum(staging / name) for name in card.sha256 if name not in card.others},
            about={**card.about, **about},
        )
        write_artifact_card(staging, made)
        write_text(staging / README, model_card(folder, made, to.name))
    return made


def export_int8(
    folder: Path, to: Path, kind: str, *, data: str | None = None, static_batch: bool = False,
    trust_code: bool = False, say: Callable[[str], None] = lambda _line: None,
) -> ArtifactCard:  # fmt: skip
    """Makes an int8 artifact in `to` of the saved model in `folder`; arguments as of `limbeck.export.export`.

    Raises:
        LimbeckError: as `export` and `quantize_artifact`.
    """
    if kind not in get_args(Kind):
        raise LimbeckError(f"int8: unknown kind {kind!r}{nearest(kind, get_args(Kind))}; expected static or dynamic")
    known = open_data(folder, read_card(folder), data, say)
    with tempfile.TemporaryDirectory(prefix="limbeck-") as place:
        fp32 = Path(place) / to.name
        export(folder, fp32, known=known, static_batch=static_batch, trust_code=trust_code, say=say)
        return quantize_artifact(
            fp32, to, folder, known, kind=cast(Kind, kind), trust_code=trust_code, say=say
        )  # fmt: skip


def calibration_feeds(folder: Path, source: Path, known: Known, samples: int, trust_code: bool) -> list[Arrays]:
    """Training samples as the only graph of the artifact in `source`, which was made of `folder`, takes them."""
    card = read_artifact_card(source)
    ((name, each),) = card.graphs.items()
    graphs = {name: Graph(source / each.file, each, batch=card.batch, threads=1)}
    plan = plan_of(load(folder, trust_code=trust_code), read_card(folder), known, known.data.train)
    return [{key: given[key] for key in graphs[name].inputs} for given in real_feeds(plan, graphs, samples, card.batch)]


def real_feeds(
    plan: Plan, graphs: Mapping[str, Graph], samples: int, batch: int | None = None
) -> Iterator[dict[str, Any]]:
    """Real inputs of the plan's data, spread over them, with what each graph makes for the next."""
    places = np.unique(np.linspace(0, plan.count - 1, min(samples, plan.count)).astype(int)).tolist()
    step = batch or BATCH
    names = list(graphs)
    for start in range(0, len(places), step):
        given: dict[str, Any] = {
            name: tensor.numpy() for name, tensor in plan.take(places[start : start + step]).items()
        }
        for name in names[:-1]:
            given |= graphs[name](given)
        yield given
