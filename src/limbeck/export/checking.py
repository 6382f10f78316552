"""An artifact compared with the PyTorch model that it was made of, on real inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.artifact import Parity
from limbeck.errors import LimbeckError
from limbeck.export.plans import Arrays, Plan
from limbeck.types import Batch

Run = Callable[[Arrays], dict[str, NDArray[Any]]]
"""A graph: from inputs by name to outputs by name."""

BATCHES = (1, 2, 5, 16)
"""Batch sizes, in turn."""
LARGEST, LEAST = 1e-4, 0.999
"""The largest relative error, and the least share of equal predictions, of an artifact that is kept."""
SMALLEST = float(np.finfo(np.float32).tiny)


def compare(plan: Plan, graphs: Mapping[str, Run], samples: int) -> Parity:
    """Runs the model and the artifact on `samples` real inputs, spread over the data, in batches of several sizes.

    A relative error is that of the largest difference by the root mean square of the output.
    """
    count = min(samples, plan.count)
    places = np.unique(np.linspace(0, plan.count - 1, count).astype(int)).tolist()
    worst: dict[str, float] = {}
    squares: dict[str, tuple[float, int]] = {}
    same, of, sizes = 0, 0, set()
    for at in _in_batches(places):
        sizes.add(len(at))
        expected, found, feeds = both(plan, graphs, plan.take(at))
        alike, all_of = plan.judge(expected, found, feeds)
        same, of = same + alike, of + all_of
        for name, (one, other) in _pairs(*plan.compared(expected, found, feeds)):
            worst[name] = max(worst.get(name, 0.0), _largest_difference(one, other))
            finite = one[np.isfinite(one)].astype(np.float64)
            before = squares.get(name, (0.0, 0))
            squares[name] = before[0] + float((finite**2).sum()), before[1] + finite.size
    spread = {name: (total / max(many, 1)) ** 0.5 for name, (total, many) in squares.items()}
    return Parity(
        data=plan.data,
        samples=len(places),
        batches=tuple(sorted(sizes)),
        absolute=max(worst.values()),
        relative=max(each / max(spread[name], SMALLEST) for name, each in worst.items()),
        agreement=same / of if of else 1.0,
        predictions=f"{of:,} {plan.predictions}",
    )


def refuse(parity: Parity, what: str) -> None:
    """Raises LimbeckError where an artifact is too far from its model."""
    if parity.relative <= LARGEST and parity.agreement >= LEAST:
        return
    raise LimbeckError(
        f"{what}: the exported model is not the PyTorch model, so it was not kept: on {parity.samples} inputs of "
        f"{parity.data} in batches of {', '.join(map(str, parity.batches))} the largest relative error is "
        f"{parity.relative:.1e} (at most {LARGEST:.0e} is allowed; absolute {parity.absolute:.1e}), and "
        f"{parity.agreement:.2%} of {parity.predictions} are the same (at least {LEAST:.1%})"
    )


def both(plan: Plan, graphs: Mapping[str, Run], batch: Batch) -> tuple[Arrays, Arrays, Arrays]:
    """What PyTorch and the graphs give for a batch, and the batch, as arrays."""
    feeds = {name: tensor.numpy() for name, tensor in batch.items()}
    torch_side, onnx_side = dict(batch), dict(feeds)
    expected: dict[str, NDArray[Any]] = {}
    found: dict[str, NDArray[Any]] = {}
    with torch.no_grad():
        for part in plan.parts:
            given = part(torch_side)
            torch_side |= given
            expected |= {name: tensor.numpy() for name, tensor in given.items()}
            outputs = graphs[part.name](onnx_side)
            onnx_side |= outputs
            found |= outputs
    return expected, found, feeds


def _in_batches(places: list[int]) -> Iterator[list[int]]:
    first, turn = 0, 0
    while first < len(places):
        size = BATCHES[turn % len(BATCHES)]
        yield places[first : first + size]
        first, turn = first + size, turn + 1


def _pairs(expected: Arrays, found: Arrays) -> Iterator[tuple[str, tuple[NDArray[Any], NDArray[Any]]]]:
    for name in expected:
        yield name, (expected[name], found[name])


def _largest_difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    if one.shape != other.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):  # two infinities
        apart = np.abs(one.astype(np.float64) - other)
    apart[one == other] = 0.0
    largest = float(apart.max(initial=0.0))
    return largest if largest == largest else float("inf")
