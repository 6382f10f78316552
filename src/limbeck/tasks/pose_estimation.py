"""Pose estimation, top-down: where the joints of a person or an animal are in the crop around its box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.losses import HeatmapMSE, SupervisedHeatmaps
from limbeck.metrics.decoding import Decoding
from limbeck.models import Shape, forward_of
from limbeck.models.forward import unwrapped
from limbeck.models.poses import is_vitpose
from limbeck.sources.poses import PoseData, PoseSet, PoseView, load_poses, pose_view
from limbeck.sources.splits import kept_mask
from limbeck.store import LabelStore
from limbeck.tasks.drawn_poses import compared_poses
from limbeck.tasks.image_classification import NormalizeRecipe, expected_preprocessing
from limbeck.tasks.posed import Posed, predict
from limbeck.tasks.stored_views import in_labelled_views
from limbeck.tasks.task import LabelledSettings, Opening, Task, Unmeasured, annotated
from limbeck.teachers import Adapter, adapter
from limbeck.types import UNLABELLED, Batch, Preprocessing

IMAGENET = "imagenet"


class PoseSettings(LabelledSettings):
    """Which poses, as of `limbeck.sources.poses.load_poses`, and how joints are read off.

    `size` is the height and width of the crops, and `normalize` how their pixels reach a model: by name, or `mean` and
    `std`, of as many channels as `channels` says. `augment` is `none`, `pose` (turned, scaled, moved and coloured),
    `pose-flip` (mirrored too), or the bounds of `limbeck.sources.poses.PoseView`. `labelled` keeps the joints of that
    many training poses (an integer; below 1: a share; `all`); the boxes of the others stay known, as from a detector.
    `sigma` is that of heatmaps, in their cells; `decoding` how a joint is found between them: `dark`, `quarter` or
    `cell`; with `flip_test` models are also asked about the mirrored crop.
    """

    size: tuple[int, int] = (256, 192)
    channels: Literal[1, 3] = 3
    normalize: str | NormalizeRecipe = IMAGENET
    padding: float | None = None
    validation: float = Field(default=0.1, gt=0, lt=1)
    test: str | None = None
    images: str | None = None
    category: str | None = None
    image_column: str | None = None
    keypoints_column: str | None = None
    skeleton: dict[str, Any] | None = None
    normaliser: str | tuple[str, str] | None = None
    augment: Any = "none"
    sigma: float = Field(default=2.0, gt=0)
    decoding: Decoding = "dark"
    flip_test: bool = False

    @field_validator("size")
    @classmethod
    def _size(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < 16:
            raise LimbeckError(f"data.size: expected a height and a width of 16 pixels or more, got {list(value)}")
        return value

    @field_validator("augment")
    @classmethod
    def _augment(cls, value: Any) -> Any:
        pose_view(value, "data.augment")
        return value


class CornersAligned:
    """Inputs for a teacher whose heatmaps' corner cells are at the corner pixels of its input, as of ViTPose, moved a
    little so that its heatmaps cover the student's input evenly, as those of all of limbeck's models do.

    Huang et al. 2020, "The Devil is in the Details: Delving into Unbiased Data Processing", arXiv:1911.07524. `stride`
    is how many pixels of the input a cell of the heatmaps has; `before` brings inputs to the teacher's size.
    """

    def __init__(self, stride: int, before: Adapter | None = None) -> None:
        self.stride = stride
        self.before = before

    def __repr__(self) -> str:
        return f"CornersAligned({self.stride}, {self.before!r})"

    def __call__(self, batch: Batch) -> Batch:
        batch = self.before(batch) if self.before is not None else batch
        inputs = batch["inputs"]
        # Of w cells and W pixels: pixel i of the teacher's input is at cell i · (w − 1) / (W − 1), which lies at
        # (cell + 0.5) · W / w − 0.5 here. In coordinates from -1 to 1 over all pixels that is a factor.
        cells = [size // self.stride for size in inputs.shape[:1:-1]]
        factors = [
            (count - 1) / count * size / (size - 1) for count, size in zip(cells, inputs.shape[:1:-1], strict=True)
        ]
        zoom = torch.diag(torch.tensor(factors, device=inputs.device, dtype=inputs.dtype))
        zoom = F.pad(zoom, (0, 1)).expand(len(inputs), 2, 3)
        grid = F.affine_grid(zoom, list(inputs.shape), align_corners=False)
        moved = F.grid_sample(inputs, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return {**batch, "inputs": moved}


def _preprocessing(settings: PoseSettings) -> Preprocessing:
    given = Preprocessing(settings.size, settings.channels, (0.0,), (1.0,))
    found = expected_preprocessing(settings.normalize, None, given)
    assert found is not None
    if found.channels != settings.channels:
        if not isinstance(settings.normalize, str):
            raise LimbeckError(
                f"data.normalize: {found.channels} values for {settings.channels} channels; give one each"
            )
        grey = tuple(sum(values) / len(values) for values in (found.mean, found.std))
        found = replace(found, channels=1, mean=(grey[0],), std=(grey[1],))
    return found


def _load(settings: PoseSettings, _opening: Opening) -> PoseData:
    data = load_poses(
        settings.source,
        _preprocessing(settings),
        validation=settings.validation,
        padding=settings.padding,
        test=settings.test,
        images=settings.images,
        category=settings.category,
        image_column=settings.image_column,
        keypoints_column=settings.keypoints_column,
        skeleton=settings.skeleton,
        normaliser=settings.normaliser,
    )
    if settings.flip_test:
        _sides_known(settings, data, "data.flip_test")
    _view(settings, data, settings.augment, "data.augment")
    return data


def _sides_known(settings: PoseSettings, data: PoseData, where: str) -> None:
    """Raises LimbeckError where pictures are to be mirrored, and nobody says which joints change their names."""
    if not data.skeleton.pairs and "pairs" not in (settings.skeleton or {}):
        raise LimbeckError(
            f"{where}: pictures are mirrored, and no left-right pairs are known of {', '.join(data.classes)}; give "
            "data.skeleton.pairs (an empty list if there are none)"
        )


def _view(settings: PoseSettings, data: PoseData, augment: Any, where: str) -> PoseView | None:
    view = pose_view(augment, where)
    if view is not None and view.flip > 0:
        _sides_known(settings, data, where)
    return view


def _training(settings: PoseSettings, data: PoseData, seed: int, store: LabelStore | None) -> PoseSet:
    """Joints hidden as the recipe says, augmented; where the teacher's labels are stored, the views are those that were
    labelled, in every seed."""
    split = data.train
    if settings.labelled != "all":
        known = (split.labels != UNLABELLED).numpy()
        split = split.with_labels(kept_mask(known, split.ids.numpy(), settings.labelled))
    view = _view(settings, data, settings.augment, "data.augment")
    return split.with_view(view, seed) if store is None else in_labelled_views(split, view, store)


def _teaching(settings: PoseSettings, data: PoseData, augment: Any) -> PoseSet:
    view = _view(settings, data, settings.augment if augment is None else augment, "teacher.augment")
    return data.train.with_view(view, seed=0)


def _labelled(settings: PoseSettings, data: PoseData, views: int) -> list[PoseSet]:
    view = _view(settings, data, settings.augment, "data.augment")
    return [data.train.with_view(view, 0, count=None if view is None else views), data.test]


def _describe(split: PoseSet, data: PoseData) -> str:
    known = int((split.labels != UNLABELLED).sum())
    pictures = len(set(split.poses.rows[split.at].tolist()))
    return f"{len(split):,} poses of {len(data.skeleton)} joints in {pictures:,} pictures, {known:,} of them labelled"


def _shape(data: PoseData) -> Shape:
    given = data.train.preprocessing
    return Shape(len(data.skeleton), given.channels, given.size, "keypoints")


def _expected(data: PoseData, said: Mapping[str, Any], model: nn.Module | None = None) -> Preprocessing | None:
    """How a teacher wants its crops: as its recipe says, else its saved folder, else as ViTPose does."""
    given = data.train.preprocessing
    expected = expected_preprocessing(said.get("normalize"), said.get("size"), given) or said.get("preparation")
    if expected is None and model is not None and _ready_vitpose(model, said):
        inner: Any = unwrapped(model)
        backbone = inner.config.backbone_config
        pixels = replace(given, size=tuple(backbone.image_size), channels=backbone.num_channels)
        expected = expected_preprocessing(IMAGENET, None, pixels)
    return expected


def _ready_vitpose(model: nn.Module, said: Mapping[str, Any]) -> bool:
    """Whether a teacher is a ViTPose that others have trained."""
    return is_vitpose(model) and str(said.get("model")).startswith("hf:") and bool(said.get("pretrained", True))


def _teacher_shape(data: PoseData, said: Mapping[str, Any]) -> Shape:
    own = _expected(data, said) or data.train.preprocessing
    return Shape(len(data.skeleton), own.channels, own.size, "keypoints")


def _adapter(data: PoseData, model: nn.Module | None, said: Mapping[str, Any]) -> Adapter | None:
    """From the student's crops to the teacher's."""
    found = adapter(data.train.preprocessing, _expected(data, said, model))
    if model is None or not _ready_vitpose(model, said):
        return found
    inner: Any = unwrapped(model)
    config = inner.config
    patch = config.backbone_config.patch_size
    return CornersAligned((patch if isinstance(patch, int) else patch[0]) // config.scale_factor, found)


def _predict(
    read: Any, split: PoseSet, *, label: str, workers: int = 0, settings: PoseSettings | None = None
) -> Posed | Unmeasured:
    return predict(read, split, label=label, workers=workers, reading=settings or PoseSettings(source=""))


def _validate(module: nn.Module, split: PoseSet, settings: PoseSettings) -> dict[str, float]:
    quick = settings.model_copy(update={"flip_test": False})
    return _predict(module, split, label="validation", settings=quick).metrics()


def _examples(test: Any, student: Posed, teacher: Posed | Unmeasured, alone: Posed | None) -> dict[str, Any] | None:
    if not isinstance(test, PoseSet) or isinstance(teacher, Unmeasured):
        return None
    others = {"distilled": student} if alone is None else {"alone": alone, "distilled": student}
    return {"compared": compared_poses(test, teacher, others)}


POSE_ESTIMATION = Task(
    name="pose-estimation",
    settings=PoseSettings,
    teacher_keys=frozenset({"normalize", "size", "augment"}),
    main_metric="pck10",
    claimed=("pck10", "oks_ap", "joint_error_share"),
    selection=lambda _data: "pck10",
    terms=lambda settings: (
        {"loss": SupervisedHeatmaps.name, "weight": 0.5, "sigma": settings.sigma},
        {"loss": HeatmapMSE.name, "weight": 0.5},
    ),
    load=_load,
    training=_training,
    alone=annotated,
    teaching=_teaching,
    labelled=_labelled,
    describe=_describe,
    shape=_shape,
    teacher_shape=_teacher_shape,
    adapter=_adapter,
    preparation=lambda data: data.train.preprocessing,
    predict=_predict,
    validate=_validate,
    examples=_examples,
    run=forward_of,
)
