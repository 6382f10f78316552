"""Detectors by name."""

from __future__ import annotations

from torch import nn

from limbeck.errors import LimbeckError, nearest
from limbeck.models.detection.sets import build_set
from limbeck.models.spec import ModelSpec, Shape

FAMILIES = ("fcos", "retinanet", "ssdlite")
"""What the names of dense detectors begin with."""


def is_detector(spec: ModelSpec, shape: Shape) -> bool:
    """Whether a name is one of a detector, or the data ask for one by a name of a library; a function of the user's
    gives what it gives.

    Raises:
        LimbeckError: the data ask for a detector, and the name is of no such model; or the reverse.
    """
    family = spec.name.partition(":")[0]
    if shape.head == "detection":
        if family in FAMILIES or family == "hf":
            return True
        if family == "python":
            return False
        names = ", ".join(f"{each}:timm:NAME" for each in FAMILIES)
        hint = f"; did you mean fcos:{spec.name}?" if family in ("timm", "torchvision") else nearest(family, FAMILIES)
        raise LimbeckError(f"model {spec.name!r} finds no objects{hint} (detectors are {names}, hf:NAME)")
    if family in FAMILIES:
        raise LimbeckError(f"model {spec.name!r} finds objects, the data ask for {shape.head}; take another model")
    return False


def build_detector(spec: ModelSpec, shape: Shape, *, trust_code: bool) -> nn.Module:
    """The detector that `spec` names: `fcos:`, `retinanet:` or `ssdlite:` before a backbone, or `hf:NAME`."""
    if spec.name.startswith("hf:"):
        return build_set(spec, shape, trust_code=trust_code)
    from limbeck.models.detection.families import build_dense  # torchvision's detectors are slow to import

    return build_dense(spec, shape)
