"""transformers models: by name or folder, and as JSON from which one is built without the hub."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from limbeck.errors import LimbeckError, nearest
from limbeck.installed import resolved
from limbeck.models.spec import ModelSpec, Shape

OPTIONS = ("pretrained", "ignore_mismatched_sizes", "config", "weights")


def is_transformers(model: object) -> bool:
    """Whether `model` is a transformers PreTrainedModel, without importing transformers to find out."""
    modeling = sys.modules.get("transformers.modeling_utils")
    return modeling is not None and isinstance(model, modeling.PreTrainedModel)


def held(model: nn.Module) -> nn.Module:
    """The transformers model that a wrapper of limbeck's calls in its own way, its `network`; else the model itself."""
    inner = dict(model.named_children()).get("network")
    return inner if inner is not None and is_transformers(inner) else model


def build_huggingface(
    spec: ModelSpec,
    shape: Shape,
    *,
    trust_code: bool,
    auto: Any = None,  # typed loosely: these classes are only partly annotated
    purpose: str = "image classification",
) -> nn.Module:
    """`hf:NAME` for images, NAME being a hub id, a folder, or (with `pretrained: false`) a model type such as `vit`.

    Options: `pretrained` (default true), `ignore_mismatched_sizes` (default false; true puts a new head on
    weights with other classes), `config` (values that replace those of the model's configuration). `auto` is
    transformers' class that opens it, by default that of classifiers, and `purpose` what messages call that.

    Raises:
        LimbeckError: where the model cannot be had, or has other classes or channels than the data.
    """
    import transformers

    auto = transformers.AutoModelForImageClassification if auto is None else auto
    name = resolved(spec.name.removeprefix("hf:"))
    check_options(spec, OPTIONS)
    pretrained = bool(spec.options.get("pretrained", True))
    new_head = bool(spec.options.get("ignore_mismatched_sizes", False))
    given: dict[str, Any] = dict(spec.options.get("config", {}))
    config = configuration(spec, name, pretrained, trust_code)
    values = config.to_dict()
    if pretrained and not new_head and config.num_labels != shape.num_classes:
        raise LimbeckError(
            f"model {spec.name!r} has {config.num_labels} classes, the data {shape.num_classes}; "
            "give the option `ignore_mismatched_sizes: true` for a new head, or data with its classes"
        )
    if pretrained and values.get("num_channels", shape.in_channels) != shape.in_channels:
        raise LimbeckError(
            f"model {spec.name!r} takes {values['num_channels']} input channels, "
            f"the data have {shape.in_channels}; convert the images"
        )
    if config.num_labels != shape.num_classes:
        config.num_labels = shape.num_classes
    if not pretrained:
        height, width = shape.image_size
        fitting = {
            "num_channels": shape.in_channels,
            "image_size": height if height == width else [height, width],
        }
        given = {key: value for key, value in fitting.items() if key in values} | given
    check_keys(spec, config, given)
    config = _updated(spec, config, given, fresh=not pretrained and is_model_type(name))
    try:
        model: nn.Module
        if pretrained:
            model = auto.from_pretrained(
                name, config=config, ignore_mismatched_sizes=new_head, trust_remote_code=trust_code
            )
        else:
            model = auto.from_config(config, trust_remote_code=trust_code)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise LimbeckError(
            f"model {spec.name!r} could not be built ({first_line(error)}); "
            f"check that its files are whole and that transformers has it for {purpose}"
        ) from None
    return model


