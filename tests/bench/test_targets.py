"""Targets by name."""

from __future__ import annotations

import re

import pytest

from limbeck.bench.targets import Target, parse_targets
from limbeck.errors import LimbeckError


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("eager", Target("eager")),
        ("eager:cuda", Target("eager", "cuda")),
        ("onnxruntime:cpu:1", Target("onnxruntime", "cpu", 1)),
        (" openvino-fp32:cpu:12 ", Target("openvino-fp32", "cpu", 12)),
    ],
)
def test_what_is_written_is_read(text: str, target: Target) -> None:
    """A part in the place of another, and a name that cannot be read again."""
    assert Target.parse(text) == target
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("onnxruntme:cpu:1", "unknown runtime 'onnxruntme'; did you mean 'onnxruntime'"),
        ("tensorrt", "known: compiled, eager, onnxruntime"),
        ("openvino:cuda", "openvino: unknown device 'cuda'; known: cpu"),
        ("eager:cud", "did you mean 'cuda'"),
        ("eager:cpu:two", "expected a number of threads, got 'two'"),
        ("eager:cpu:", "expected a number of threads, got ''"),
        ("eager:cpu:0", "expected 1 thread or more"),
        ("eager:cpu:1:2", "RUNTIME:DEVICE:THREADS"),
        ("", "unknown runtime ''"),
    ],
)
def test_mistakes(text: str, part: str) -> None:
    """A typo that becomes another target, or a traceback."""
    with pytest.raises(LimbeckError, match=re.escape(part)):
        Target.parse(text)


def test_lists() -> None:
    """Commas, repeated options, and the same twice."""
    found = parse_targets(["eager,onnxruntime:cpu:1", "eager"])
    assert found == [Target("eager"), Target("onnxruntime", "cpu", 1)]
