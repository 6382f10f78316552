"""VGG nets with BatchNorm for 32×32 images: vgg8 to vgg19 without the large dense layers.

Structure and parameter counts are those of the CRD (RepDistiller) and mdistiller experiments
(after Simonyan and Zisserman 2015, arXiv 1409.1556).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.cifar import he_initialised
from limbeck.models.weights import accept_renamed

WIDTHS = (64, 128, 256, 512, 512)


class CifarVGG(nn.Module):
    """Five stages `layer1` to `layer5` of 3×3 convolutions, then the mean and one linear layer.

    2×2 pooling follows each of the first three stages.

    `convolutions` counts those of each stage. Inputs (batch, in_channels, height, width), logits (batch,
    classes). Loads the published weights of RepDistiller, whose stages are `block0` to `block4` and whose
    head is `classifier`.

    Raises:
        LimbeckError: where the image is smaller than 8×8, which three poolings leave nothing of.
    """

    def __init__(
        self,
        *,
        convolutions: Sequence[int],
        num_classes: int = 100,
        in_channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
    ) -> None:
        super().__init__()
        if min(image_size) < 8:
            raise LimbeckError(f"image_size {tuple(image_size)}: a VGG needs 8×8 pixels or more; resize the images")
        channels = (in_channels, *WIDTHS)
        stages = [_stage(count, channels[index], channels[index + 1]) for index, count in enumerate(convolutions)]
        self.layer1, self.layer2, self.layer3, self.layer4, self.layer5 = stages
        self.pool = nn.MaxPool2d(2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTHS[-1], num_classes)
        he_initialised(self)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
        renames = [(rf"^block{index}\.", f"layer{index + 1}.") for index in range(5)]
        accept_renamed(self, [*renames, (r"^classifier\.", "fc.")])

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch, classes) of inputs (batch, channels, height, width)."""
        hidden = self.pool(self.layer1(inputs))
        hidden = self.pool(self.layer2(hidden))
        hidden = self.pool(self.layer3(hidden))
        hidden = self.avgpool(self.layer5(self.layer4(hidden)))
        logits: Tensor = self.fc(hidden.flatten(1))
        return logits


def _stage(convolutions: int, in_channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        in_channels = width
    return nn.Sequential(*layers)
