"""The ResNets for 32×32 images that distillation papers compare on: resnet20 to 110, resnet8x4, resnet32x4.

Structure, names and parameter counts are those of the CRD (RepDistiller) and mdistiller experiments with
`shortcut="conv"`, and those of He et al. 2016 (arXiv 1512.03385), section 4.2, with `shortcut="pad"` (its
option A).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import LimbeckError, nearest
from limbeck.models.weights import accept_renamed

Shortcut = Literal["conv", "pad"]


class PadShortcut(nn.Module):
    """Every `stride`-th pixel, with zeros for new channels, half before and half after: no parameters."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (width - in_channels) // 2
        self.after = width - in_channels - self.before

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, width, ⌈height / stride⌉, ⌈width / stride⌉) of (batch, in_channels, height, width)."""
        return F.pad(inputs[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm, added to the shortcut, then ReLU."""

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != width:
            self.downsample = (
                PadShortcut(in_channels, width, stride)
                if shortcut == "pad"
                else nn.Sequential(nn.Conv2d(in_channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, width, height / stride, width / stride) of (batch, in_channels, height, width)."""
        # Nothing works in place: a tap may hold the output of any module here.
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.downsample(inputs))


class CifarResNet(nn.Module):
    """A ResNet of `depth` = 6n + 2 layers: a 3×3 stem and the stages `layer1` to `layer3` of n blocks each.

    `widths` are the channels of the stem and the three stages. Inputs (batch, in_channels, height, width),
    logits (batch, classes). Loads the published weights of RepDistiller, and of akamaster's option A nets
    (`shortcut="pad"`).

    Raises:
        LimbeckError: where depth is not 6n + 2 or the shortcut is not known.
    """

    def __init__(
        self,
        *,
        depth: int,
        widths: tuple[int, int, int, int],
        num_classes: int = 100,
        in_channels: int = 3,
        shortcut: Shortcut = "conv",
    ) -> None:
        super().__init__()
        if (depth - 2) % 6 or depth < 8:
            raise LimbeckError(f"depth {depth}: a CIFAR ResNet has 6n + 2 layers, as 8, 20, 32, 56 or 110")
        if shortcut not in ("conv", "pad"):
            raise LimbeckError(f"unknown shortcut {shortcut!r}{nearest(str(shortcut), ('conv', 'pad'))}")
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        blocks = (depth - 2) // 6
        self.layer1 = _stage(blocks, widths[0], widths[1], 1, shortcut)
        self.layer2 = _stage(blocks, widths[1], widths[2], 2, shortcut)
        self.layer3 = _stage(blocks, widths[2], widths[3], 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        he_initialised(self)
        # akamaster's weights call the classifier `linear`.
        accept_renamed(self, [(r"^linear\.", "fc.")])

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch, classes) of inputs (batch, channels, height, width)."""
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        logits: Tensor = self.fc(self.avgpool(hidden).flatten(1))
        return logits


def _stage(blocks: int, in_channels: int, width: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, width, stride, shortcut),
        *(BasicBlock(width, width, 1, shortcut) for _ in range(blocks - 1)),
    )


def he_initialised(model: nn.Module) -> None:
    """Draws the weights of convolutions from N(0, 2 / fan_out), zeroes biases (He et al. 2015, eq. 14)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
