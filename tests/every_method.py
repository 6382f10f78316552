"""What every method is tried on: for each setting a small pair of models, a batch, and what does not apply there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification

from limbeck import Schedule, Term
from limbeck.losses import METHODS, Method, Supervised, SupervisedBCE, SupervisedMSE
from limbeck.models.cifar import CifarResNet

CLASSES, SIZE, SAMPLES = 5, 16, 24


class Samples(Dataset[dict[str, Tensor]]):
    """Rows in memory with their numbers as ids."""

    def __init__(self, rows: dict[str, Tensor]) -> None:
        self.rows = {**rows, "ids": torch.arange(len(next(iter(rows.values()))))}

    def __len__(self) -> int:
        return len(self.rows["ids"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[index] for name, values in self.rows.items()}


def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def _images() -> Samples:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
    labels[::6] = -1
    return Samples({"inputs": torch.randn(SAMPLES, 3, SIZE, SIZE, generator=generator), "labels": labels})


def _texts() -> Samples:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 9, (SAMPLES, 1), generator=generator)
    mask = (torch.arange(8) < lengths).long()
    ids = torch.randint(1, 50, (SAMPLES, 8), generator=generator) * mask
    labels = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
    return Samples({"input_ids": ids, "attention_mask": mask, "labels": labels})


def _cnn(widths: tuple[int, ...], depth: int) -> nn.Module:
    return CifarResNet(depth=depth, widths=widths, num_classes=CLASSES)


def _vit(width: int, depth: int) -> nn.Module:
    return VisionTransformer(
        img_size=SIZE, patch_size=4, embed_dim=width, depth=depth, num_heads=4, mlp_ratio=2.0, num_classes=CLASSES
    )


def _bert(width: int, layers: int) -> nn.Module:
    config = BertConfig(
        vocab_size=50, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=2 * width,
        max_position_embeddings=16, num_labels=CLASSES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


@dataclass(frozen=True)
class Setting:
    """`refused` says, for each method that does not apply, what the error must say."""

    models: Callable[[], tuple[nn.Module, nn.Module]]
    data: Callable[[], Samples]
    refused: dict[str, str]


PICTURED = {
    method.name: "has no module .* to tap|gives .* but not|gives no"
    for method in METHODS
    if method.module.student_signals or method.module.wants == "pyramid"
} | {
    "arcface": "how many persons",
    "cosface": "how many persons",
    "class-centres": "class centres are not known",
    "cross-head": "needs a student whose head has towers of convolutions",
}
"""Methods for what no classifier gives, such as boxes or heatmaps, or that only a data set of persons can tell."""

CNN_REFUSES = {"attention-mse": "attention", "minilm": "quer|value|attention", **PICTURED}

SETTINGS = {
    "cnn": Setting(lambda: (_cnn((8, 8, 16, 24), 8), _cnn((8, 16, 24, 32), 14)), _images, CNN_REFUSES),
    "vit": Setting(lambda: (_vit(16, 2), _cnn((8, 16, 24, 32), 14)), _images, CNN_REFUSES),
    "text": Setting(lambda: (_bert(24, 2), _bert(48, 4)), _texts, PICTURED),
}


def models_of(setting: str, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    student, teacher = SETTINGS[setting].models()
    return student, teacher.eval()


def terms_of(method: Method) -> list[Term]:
    """The method as its table has it, beside its term on the labels."""
    several = method.family == "multi-label" or method.module is SupervisedBCE
    label_term: list[Term] = []
    if method.supervised_weight:
        label_term = [Term(SupervisedBCE() if several else Supervised(), method.supervised_weight)]
    own = method.name == "byot"
    weight: float | Schedule = method.weight
    if method.warmup:
        weight = Schedule(method.weight, warmup=2)
    return [*label_term, Term(method.module(), weight, own=own)]


def data_of(setting: str, method: Method) -> Samples:
    samples = SETTINGS[setting].data()
    if method.family == "multi-label" or method.module in (SupervisedBCE, SupervisedMSE):
        samples.rows["labels"] = torch.nn.functional.one_hot(samples.rows["labels"].clamp(min=0), CLASSES).float()
    return samples


def by_name(name: str) -> Method:
    return next(method for method in METHODS if method.name == name)


def batch_of(samples: Samples, start: int, count: int) -> dict[str, Any]:
    return {name: values[start : start + count] for name, values in samples.rows.items()}
