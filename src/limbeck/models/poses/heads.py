"""Heads that find keypoints in the map of a backbone: a heatmap a joint, or a distribution over each coordinate.

A heatmap, or the bins of a coordinate, cover the input evenly: of a map of w columns over an input of W pixels, the
middle of column u is at (u + 0.5) · W / w − 0.5, so that a mirrored input has the mirrored map.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

HEATMAPS = "heatmaps"
SIMCC = ("simcc_x", "simcc_y")


class Deconvolutions(nn.Sequential):
    """Transposed 4×4 convolutions, each with BatchNorm and ReLU, that double a map (batch, channels, rows, columns)."""

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for before, width in zip([channels, *widths], widths, strict=False):
            deconvolution = nn.ConvTranspose2d(before, width, 4, 2, 1, bias=False)
            nn.init.normal_(deconvolution.weight, std=0.001)
            layers += [deconvolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        super().__init__(*layers)
        self.width = widths[-1] if widths else channels


class HeatmapHead(nn.Module):
    """Deconvolutions and a 1×1 convolution: `heatmaps` (batch, joints, rows, columns).

    Xiao, Wu and Wei 2018, "Simple Baselines for Human Pose Estimation and Tracking", arXiv:1804.06208.
    """

    signals = (HEATMAPS,)

    def __init__(self, channels: int, joints: int, deconvolution: Sequence[int]) -> None:
        super().__init__()
        self.deconvolutions = Deconvolutions(channels, deconvolution)
        self.final = nn.Conv2d(self.deconvolutions.width, joints, 1)
        nn.init.normal_(self.final.weight, std=0.001)
        assert self.final.bias is not None
        nn.init.zeros_(self.final.bias)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """From (batch, channels, rows, columns)."""
        return {HEATMAPS: self.final(self.deconvolutions(features))}


class SimCCHead(nn.Module):
    """A 1×1 convolution to a map a joint, and from each a linear layer to the logits of either coordinate's bins:
    `simcc_x` and `simcc_y` (batch, joints, bins).

    `map_size` is that of the features, (rows, columns), and `bins` how many there are of x and of y.

    Li et al. 2022, "SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation", arXiv:2107.03332.
    """

    signals = SIMCC

    def __init__(
        self, channels: int, joints: int, deconvolution: Sequence[int], map_size: tuple[int, int], bins: tuple[int, int]
    ) -> None:
        super().__init__()
        self.deconvolutions = Deconvolutions(channels, deconvolution)
        self.final = nn.Conv2d(self.deconvolutions.width, joints, 1)
        places = map_size[0] * map_size[1] * 4 ** len(deconvolution)
        self.x, self.y = (nn.Linear(places, each) for each in bins)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """From (batch, channels, rows, columns)."""
        maps = self.final(self.deconvolutions(features)).flatten(2)
        return {"simcc_x": self.x(maps), "simcc_y": self.y(maps)}


class KeypointModel(nn.Module):
    """A backbone and a head of keypoints; gives the head's signals for inputs (batch, channels, height, width).

    `backbone` gives a list of maps, of which the head takes the last.
    """

    def __init__(self, backbone: nn.Module, head: HeatmapHead | SimCCHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    @property
    def signals(self) -> tuple[str, ...]:
        """What it gives."""
        return self.head.signals

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """`heatmaps`, or `simcc_x` and `simcc_y`."""
        found: dict[str, Tensor] = self.head(self.backbone(inputs)[-1])
        return found
