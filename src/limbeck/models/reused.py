"""A student whose head is a learned projector and a classifier of other widths: how it is made, and made again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from limbeck.errors import LimbeckError


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """What a projector and a head are built from; JSON values, so that a saved student can say it.

    Attributes:
        head: the path of the linear layer that gave the student's logits.
        pool: the path of the pooling in front of which maps are projected; empty where the head's input is.
        width, hidden, head_width: of the student's features, of the projector's inside, and of what the head takes.
        classes, bias: of the head.
        size: the (height, width) that maps are pooled to before they are projected; None where they stay as they are.
        rectified: whether projected maps are never negative, as the teacher's after a ReLU.
    """

    head: str
    pool: str
    width: int
    hidden: int
    head_width: int
    classes: int
    bias: bool
    size: tuple[int, int] | None = None
    rectified: bool = True

    @property
    def tap(self) -> str:
        """The path of the projector in a student that `install` changed."""
        return f"{self.pool or self.head}.0"


class HeadProjector(nn.Sequential):
    """From a student's features to those that the head takes; remembers the plan it was built from.

    Vectors (…, width) get a linear layer, LayerNorm, ReLU and a second linear layer. Maps (batch, width, h, w) get the
    projector of SimKD (Chen et al. 2022, arXiv:2203.14001): convolutions of 1×1, 3×3 and 1×1 with BatchNorm, ReLU.
    """

    def __init__(self, plan: HeadPlan) -> None:
        width, hidden, head_width = plan.width, plan.hidden, plan.head_width
        if plan.pool:
            layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(plan.size)] if plan.size is not None else []
            for before, after, kernel in ((width, hidden, 1), (hidden, hidden, 3), (hidden, head_width, 1)):
                convolution = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
                layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
            if not plan.rectified:
                layers.pop()
        else:
            layers = [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, head_width)]
        super().__init__(*layers)
        self.plan = plan


def plan_of(model: nn.Module) -> HeadPlan | None:
    """The plan that the model was changed by; None where it has its own head."""
    return next((module.plan for module in model.modules() if isinstance(module, HeadProjector)), None)


def install(model: nn.Module, plan: HeadPlan) -> nn.Linear:
    """Puts an untrained projector and head into `model`, in place, and gives the head, which takes no gradient.

    Raises:
        LimbeckError: the model has no module at the plan's paths.
    """
    modules = dict(model.named_modules())
    for path in (plan.head, plan.pool or plan.head):
        if path not in modules:
            raise LimbeckError(
                f"{type(model).__name__} has no module {path!r}, where its head was replaced; "
                "build the model with the options it had then"
            )
    like = next(modules[plan.head].parameters())
    projector = HeadProjector(plan).to(like.device, like.dtype).train(model.training)
    head = nn.Linear(plan.head_width, plan.classes, bias=plan.bias).to(like.device, like.dtype).requires_grad_(False)
    if plan.pool:
        model.set_submodule(plan.pool, nn.Sequential(projector, modules[plan.pool]))
        model.set_submodule(plan.head, head)
    else:
        model.set_submodule(plan.head, nn.Sequential(projector, head))
    return head
