"""Which layers int8 costs most, and whether what it costs is more than was allowed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.compress.quantize import Arrays, Kind, checked, layers_of_prepared, prepared, write_quantized
from limbeck.measures import measure_of
from limbeck.onnx_sessions import open_session

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Sensitive:
    """A layer by the name of its node, its operator, and the error of the outputs where it alone is int8: the mean
    square of the difference over that of the outputs in fp32."""

    name: str
    operator: str
    error: float


def sensitivity(
    source: str | Path, batches: Iterable[Arrays], *, kind: Kind = "static", seconds: float = 60.0
) -> list[Sensitive]:
    """The layers with weights of the model at `source`, the most costly first.

    Each is quantized alone, all others stay fp32, so that what is measured is its own. (Leaving one out of a model that
    is int8 elsewhere shows what excluding it would gain, but drowns in the noise of the others.) The same `batches`
    calibrate and measure; a few dozen inputs do. After `seconds` it stops, having begun with the largest layers: what
    was not tried is not in the list.

    Raises:
        LimbeckError: as `quantize_onnx` does.
    """
    source = Path(source)
    found: list[Sensitive] = []
    start = time.monotonic()
    with prepared(source) as model, tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
        given = checked(model, batches, source)
        expected = _outputs(model, given)
        for name, operator in _largest_first(model):
            if found and time.monotonic() - start > seconds:
                break
            target = Path(folder) / "one.onnx"
            write_quantized(model, target, kind, given, only=[name])
            found.append(Sensitive(name, operator, _error(expected, _outputs(target, given))))
    return sorted(found, key=lambda each: -each.error)


def _largest_first(model: Path) -> list[tuple[str, str]]:
    import onnx

    graph = onnx.load(model).graph
    sizes = {each.name: int(np.prod(each.dims)) for each in graph.initializer}
    weights = {node.name: max(sizes.get(name, 0) for name in node.input[:2]) for node in graph.node if node.input}
    return sorted(layers_of_prepared(model).items(), key=lambda each: -weights[each[0]])


def _outputs(model: Path, batches: Sequence[Arrays]) -> list[Array]:
    runs = open_session(model, threads=1)
    return [np.asarray(each, np.float64) for batch in batches for each in runs.run(None, dict(batch))]


def _error(expected: Sequence[Array], got: Sequence[Array]) -> float:
    difference = sum(float(np.square(a - b).sum()) for a, b in zip(expected, got, strict=True))
    return difference / max(sum(float(np.square(each).sum()) for each in expected), np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True)
class Finding:
    """What int8 did to one number.

    Attributes:
        metric: its name.
        fp32, int8: the values.
        lost: how much worse int8 is; below 0 where it is better.
        flagged: whether that is more than was allowed.
        sensitive: names of the layers to leave in fp32 first; empty unless flagged.
    """

    metric: str
    fp32: float
    int8: float
    lost: float
    flagged: bool
    sensitive: tuple[str, ...] = ()

    def sentence(self) -> str:
        """One sentence for a report."""
        numbers = f"{self.metric} {self.fp32:.4g} in fp32, {self.int8:.4g} in int8"
        if not self.flagged:
            return f"{numbers}: within tolerance."
        layers = f"; most sensitive: {', '.join(self.sensitive)}" if self.sensitive else ""
        return f"{numbers}: worse by {self.lost:.4g}, more than allowed{layers}."


def findings(
    fp32: Mapping[str, float],
    int8: Mapping[str, float],
    *,
    tolerance: float = 0.01,
    layers: Sequence[Sensitive] = (),
    named: int = 3,
) -> list[Finding]:
    """What int8 did to each number that both have, in its own unit; worse by more than `tolerance` is flagged.

    Which direction is worse is known by the metric's name (`limbeck.measures`). `layers` are those of `sensitivity`,
    of which the first `named` are told.
    """
    found = []
    for metric in fp32:
        if metric in int8:
            measure = measure_of(metric)
            lost = measure.rank(fp32[metric]) - measure.rank(int8[metric])
            # A loss of just the tolerance, as of 1 in 100 samples, is not more than it.
            flagged = not lost <= tolerance + 1e-9
            names = tuple(each.name for each in layers[:named]) if flagged else ()
            found.append(Finding(metric, fp32[metric], int8[metric], lost, flagged, names))
    return found
