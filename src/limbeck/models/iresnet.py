"""The ResNets of face recognition: a stem that keeps the resolution, BatchNorm before a block's first convolution,
PReLU, and no ReLU behind the sum."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from limbeck.errors import LimbeckError

BLOCKS = {
    "iresnet10": (1, 1, 1, 1),
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}
"""How many blocks each stage has; but for the first, those of InsightFace."""


class FaceBlock(nn.Module):
    """BatchNorm, 3×3 convolution, BatchNorm, PReLU, 3×3 convolution with the stride, BatchNorm; added to the
    shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != width:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, width, height / stride, width / stride) of (batch, in_channels, height, width)."""
        hidden: Tensor = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(inputs))))))
        return hidden + (inputs if self.downsample is None else self.downsample(inputs))


class IResNet(nn.Module):
    """A map (batch, widths[3], height / 16, width / 16) of faces (batch, in_channels, height, width).

    Names are those of InsightFace (Deng et al. 2019, "ArcFace", arXiv:1801.07698, section 3.1), so that its published
    weights load.

    Raises:
        LimbeckError: there are not four widths.
    """

    def __init__(
        self, *, blocks: Sequence[int], in_channels: int = 3, widths: Sequence[int] = (64, 128, 256, 512)
    ) -> None:
        super().__init__()
        if len(widths) != 4 or min(widths) < 1:
            raise LimbeckError(f"iresnet widths: expected the channels of four stages, got {list(widths)}")
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        before = (widths[0], *widths[:3])
        stages = [_stage(*each) for each in zip(blocks, before, widths, strict=True)]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    def forward(self, inputs: Tensor) -> Tensor:
        """The last stage's map of inputs (batch, channels, height, width)."""
        hidden = self.prelu(self.bn1(self.conv1(inputs)))
        last: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        return last


def _stage(blocks: int, in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(FaceBlock(in_channels, width, 2), *(FaceBlock(width, width, 1) for _ in range(blocks - 1)))
