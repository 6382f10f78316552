"""Focal and global distillation: maps where objects are and where not, and what connects their positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import full_precision, not_negative, positive, precise, unbuilt
from limbeck.types import UNLABELLED, Batch


def fgd(
    student: Tensor,
    teacher: Tensor,
    boxes: Tensor,
    box_classes: Tensor,
    size: tuple[int, int],
    annotated: Tensor | None = None,
    relations: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None = None,
    *,
    temperature: float = 0.5,
    alpha: float = 0.001,
    beta: float = 0.0005,
    gamma: float = 0.001,
    lam: float = 0.000005,
) -> Tensor:
    """α · focal loss in boxes + β · that outside + γ · attention loss + λ · global loss.

    The focal losses are Σ M · A_s · A_c · (s − t)², with the teacher's spatial and channel attention A and M: in a box
    one over its area (the smallest box counts), outside one over the positions outside. The attention loss is the sum
    of absolute differences of both attentions, the global loss that of squares after the relation blocks.

    Args:
        student: (batch, channels, height, width), a level of a pyramid.
        teacher: the same shape; never receives a gradient.
        boxes: (batch, most, 4), xyxy in pixels of the input.
        box_classes: (batch, most) int64; below 0 where a row is no box.
        size: height and width of the input in pixels.
        annotated: (batch,) boolean: where no boxes are known there are no focal losses; None where all are.
        relations: the relation blocks of student and teacher, which keep the shape; None leaves them out.
        temperature: T > 0, of both attentions.
        alpha, beta, gamma, lam: the weights, not negative.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit, or a setting is out of range.

    Yang et al. 2022, "Focal and Global Knowledge Distillation for Detectors", arXiv:2111.11837, equations 4 to 13.
    """
    same_shape(student, teacher, "fgd")
    if student.dim() != 4:
        raise LimbeckError(f"fgd: expected maps (batch, channels, height, width), got shape {tuple(student.shape)}")
    positive(temperature, "fgd temperature")
    for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma), ("lambda", lam)):
        not_negative(value, f"fgd {name}")
    own, taught = precise(student), precise(teacher.detach())
    inside, outside = regions(boxes, box_classes, size, (student.shape[2], student.shape[3]))
    spatial, channel = attentions(taught, temperature)
    own_spatial, own_channel = attentions(own, temperature)
    squares = ((own - taught).square() * channel[:, :, None, None]).sum(1) * spatial
    focal = (squares * (alpha * inside + beta * outside).to(squares.dtype)).sum((1, 2))
    if annotated is not None:
        focal = torch.where(annotated, focal, 0.0)
    attention = (own_spatial - spatial).abs().sum((1, 2)) + (own_channel - channel).abs().sum(1)
    values = focal + gamma * attention
    if relations is not None and lam:
        related = precise(relations[0](own)) - precise(relations[1](taught))
        values = values + lam * related.square().sum((1, 2, 3))
    return values


def attentions(maps: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """How much of (batch, channels, height, width) is at each position, (batch, height, width), and in each channel,
    (batch, channels): softmax of mean magnitudes, times their number."""
    magnitude = maps.abs()
    batch, channels, height, width = maps.shape
    spatial = (magnitude.mean(1).flatten(1) / temperature).softmax(1) * (height * width)
    channel = (magnitude.mean((2, 3)) / temperature).softmax(1) * channels
    return spatial.view(batch, height, width), channel


def regions(boxes: Tensor, box_classes: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """How much each position of a grid counts as inside of boxes, one over the area of the smallest box there, and as
    outside, one over the positions outside; both (batch, rows, columns)."""
    scale = boxes.new_tensor([grid[1] / size[1], grid[0] / size[0]])
    low = (boxes[..., :2] * scale).floor()
    high = (boxes[..., 2:] * scale).ceil()
    # As in the authors' code both ends count, so that a box has at least one position.
    share = 1.0 / (high - low + 1.0).clamp(min=1.0).prod(-1)
    share = share.masked_fill(box_classes < 0, 0.0)
    rows = torch.arange(grid[0], device=boxes.device)
    columns = torch.arange(grid[1], device=boxes.device)
    across = (columns >= low[..., :1]) & (columns <= high[..., :1])
    down = (rows >= low[..., 1:]) & (rows <= high[..., 1:])
    within = (down[..., :, None] & across[..., None, :]) * share[..., None, None]
    within = torch.cat([within, within.new_zeros(len(boxes), 1, *grid)], 1)  # a batch may have no boxes at all
    inside = within.amax(1)
    free = (inside == 0).to(inside.dtype)
    return inside, free / free.sum((1, 2), keepdim=True).clamp(min=1.0)


class RelationBlock(nn.Module):
    """A map with what its positions have in common added: their mean, weighted by a learned attention, after two 1×1
    convolutions (GcBlock: Cao et al. 2019, arXiv:1904.11492). It begins as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = max(1, channels // 2)
        self.attention = nn.Conv2d(channels, 1, kernel_size=1)
        nn.init.kaiming_normal_(self.attention.weight, mode="fan_in", nonlinearity="relu")
        assert self.attention.bias is not None
        nn.init.zeros_(self.attention.bias)
        last = nn.Conv2d(half, channels, kernel_size=1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, half, kernel_size=1), nn.LayerNorm([half, 1, 1]), nn.ReLU(), last
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, channels, height, width) of the same shape."""
        weights = self.attention(maps).flatten(2).softmax(-1)
        context = (maps.flatten(2) * weights).sum(-1)[:, :, None, None]
        related: Tensor = maps + self.transform(context)
        return related


class FGD(Loss):
    """`fgd` with its weights and relation blocks; a term for each level of the pyramid, which takes the boxes of the
    batch."""

    name = "fgd"
    inputs: tuple[LossInput, ...] = ("teacher", "batch")
    wants = "pyramid"

    def __init__(
        self,
        temperature: float = 0.5,
        alpha: float = 0.001,
        beta: float = 0.0005,
        gamma: float = 0.001,
        lam: float = 0.000005,
    ) -> None:
        super().__init__()
        self.temperature = positive(temperature, "FGD temperature")
        weights = {"alpha": alpha, "beta": beta, "gamma": gamma, "lam": lam}
        self.weights = {name: not_negative(value, f"FGD {name}") for name, value in weights.items()}
        self.relations: nn.ModuleList | None = None

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """The relation blocks of student and teacher, of the teacher's channels."""
        if isinstance(teacher, Tensor) and teacher.dim() == 4:
            blocks = [RelationBlock(teacher.shape[1]) for _ in range(2)]
            self.relations = nn.ModuleList(blocks).to(teacher.device)

    def forward(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """(batch,) from maps (batch, channels, height, width) and a batch with `boxes` and `box_classes`."""
        if self.relations is None:
            raise unbuilt("FGD")
        if "boxes" not in batch or "box_classes" not in batch:
            raise LimbeckError(f"fgd: the batch has {', '.join(batch)}, but no boxes; it is for object detection")
        height, width = batch["inputs"].shape[-2:]
        labels = batch.get("labels")
        with full_precision(student):
            return fgd(
                student,
                teacher,
                batch["boxes"],
                batch["box_classes"],
                (height, width),
                None if labels is None else labels != UNLABELLED,
                (self.relations[0], self.relations[1]),
                temperature=self.temperature,
                **self.weights,
            )
