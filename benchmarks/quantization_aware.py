"""What a student loses in int8, quantized after training and trained for it: `python -m benchmarks.quantization_aware`.

    python -m benchmarks.quantization_aware [--cases speed digits mnist mobilenet] [--seeds 3] [--json FILE]

A teacher, a student distilled from it in fp32, and from that student: more of the same training (`fp32, longer`), so
that no other gains by training alone; the training as an int8 model from the teacher (`aware, teacher`) and on labels
(`aware, labels`), for as many steps at the same learning rate; and int8 after training, by ONNX Runtime's static
quantizer (`static`) and by calibrating only (`calibrated`). All int8 models see the same calibration inputs, and all
accuracies, in percent of the test images, are those of ONNX files in ONNX Runtime. $LIMBECK_DATA holds MNIST. The case
`speed` asks nothing but how long one image takes, in untrained models.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.measure import interleaved, machine, timed, write
from limbeck import Distiller, TrainConfig, train
from limbeck.compress import quantization_aware, quantize_onnx
from limbeck.export.graphs import write_graph
from limbeck.export.plans import of_signals
from limbeck.metrics import mean_std
from limbeck.models import ModelSpec, Shape, build
from limbeck.onnx_sessions import open_session
from limbeck.terms import default_terms

Pair = tuple[Tensor, Tensor]
FREE = {"inputs": {0: "batch"}}


@dataclass(frozen=True)
class Case:
    """Data (training and test), the student's name, and epochs of the teacher, the student and the training after."""

    data: tuple[Pair, Pair]
    student: str
    epochs: tuple[int, int, int]


