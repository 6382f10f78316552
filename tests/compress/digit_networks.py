"""Networks for scikit-learn's digits, untrained and trained, and batches of it."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from limbeck import Distiller, TrainConfig, train
from limbeck.models import ModelSpec, Shape, build

KNOWN = 1400
"""How many of the images are for training."""


def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 1, 8, 8) from 0 to 1, and their labels."""
    data = load_digits()
    return torch.from_numpy(data.images[:, None] / 16.0).float(), torch.from_numpy(data.target)


def batches(count: int = 4) -> list[dict[str, Tensor]]:
    """Batches of 50 images."""
    return [{"inputs": rows} for rows in digits()[0][: count * 50].split(50)]


def small(name: str = "conv-student", **options: Any) -> nn.Module:
    """A network of limbeck's, always the same."""
    torch.manual_seed(0)
    return build(ModelSpec(name, options), Shape(num_classes=10, in_channels=1, image_size=(8, 8)))


def trained_network() -> nn.Module:
    """A resnet8x4 that knows digits."""
    inputs, labels = digits()
    config = TrainConfig(epochs=2, learning_rate=5e-3, evaluations=1)
    return train(Distiller(small("resnet8x4")), (inputs[:KNOWN], labels[:KNOWN]), config=config).module.eval()
