"""ViTPose of transformers, by hub id, folder, or untrained by its configuration."""

from __future__ import annotations

from typing import Any

from safetensors import SafetensorError
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.installed import resolved
from limbeck.models.forward import unwrapped
from limbeck.models.huggingface import check_keys, check_options, configuration, first_line, is_transformers
from limbeck.models.spec import ModelSpec, Shape

OPTIONS = ("pretrained", "ignore_mismatched_sizes", "config", "weights")
VITPOSE = "vitpose"
BACKBONE = "backbone_config"


def is_vitpose(model: nn.Module) -> bool:
    """Whether `model` is transformers' ViTPose."""
    inner: Any = unwrapped(model)
    return is_transformers(inner) and inner.config.model_type == VITPOSE


def build_vitpose(spec: ModelSpec, shape: Shape, *, trust_code: bool) -> nn.Module:
    """`hf:NAME` for keypoints: a ViTPose, whose signal is `heatmaps`; with `pretrained: false` NAME may be `vitpose`.

    Options as of `build_huggingface`; `config` may have a `backbone_config` of values that replace the backbone's.

    Xu et al. 2022, "ViTPose: Simple Vision Transformer Baselines for Human Pose Estimation", arXiv:2204.12484.

    Raises:
        LimbeckError: the model cannot be had, is no ViTPose, or has other joints than the data.
    """
    import transformers

    name = resolved(spec.name.removeprefix("hf:"))
    check_options(spec, OPTIONS)
    pretrained = bool(spec.options.get("pretrained", True))
    new_head = bool(spec.options.get("ignore_mismatched_sizes", False))
    config = configuration(spec, name, pretrained, trust_code)
    if config.model_type != VITPOSE:
        raise LimbeckError(f"model {spec.name!r} is a {config.model_type}, which finds no keypoints; take a ViTPose")
    if pretrained and not new_head and config.num_labels != shape.num_classes:
        raise LimbeckError(
            f"model {spec.name!r} has {config.num_labels} joints, the data {shape.num_classes}; give the option "
            "`ignore_mismatched_sizes: true` for a new head, or data with its joints"
        )
    given: dict[str, Any] = dict(spec.options.get("config", {}))
    backbone: dict[str, Any] = dict(given.pop(BACKBONE, {}))
    if not pretrained:
        backbone = {"image_size": list(shape.image_size), "num_channels": shape.in_channels} | backbone
    if config.num_labels != shape.num_classes:
        config.num_labels = shape.num_classes
    check_keys(spec, config, given)
    check_keys(spec, config.backbone_config, backbone)
    config.update(given)
    values: dict[str, Any] = config.backbone_config.to_dict() | backbone
    if values["num_experts"] > 1:
        raise LimbeckError(
            f"model {spec.name!r} has experts for several data sets and wants to be told which; take a ViTPose without"
        )
    if "num_hidden_layers" in backbone:
        # The stages that the backbone was to give are those of its old depth.
        for stale in ("stage_names", "out_features", "out_indices"):
            values.pop(stale, None)
        values["out_indices"] = [values["num_hidden_layers"]]
    kind: Any = type(config.backbone_config)
    config.backbone_config = kind.from_dict(values)
    model: Any = transformers.VitPoseForPoseEstimation
    try:
        built: nn.Module
        if pretrained:
            built = model.from_pretrained(name, config=config, ignore_mismatched_sizes=new_head)
        else:
            built = model(config)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise LimbeckError(f"model {spec.name!r} could not be built ({first_line(error)})") from None
    return built
