"""Tiny detectors, and pictures of coloured rectangles with their boxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from limbeck.models import ModelSpec, Shape, build

HEIGHT, WIDTH, CLASSES = 64, 96, 3
SHAPE = Shape(CLASSES, 3, (HEIGHT, WIDTH), "detection")

Batch = dict[str, Tensor]

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "fcos": ("fcos:timm:test_efficientnet", {"channels": 16, "blocks": 2, "strides": [8, 16, 32]}),
    "fcos-bins": (
        "fcos:timm:test_efficientnet",
        {"channels": 16, "blocks": 2, "strides": [8, 16, 32], "distribution": 9},
    ),
    "retinanet": ("retinanet:timm:test_efficientnet", {"channels": 16, "blocks": 2, "strides": [8, 16, 32]}),
    "ssdlite": ("ssdlite:timm:test_efficientnet", {"channels": 16, "strides": [8, 16, 32, 64]}),
}

_RESNET = {
    "embedding_size": 16, "hidden_sizes": [16, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic",
}  # fmt: skip
_HGNET = {
    "embedding_size": 16, "hidden_sizes": [16, 16, 24, 32], "depths": [1, 1, 1, 1], "stem_channels": [3, 8, 16],
    "stage_in_channels": [16, 16, 16, 24], "stage_mid_channels": [8, 8, 8, 16],
    "stage_out_channels": [16, 16, 24, 32], "stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [1, 1, 1, 1],
    "stage_light_block": [False] * 4, "stage_kernel_size": [3, 3, 3, 3], "out_indices": [2, 3, 4],
}  # fmt: skip


def set_config(kind: str, *, width: int = 16, queries: int = 10, layers: int = 2) -> dict[str, Any]:
    """A tiny configuration of a detector that predicts a set."""
    if kind == "yolos":
        return {
            "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": width,
            "num_detection_tokens": queries,
        }  # fmt: skip
    common = {
        "d_model": width, "encoder_ffn_dim": width, "decoder_ffn_dim": width, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_layers": 1, "decoder_layers": layers, "num_queries": queries,
    }  # fmt: skip
    if kind == "detr":
        return common | {"backbone_config": {"model_type": "resnet", **_RESNET, "out_features": ["stage4"]}}
    backbone = _HGNET if kind == "d_fine" else {**_RESNET, "out_indices": [2, 3, 4]}
    return common | {
        "backbone_config": backbone, "encoder_in_channels": [16, 24, 32], "encoder_hidden_dim": width,
        "decoder_in_channels": [width] * 3, "decoder_n_points": [2, 2, 2] if kind == "d_fine" else 2,
        "num_denoising": 8, "hidden_expansion": 0.5, "freeze_backbone_batch_norms": False,
    }  # fmt: skip


SETS = ("rt_detr", "rt_detr_v2", "d_fine", "detr", "yolos")


def spec_of(name: str, **sizes: int) -> ModelSpec:
    """The spec of a tiny detector: a dense family, or a kind of transformers'."""
    if name in FAMILIES:
        family, options = FAMILIES[name]
        return ModelSpec(family, {**options, **sizes})
    return ModelSpec(f"hf:{name}", {"pretrained": False, "config": set_config(name, **sizes)})


def detector(name: str, seed: int = 0, **sizes: int) -> Any:
    """A tiny detector, untrained, the same each time."""
    torch.manual_seed(seed)
    return build(spec_of(name, **sizes), SHAPE)


def scenes(count: int = 8, seed: int = 0) -> Batch:
    """Pictures with one or two rectangles, whose colour is their class."""
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    inputs = torch.randn(count, 3, HEIGHT, WIDTH, generator=generator) * 0.1
    boxes, kinds = torch.zeros(count, 2, 4), torch.full((count, 2), -1)
    for row in range(count):
        for place in range(1 + row % 2):
            width, height, kind = number(20, 44), number(20, 40), number(0, CLASSES)
            left, top = number(0, WIDTH - width), number(0, HEIGHT - height)
            boxes[row, place] = torch.tensor([left, top, left + width, top + height])
            kinds[row, place] = kind
            inputs[row, :, top : top + height, left : left + width] = -1.0
            inputs[row, kind, top : top + height, left : left + width] = 2.0
    labels = (kinds >= 0).sum(1)
    return {"inputs": inputs, "boxes": boxes, "box_classes": kinds, "labels": labels, "ids": torch.arange(count)}


@torch.no_grad()
def recall(model: Any, batch: Batch, score: float = 0.2) -> float:
    """Which share of a batch's boxes a model finds, with an IoU above a half and the right class."""
    found = model.eval().detections(model(batch["inputs"]))
    model.train()
    hits = total = 0
    for each, boxes, kinds in zip(found, batch["boxes"], batch["box_classes"], strict=True):
        for box, kind in zip(boxes[kinds >= 0], kinds[kinds >= 0], strict=True):
            own = each.boxes[(each.classes == kind) & (each.scores > score)]
            hits += bool(len(own)) and bool(box_iou(own, box[None]).max() > 0.5)
            total += 1
    return hits / total
