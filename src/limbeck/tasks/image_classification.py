"""Image classification: its data and views, and the pictures worth looking at."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import timm
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from limbeck.errors import LimbeckError, nearest
from limbeck.metrics import disagreements
from limbeck.models import Shape, forward_of
from limbeck.sources import Data, ImageSet, build_augmentation, describe, load
from limbeck.sources.splits import labelled_mask
from limbeck.store import LabelStore
from limbeck.tasks.classification import SOFTENED, Classified, answered, predict, quick_metrics
from limbeck.tasks.stored_views import prepared_as_labelled, viewed_as_labelled
from limbeck.tasks.task import LabelledSettings, Opening, Task
from limbeck.teachers import Adapter, adapter
from limbeck.types import Preprocessing

EXAMPLES = 12

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


class ImageSettings(LabelledSettings):
    """Which pictures, and how much of them is labelled.

    `augment` is `none`, `crop`, `crop-flip`, or a list of torchvision.transforms.v2 names with their options.
    """

    size: int | None = Field(default=None, ge=1)
    validation: float = Field(default=0.1, gt=0, lt=1)
    augment: Any = "none"
    image_column: str | None = None
    label_column: str | None = None

    @field_validator("augment")
    @classmethod
    def _augment(cls, value: Any) -> Any:
        build_augmentation(value, 8, "data.augment")
        return value


class NormalizeRecipe(BaseModel):
    """Channel means and standard deviations of pixels in 0…1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[float, ...]
    std: tuple[float, ...]


def expected_preprocessing(
    normalize: str | NormalizeRecipe | None, size: int | None, given: Preprocessing
) -> Preprocessing | None:
    """How a teacher wants its pixels according to its recipe; None where that says nothing.

    Raises:
        LimbeckError: mean and std are not of as many channels, or the normalisation is not known.
    """
    if normalize is None and size is None:
        return None
    pixels = (size, size) if size is not None else given.size
    if normalize is None:
        return dataclasses.replace(given, size=pixels)
    if isinstance(normalize, str):
        if normalize not in NORMALIZATIONS:
            hint = nearest(normalize, NORMALIZATIONS)
            raise LimbeckError(f"teacher.normalize: unknown normalization {normalize!r}{hint}")
        mean, std = NORMALIZATIONS[normalize]
    else:
        mean, std = normalize.mean, normalize.std
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise LimbeckError(f"teacher.normalize: mean and std need 1 or 3 values each, got {len(mean)} and {len(std)}")
    return Preprocessing(size=pixels, channels=len(mean), mean=mean, std=std)


def _load(settings: ImageSettings, opening: Opening) -> Data:
    """The data, normalised as for its label store where there is one."""
    data = load(
        settings.source,
        size=settings.size,
        validation=settings.validation,
        image_column=settings.image_column,
        label_column=settings.label_column,
    )
    return prepared_as_labelled(data, opening.stores, opening.say)


def _augmentation(augment: Any, data: Data, where: str) -> tuple[Any, Any]:
    return build_augmentation(augment, data.train.preprocessing.size[0], where)


def _training(settings: ImageSettings, data: Data, seed: int, store: LabelStore | None) -> ImageSet:
    """Labels hidden as the recipe says, augmented; where the teacher's labels are stored, the views are those that were
    labelled, in every seed."""
    split = data.train
    if settings.labelled != "all":
        mask = labelled_mask(split.labels.numpy(), split.ids.numpy(), len(data.classes), settings.labelled)
        split = split.with_labels(mask)
    view, mixing = _augmentation(settings.augment, data, "data.augment")
    if store is None:
        return split.with_view(view, seed).with_mixing(mixing)
    return viewed_as_labelled(split, view, mixing, store, data)


def _teaching(settings: ImageSettings, data: Data, augment: Any) -> ImageSet:
    augment = settings.augment if augment is None else augment
    view, mixing = _augmentation(augment, data, "teacher.augment")
    return data.train.with_view(view, seed=0).with_mixing(mixing)


def _labelled(settings: ImageSettings, data: Data, views: int) -> list[ImageSet]:
    view, mixing = _augmentation(settings.augment, data, "data.augment")
    count = views if view is not None or mixing is not None else None
    return [data.train.with_view(view, 0, count=count).with_mixing(mixing), data.test]


def _describe(split: ImageSet, data: Data) -> str:
    return describe(split.labels.numpy(), data.classes).text


def _shape(data: Data) -> Shape:
    given = data.train.preprocessing
    return Shape(len(data.classes), given.channels, given.size)


def _expected(data: Data, said: Mapping[str, Any]) -> Preprocessing | None:
    """How a teacher wants its pixels: as its recipe says, else its saved folder."""
    given = data.train.preprocessing
    return expected_preprocessing(said.get("normalize"), said.get("size"), given) or said.get("preparation")


def _teacher_shape(data: Data, said: Mapping[str, Any]) -> Shape:
    own = _expected(data, said) or data.train.preprocessing
    return Shape(len(data.classes), own.channels, own.size)


def _adapter(data: Data, model: nn.Module | None, said: Mapping[str, Any]) -> Adapter | None:
    """From the student's pixels to the teacher's: as its recipe says, else its saved folder, else timm."""
    given, expected = data.train.preprocessing, _expected(data, said)
    if expected is None and model is not None and str(said.get("model")).startswith("timm:") and said.get("pretrained"):
        config = timm.data.resolve_model_data_config(model)
        channels, height, width = config["input_size"]
        expected = Preprocessing((height, width), channels, tuple(config["mean"]), tuple(config["std"]))
    return adapter(given, expected)


def _validate(module: nn.Module, split: ImageSet, _settings: Any) -> dict[str, float]:
    return quick_metrics(predict(module, split, label="validation"))


def _examples(test: Any, student: Classified, teacher: Classified, _alone: Any) -> dict[str, Any] | None:
    """Pictures as base64 PNG, with what teacher and student say: those the student lost, kept and won."""
    if not isinstance(test, ImageSet) or teacher.logits is None or student.logits is None:
        return None
    said, taught = student.logits.softmax(-1), teacher.logits.softmax(-1)

    def entry(index: int) -> dict[str, Any]:
        both = answered(said[index], taught[index], int(student.labels[index]), test.classes)
        return {"png": _png(test.pixels(torch.tensor([index]))[0]), **both}

    chosen = disagreements(student.logits, teacher.logits, student.labels, EXAMPLES)
    return {"classes": list(test.classes), **{group: [entry(i) for i in found] for group, found in chosen.items()}}


def _png(pixels: Tensor) -> str:
    """uint8 (channels, height, width) as a base64 PNG of at least 64 pixels a side."""
    array = pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    factor = -(-64 // min(image.size))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


IMAGE_CLASSIFICATION = Task(
    name="image-classification",
    settings=ImageSettings,
    teacher_keys=frozenset({"normalize", "size", "augment"}),
    main_metric="accuracy",
    claimed=("accuracy", "macro_f1", "nll"),
    selection=lambda _data: "accuracy",
    terms=lambda _settings: SOFTENED,
    load=_load,
    training=_training,
    teaching=_teaching,
    labelled=_labelled,
    describe=_describe,
    shape=_shape,
    teacher_shape=_teacher_shape,
    adapter=_adapter,
    preparation=lambda data: data.train.preprocessing,
    predict=predict,
    validate=_validate,
    examples=_examples,
    run=forward_of,
)