def digits() -> tuple[Pair, Pair]:
    data = load_digits()
    inputs, labels = torch.from_numpy(data.images[:, None] / 16).float(), torch.from_numpy(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    known, held = order[:1257], order[1257:]
    return (inputs[known], labels[known]), (inputs[held], labels[held])


def mnist(border: int = 0, count: int = 3000) -> tuple[Pair, Pair]:
    folder = Path(os.environ.get("LIMBECK_DATA", "data")) / "vision"
    pairs = []
    for part in ("train", "t10k"):
        images, labels = (
            np.frombuffer(gzip.decompress((folder / f"mnist_{part}-{name}-ubyte.gz").read_bytes()), np.uint8)
            for name in ("images-idx3", "labels-idx1")
        )
        inputs = torch.tensor(images[16:].reshape(-1, 1, 28, 28)).float() / 255
        pairs.append((nn.functional.pad(inputs, [border] * 4), torch.tensor(labels[8:]).long()))
    return (pairs[0][0][:count], pairs[0][1][:count]), pairs[1]


def cases(name: str) -> Case:
    if name == "digits":
        return Case(digits(), "conv-student", (30, 30, 10))
    if name == "mnist":
        return Case(mnist(), "conv-student", (6, 8, 4))
    return Case(mnist(border=2), "timm:mobilenetv3_small_050", (6, 16, 6))


def correct(path: Path, held: Pair) -> float:
    """Percent of the images whose class the file finds."""
    session = open_session(path, threads=torch.get_num_threads())
    answers = [session.run(["logits"], {"inputs": rows.numpy()})[0].argmax(1) for rows in held[0].split(500)]
    return float((np.concatenate(answers) == held[1].numpy()).mean() * 100)


def contest(case: Case, seed: int, folder: Path) -> dict[str, Path]:
    """The files of all ways."""
    known = case.data[0]
    size = known[0].shape[-1]
    shape = Shape(num_classes=10, in_channels=1, image_size=(size, size))
    torch.manual_seed(seed)
    teacher, student = build(ModelSpec("conv-teacher"), shape), build(ModelSpec(case.student), shape)

    def taught(module: nn.Module, epochs: int, rate: float, *, by: nn.Module | None, label: str) -> nn.Module:
        config = TrainConfig(epochs=epochs, learning_rate=rate, evaluations=1)
        terms = default_terms() if by is not None else None
        return train(Distiller(module, by, terms), known, config=config, seed=seed, label=label).module.eval()

    teacher = taught(teacher, case.epochs[0], 1e-3, by=None, label="teacher")
    student = taught(student, case.epochs[1], 2e-3, by=teacher, label="student")
    rows = torch.randperm(len(known[0]), generator=torch.Generator().manual_seed(seed))[:512].split(64)
    batches = [{"inputs": known[0][each]} for each in rows]
    arrays = [{"inputs": batch["inputs"].numpy()} for batch in batches]

    def in_fp32(module: nn.Module, name: str) -> dict[str, Path]:
        path = folder / f"{name}.onnx"
        write_graph(of_signals(module, FREE, ["logits"]), batches[0], path, static=False)
        int8 = quantize_onnx(path, folder / f"{name}, static.onnx", calibration=arrays)
        return {name: path, f"{name}, static": int8.path}

    make = partial(quantization_aware, student, batches[0], calibration=batches)
    more = partial(taught, epochs=case.epochs[2], rate=2e-4)
    files = in_fp32(student, "fp32")
    files |= in_fp32(more(copy.deepcopy(student), by=teacher, label="fp32, longer"), "fp32, longer")
    models: Mapping[str, Any] = {
        "calibrated": make(),
        "aware, labels": more(make(), by=None, label="aware, labels"),
        "aware, teacher": more(make(), by=teacher, label="aware, teacher"),
    }
    return files | {name: model.write(folder / f"{name}.onnx") for name, model in models.items()}


def milliseconds(files: Mapping[str, Path], example: Tensor, rounds: int) -> dict[str, float]:
    """The median of a pass of one image, models taking turns."""
    runs = {}
    for name, path in files.items():
        session, feeds = open_session(path, threads=1), {"inputs": example.numpy()}
        runs[name] = partial(timed, partial(session.run, None, feeds), 20)
    return {name: 1e3 * float(np.median(seconds)) for name, seconds in interleaved(runs, rounds).items()}


SPEED = {"resnet8x4": 32, "timm:resnet10t": 96, "timm:mobilenetv3_small_050": 96, "timm:vit_tiny_patch16_224": 64}
"""Models and the pixels of a side."""


def speed(rounds: int) -> dict[str, Any]:
    """Milliseconds and bytes of untrained models, whose BatchNorm has seen a batch of noise."""
    found: dict[str, Any] = {}
    for name, size in SPEED.items():
        torch.manual_seed(0)
        options = {"zero_init_last": False} if "resnet10t" in name else {"img_size": size} if "vit" in name else {}
        model = build(ModelSpec(name, options), Shape(num_classes=10, in_channels=3, image_size=(size, size)))
        batch = {"inputs": torch.randn(16, 3, size, size)}
        with torch.no_grad():
            model.train()(batch["inputs"])
        model.eval()
        with tempfile.TemporaryDirectory() as place:
            files = {each: Path(place) / f"{each}.onnx" for each in ("fp32", "static", "aware")}
            write_graph(of_signals(model, FREE, ["logits"]), batch, files["fp32"], static=False)
            quantize_onnx(files["fp32"], files["static"], calibration=[{"inputs": batch["inputs"].numpy()}])
            quantization_aware(model, batch, calibration=[batch]).write(files["aware"])
            fast = milliseconds(files, batch["inputs"][:1], rounds)
            sizes = {each: path.stat().st_size for each, path in files.items()}
        row = "".join(f"{each} {fast[each]:8.3f} ms {sizes[each] / 1e3:9.1f} kB   " for each in files)
        print(f"{name:28}{row}", flush=True)
        found[name] = {"milliseconds": fast, "bytes": sizes}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["speed", "digits", "mnist", "mobilenet"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    described = machine(options.threads)
    print(described)
    found: dict[str, Any] = {"machine": described}
    for name in options.cases:
        if name == "speed":
            found[name] = speed(rounds=30)
            continue
        case = cases(name)
        accuracies: dict[str, list[float]] = {}
        with tempfile.TemporaryDirectory() as place:
            for seed in range(options.seeds):
                files = contest(case, seed, Path(place))
                for way, path in files.items():
                    accuracies.setdefault(way, []).append(correct(path, case.data[1]))
            fast = milliseconds(files, case.data[1][0][:1], rounds=60)
            sizes = {way: path.stat().st_size for way, path in files.items()}
        print(f"\n{name}: {case.student}")
        for way, values in accuracies.items():
            mean, deviation = mean_std(values)
            each = " ".join(f"{value:.2f}" for value in values)
            row = f"{way:24}{mean:8.2f} ± {deviation:.2f}   ({each}){sizes[way] / 1e3:10.1f} kB{fast[way]:9.3f} ms"
            print(row, flush=True)
        found[name] = {"accuracy": accuracies, "bytes": sizes, "milliseconds": fast}
        if options.json:
            write(options.json, found)


if __name__ == "__main__":
    main()
