"""The small pairs of the seed experiments: dense and convolutional nets for digit-sized images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from limbeck.errors import LimbeckError

LARGEST_GRID = 7
"""The head of a ConvNet sees at most 7×7 cells, so that its size does not grow with the image."""


def _dense(in_features: int, hidden: Sequence[int], num_classes: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden:
        layers += [nn.Linear(in_features, width), nn.ReLU()]
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, num_classes))


def dense_teacher(*, in_features: int = 784, num_classes: int = 10, hidden: Sequence[int] = (128, 64)) -> nn.Sequential:
    """784→128→64→10 with ReLU. Inputs (batch, …) of `in_features` values each, logits (batch, classes)."""
    return _dense(in_features, hidden, num_classes)


def dense_student(*, in_features: int = 784, num_classes: int = 10, hidden: Sequence[int] = (64,)) -> nn.Sequential:
    """784→64→10 with ReLU. Inputs (batch, …) of `in_features` values each, logits (batch, classes)."""
    return _dense(in_features, hidden, num_classes)


class ConvNet(nn.Module):
    """Two stages of 3×3 convolution, BatchNorm, ReLU and 2×2 pooling; a head of at most one hidden layer.

    Inputs (batch, in_channels, height, width), logits (batch, classes). `layer1` and `layer2` give (batch,
    widths[i], height / 2^(i+1), width / 2^(i+1)). `dense` is the width of the hidden layer, 0 for none;
    `dropout` comes before each linear layer. Built for `image_size`, it takes other sizes too.

    Raises:
        LimbeckError: where the image is smaller than 4×4, which two poolings leave nothing of.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, int],
        dense: int,
        dropout: float,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
    ) -> None:
        super().__init__()
        if min(image_size) < 4:
            raise LimbeckError(
                f"image_size {tuple(image_size)}: a convolutional pair needs 4×4 pixels or more; "
                "resize the images or take a dense pair"
            )
        self.layer1 = self._stage(in_channels, widths[0])
        self.layer2 = self._stage(widths[0], widths[1])
        grid = (min(image_size[0] // 4, LARGEST_GRID), min(image_size[1] // 4, LARGEST_GRID))
        features = widths[1] * grid[0] * grid[1]
        hidden = [nn.Dropout(dropout), nn.Linear(features, dense), nn.ReLU()] if dense else []
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.head = nn.Sequential(nn.Flatten(), *hidden, nn.Dropout(dropout), nn.Linear(dense or features, num_classes))

    @staticmethod
    def _stage(in_channels: int, width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch, classes) of inputs (batch, channels, height, width)."""
        logits: Tensor = self.head(self.pool(self.layer2(self.layer1(inputs))))
        return logits


def _two(widths: Sequence[int]) -> tuple[int, int]:
    if len(widths) != 2 or min(widths) < 1:
        raise LimbeckError(f"widths: expected the channels of both stages, two numbers above 0, got {list(widths)}")
    return (int(widths[0]), int(widths[1]))


def conv_teacher(
    *,
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: tuple[int, int] = (28, 28),
    dropout: float = 0.3,
    widths: Sequence[int] = (32, 64),
    dense: int = 128,
) -> ConvNet:
    """32 and 64 channels, 128 hidden units: 421,834 parameters for 1×28×28 and 10 classes."""
    return ConvNet(
        widths=_two(widths),
        dense=dense,
        dropout=dropout,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
    )


def conv_student(
    *,
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: tuple[int, int] = (28, 28),
    dropout: float = 0.0,
    widths: Sequence[int] = (16, 32),
    dense: int = 0,
) -> ConvNet:
    """16 and 32 channels, no hidden layer: 20,538 parameters for 1×28×28 and 10 classes."""
    return ConvNet(
        widths=_two(widths),
        dense=dense,
        dropout=dropout,
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
    )
