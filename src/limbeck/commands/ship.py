"""The commands that ship a model: `limbeck export`, and `limbeck predict`, which runs without torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.errors import LimbeckError
from limbeck.terminal import clear_errors, say

SHOWN = 5
"""Numbers of an embedding that are printed."""


def export(
    folder: Annotated[Path, typer.Argument(help="A saved model, such as runs/digits/student.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="Where the artifact goes.  [default: FOLDER-onnx]", show_default=False)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Data to check it on, by name.  [default: those it learned from]", show_default=False
        ),
    ] = None,
    static_batch: Annotated[
        bool, typer.Option("--static-batch", help="Take one sample at a time, for runtimes that need fixed shapes.")
    ] = False,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="torch|openvino|executorch",
            help="Write it for another runtime, too: torch.export's .pt2, OpenVINO's .xml, ExecuTorch's .pte. Again "
            "for several.",
            show_default=False,
        ),
    ] = None,
    int8: Annotated[
        str | None,
        typer.Option(
            "--int8",
            metavar="static|dynamic",
            help="Write it in int8: `static` with ranges seen in training samples, or `dynamic`.",
            show_default=False,
        ),
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Allow models named python:package.module:function, which run code.")
    ] = False,
) -> None:
    """Make an ONNX artifact of a saved model: a folder that `limbeck predict` runs without torch.

    It is run beside the PyTorch model on real inputs of the test split, one and several at a time, and is refused where
    the two differ: by more than a relative 1e-4, or in more than 1 of 1,000 predictions. The folder has the model, its
    tokenizer, how inputs are prepared and answers read (artifact.json), and a model card (README.md).

    With --int8 it is then written with weights and activations of eight bits, about a quarter of the bytes. That is no
    copy: how often it predicts the same is said, and nothing is refused. Measure what it costs, and whether it is
    faster here (limbeck bench).
    """
    with clear_errors():
        from limbeck.compress.artifacts import export_int8
        from limbeck.export import export as make

        place = to or folder.with_name(f"{folder.name}-{'onnx' if int8 is None else 'int8'}")
        options: dict[str, Any] = {"data": data, "static_batch": static_batch, "trust_code": trust_code, "say": say}
        if int8 is not None and also:
            raise LimbeckError("--also writes fp32 files; leave it out with --int8 (OpenVINO reads the int8 ONNX file)")
        if int8 is None:
            card = make(folder, place, also=also or (), **options)
        else:
            card = export_int8(folder, place, int8, **options)
        assert card.parity is not None
        parity = card.parity
        size = sum(each.stat().st_size for each in place.glob("*.onnx"))
        batch = "batches of any size" if card.batch is None else f"batches of {card.batch}"
        say(
            f"{'the same as' if int8 is None else 'beside'} PyTorch on {parity.samples:,} inputs of {parity.data}: "
            f"largest difference {parity.absolute:.1e} ({parity.relative:.1e} relative), "
            f"{parity.agreement:.2%} of {parity.predictions} agree"
        )
        if card.others:
            say(f"also     {', '.join(card.others)}")
        say(f"\nartifact {place}  ({size / 1e6:,.2f} MB, {batch})\nrun it   limbeck predict {place} …")


def predict(
    folder: Annotated[Path, typer.Argument(help="An artifact that `limbeck export` wrote.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INPUT]...",
            help="Pictures, or texts, by task; `-` reads one a line. What begins with { is a JSON object of several "
            'parts, such as {"text": …, "pair": …} or {"picture": …, "box": […]}.',
        ),
    ] = None,
    context: Annotated[
        str | None, typer.Option("--context", help="Question answering: the text that answers the questions.")
    ] = None,
    box: Annotated[
        str | None, typer.Option("--box", help="Pose estimation: LEFT,TOP,RIGHT,BOTTOM of the pose in the picture.")
    ] = None,
    threshold: Annotated[
        float, typer.Option("--threshold", help="Object detection: leave out objects with a lower score.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.  [default: all]")] = None,
) -> None:
    """Ask an artifact: classes, boxes, joints, answers or texts, as its task is. Torch is not needed.

    limbeck predict runs/digits/student-onnx a.png b.png

    limbeck predict reviews-onnx "a fine film" "what a bore"

    cat questions.txt | limbeck predict squad-onnx - --context "$(cat page.txt)" --json

    Of face recognition two pictures give their cosine, too.
    """
    with clear_errors():
        from limbeck.artifact import open_artifact

        artifact = open_artifact(folder, threads=threads)
        given = _given(inputs or [])
        asked = _asked(artifact.card.task, given, context, box)
        answers = artifact.predict(asked)
        for one, answer in zip(asked, answers, strict=True):
            if "objects" in answer:
                answer = {"objects": [each for each in answer["objects"] if each["score"] >= threshold]}
            if as_json:
                print(json.dumps({"input": one, **answer}, ensure_ascii=False))
            else:
                print(f"{_named(one)}\t{shown(answer)}")


def _given(inputs: Sequence[str]) -> list[Any]:
    """The inputs, a `-` replaced by the lines of the standard input, JSON objects read.

    Raises:
        LimbeckError: there is none, or one is not valid JSON.
    """
    lines: list[str] = []
    for each in inputs:
        lines += [line.rstrip("\n") for line in sys.stdin] if each == "-" else [each]
    if not lines:
        raise LimbeckError("predict: no input; give some, or - to read them from the standard input")
    found: list[Any] = []
    for line in lines:
        if not line.startswith("{"):
            found.append(line)
            continue
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise LimbeckError(f"input {line!r:.60}: begins as JSON and is not valid ({error.msg})") from None
    return found


def _asked(task: str, given: list[Any], context: str | None, box: str | None) -> list[Any]:
    """The inputs with what the options add to them."""
    if context is not None and task != "question-answering":
        raise LimbeckError(f"--context is for question answering; the artifact is for {task.replace('-', ' ')}")
    if box is not None and task != "pose-estimation":
        raise LimbeckError(f"--box is for pose estimation; the artifact is for {task.replace('-', ' ')}")
    if task == "face-recognition" and len(given) == 2 and all(isinstance(each, str) for each in given):
        return [{"picture": given[0], "other": given[1]}]
    if context is not None:
        return [{"question": each, "context": context} if isinstance(each, str) else each for each in given]
    if box is not None:
        edges = box.split(",")
        return [{"picture": each, "box": edges} if isinstance(each, str) else each for each in given]
    return given


def _named(given: Any) -> str:
    """An input in a line."""
    if isinstance(given, Mapping):
        keys = ("question", "text", "picture")
        return " ".join(str(given[key]) for key in (*keys, "pair", "other") if key in given)
    return str(given)


def shown(answer: Mapping[str, Any]) -> str:
    """An answer in a line; of several objects or joints in a line each."""
    if "top" in answer:
        rest = ", ".join(f"{each['class']} {each['probability']:.3f}" for each in answer["top"][1:3])
        return f"{answer['class']}\t{answer['probability']:.3f}" + (f"  ({rest})" if rest else "")
    if "probabilities" in answer:
        return ", ".join(f"{each} {answer['probabilities'][each]:.3f}" for each in answer["classes"]) or "none"
    if "value" in answer:
        return f"{answer['value']:.4g}"
    if "objects" in answer:
        lines = [f"{each['class']}\t{each['score']:.3f}\t{_numbers(each['box'])}" for each in answer["objects"]]
        return "\n".join(("", *lines)) if lines else "nothing"
    if "joints" in answer:
        joints = answer["joints"].items()
        lines = [f"{name}\t{each['x']:.1f}, {each['y']:.1f}\t{each['score']:.3f}" for name, each in joints]
        return "\n".join(("", *lines))
    if "cosine" in answer:
        return f"cosine {answer['cosine']:.4f}"
    if "embedding" in answer:
        values = answer["embedding"]
        return (
            f"{', '.join(f'{each:.4f}' for each in values[:SHOWN])}, … ({len(values)} numbers; all of them with --json)"
        )
    if "answer" in answer:
        return str(answer["answer"]) or "no answer"
    return str(answer["text"])


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{each:.1f}" for each in values)