def _updated(spec: ModelSpec, config: Any, given: dict[str, Any], *, fresh: bool) -> Any:
    """A configuration with the given values, those of a backbone within it included; of a `fresh` one, which has no
    values but defaults, what follows from others is made anew."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        if not any(isinstance(value, dict) for value in given.values()):
            config.update(given)
            return config
        values = {**({"num_labels": config.num_labels} if fresh else config.to_diff_dict()), **given}
        for key, value in given.items():
            inner = getattr(config, key)
            # Keys of a backbone of another kind mean something else.
            if isinstance(value, dict) and value.get("model_type", inner.model_type) == inner.model_type:
                values[key] = {**({} if fresh else inner.to_diff_dict()), "model_type": inner.model_type, **value}
        return type(config).from_dict(values)
    except (StrictDataclassError, TypeError, ValueError, AttributeError) as error:
        what = str(error.__cause__ or error).strip().split("\n")[0].rstrip(".")
        raise LimbeckError(f"model {spec.name!r}: its configuration does not take these values ({what})") from None


def configuration(spec: ModelSpec, name: str, pretrained: bool, trust_code: bool) -> Any:
    """The configuration of `name`: a folder, a hub id, or (unless pretrained) a model type."""
    from transformers import AutoConfig

    if not pretrained and is_model_type(name):
        return AutoConfig.for_model(name)
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_code)
    except (OSError, ValueError, KeyError) as error:
        raise LimbeckError(
            f"model {spec.name!r} could not be had ({first_line(error)}); "
            "give a folder that save_pretrained wrote, a hub id, "
            "or a model type such as hf:vit with the option `pretrained: false`"
        ) from None


def is_model_type(name: str) -> bool:
    """Whether transformers has a kind of model of that name, and there is no folder of it."""
    from transformers import CONFIG_MAPPING

    return name in CONFIG_MAPPING and not Path(name).exists()


def check_options(spec: ModelSpec, known: Sequence[str]) -> None:
    """Raises LimbeckError where the spec has an option that is not known."""
    for option in spec.options:
        if option not in known:
            raise LimbeckError(f"model {spec.name!r} takes no option {option!r}{nearest(option, known)}")


def check_keys(spec: ModelSpec, config: Any, given: Iterable[str]) -> None:
    """Raises LimbeckError where a configuration does not have a key that is given."""
    known = config.to_dict()
    for key in given:
        if key not in known:
            raise LimbeckError(f"model {spec.name!r}: its configuration has no {key!r}{nearest(key, known)}")


def first_line(error: Exception) -> str:
    """What an error says, in one line without its full stop."""
    return str(error).strip().split("\n")[0].rstrip(".")


def describe(model: Any) -> dict[str, Any]:
    """A PreTrainedModel's architecture and configuration as JSON values, for `rebuild`."""
    described = {
        "architecture": type(model).__name__,
        "config": json.loads(model.config.to_json_string(use_diff=False)),
    }
    if model.can_generate():
        described["generation"] = json.loads(model.generation_config.to_json_string(use_diff=False))
    return described


def write_configuration(model: Any, folder: Path) -> None:
    """Writes `config.json`, and `generation_config.json` of a model that generates, as `from_pretrained` reads them."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = model.dtype
    config.to_json_file(folder / "config.json")
    if model.can_generate():
        model.generation_config.to_json_file(folder / "generation_config.json")


def rebuild(described: dict[str, Any], source: object) -> nn.Module:
    """The untrained model that `describe` described; nothing is downloaded and no code of others runs.

    Raises:
        LimbeckError: where transformers has no such architecture, or it refuses the configuration.
    """
    import transformers

    try:
        name, values = described["architecture"], dict(described["config"])
        architecture: Any = getattr(transformers, str(name), None)
        if not isinstance(architecture, type) or not issubclass(architecture, transformers.PreTrainedModel):
            raise LimbeckError(
                f"{source}: transformers {transformers.__version__} has no model class {name!r}; "
                "build the model yourself and give it as `into`"
            )
        if "use_pretrained_backbone" in values:
            # The weights come from the file beside the card, not from the hub.
            values["use_pretrained_backbone"] = False
        configuration: Any = architecture.config_class
        model: Any = architecture(configuration.from_dict(values))
        if "generation" in described:
            model.generation_config = transformers.GenerationConfig.from_dict(described["generation"])
    except (KeyError, TypeError, AttributeError) as error:
        raise LimbeckError(f"{source}: transformers cannot build the model it describes ({error})") from None
    assert isinstance(model, nn.Module)
    return model
