"""Smaller models of the same kind: prune what matters least, quantize what is left."""

from limbeck.compress.aware import Aware, quantization_aware
from limbeck.compress.importance import Criterion
from limbeck.compress.masks import zero_smallest
from limbeck.compress.prune import Pruned, Removed, prune
from limbeck.compress.quantize import Quantized, layers_of, quantize_onnx
from limbeck.compress.schedule import rounds
from limbeck.compress.sensitivity import Finding, Sensitive, findings, sensitivity

__all__ = [
    "Aware",
    "Criterion",
    "Finding",
    "Pruned",
    "Quantized",
    "Removed",
    "Sensitive",
    "findings",
    "layers_of",
    "prune",
    "quantization_aware",
    "quantize_onnx",
    "rounds",
    "sensitivity",
    "zero_smallest",
]
