"""limbeck: knowledge distillation for any PyTorch model.

>>> import limbeck
>>> result = limbeck.distill(teacher, student, train_data, eval_data)  # doctest: +SKIP
>>> result.report("report.html")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.api import DistillResult, distill
    from limbeck.distiller import Distiller
    from limbeck.errors import LimbeckError
    from limbeck.labelling import label
    from limbeck.models import load, save
    from limbeck.online import Mutual
    from limbeck.pairing import Pairing, pair
    from limbeck.results import Results, Row
    from limbeck.reuse import reuse_head
    from limbeck.starting import copy_layers
    from limbeck.store import LabelStore
    from limbeck.teachers import Ema, Ensemble, Live, Mapped, Onnx, Several, Stored, Teacher
    from limbeck.terms import Schedule, Term
    from limbeck.trainer import DistillTrainer
    from limbeck.training import TrainConfig, train

__version__ = "0.1.0"

_HOMES = {
    "DistillResult": "api",
    "DistillTrainer": "trainer",
    "Distiller": "distiller",
    "Ema": "teachers",
    "Ensemble": "teachers",
    "LabelStore": "store",
    "LimbeckError": "errors",
    "Live": "teachers",
    "Mapped": "teachers",
    "Mutual": "online",
    "Onnx": "teachers",
    "Pairing": "pairing",
    "Results": "results",
    "Row": "results",
    "Several": "teachers",
    "Stored": "teachers",
    "Teacher": "teachers",
    "Schedule": "terms",
    "Term": "terms",
    "TrainConfig": "training",
    "copy_layers": "starting",
    "distill": "api",
    "label": "labelling",
    "load": "models",
    "pair": "pairing",
    "reuse_head": "reuse",
    "save": "models",
    "train": "training",
}

__all__ = [
    "DistillResult",
    "DistillTrainer",
    "Distiller",
    "Ema",
    "Ensemble",
    "LabelStore",
    "LimbeckError",
    "Live",
    "Mapped",
    "Mutual",
    "Onnx",
    "Pairing",
    "Results",
    "Row",
    "Schedule",
    "Several",
    "Stored",
    "Teacher",
    "Term",
    "TrainConfig",
    "copy_layers",
    "distill",
    "label",
    "load",
    "pair",
    "reuse_head",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `import limbeck` and `limbeck --help` are quick."""
    if name in _HOMES:
        return getattr(import_module(f"limbeck.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
