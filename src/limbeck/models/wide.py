"""Wide ResNets for 32×32 images: wrn-40-2, wrn-16-2 and their kin.

Zagoruyko and Komodakis 2016, arXiv 1605.07146. Structure and parameter counts are those of the CRD
(RepDistiller) and mdistiller experiments.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.models.cifar import he_initialised
from limbeck.models.weights import accept_renamed


class PreActivationBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3×3 convolutions, added to the shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.convShortcut = nn.Conv2d(in_channels, width, 1, stride, bias=False) if in_channels != width else None

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, width, height / stride, width / stride) of (batch, in_channels, height, width)."""
        active = F.relu(self.bn1(inputs))
        shortcut = inputs if self.convShortcut is None else self.convShortcut(active)
        hidden = F.relu(self.bn2(self.conv1(active)))
        added: Tensor = self.conv2(hidden) + shortcut
        return added


class WideResNet(nn.Module):
    """WRN-depth-width: a 16-channel stem and the stages `layer1` to `layer3` of (depth − 4) / 6 blocks each.

    The stages have 16, 32 and 64 times `widen` channels. Inputs (batch, in_channels, height, width), logits
    (batch, classes). Loads the published weights of RepDistiller, whose stages are named `block1.layer`.

    Raises:
        LimbeckError: where depth is not 6n + 4.
    """

    def __init__(self, *, depth: int, widen: int, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        if (depth - 4) % 6 or depth < 10:
            raise LimbeckError(f"depth {depth}: a wide ResNet has 6n + 4 layers, as 16, 28 or 40")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(blocks, 16, 16 * widen, 1)
        self.layer2 = _stage(blocks, 16 * widen, 32 * widen, 2)
        self.layer3 = _stage(blocks, 32 * widen, 64 * widen, 2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64 * widen, num_classes)
        he_initialised(self)
        nn.init.zeros_(self.fc.bias)
        accept_renamed(self, [(r"^block([123])\.layer\.", r"layer\1.")])

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch, classes) of inputs (batch, channels, height, width)."""
        hidden = self.layer3(self.layer2(self.layer1(self.conv1(inputs))))
        logits: Tensor = self.fc(self.avgpool(F.relu(self.bn1(hidden))).flatten(1))
        return logits


def _stage(blocks: int, in_channels: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        PreActivationBlock(in_channels, width, stride),
        *(PreActivationBlock(width, width, 1) for _ in range(blocks - 1)),
    )
