from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.errors import LimbeckError
from limbeck.models import CifarResNet, CifarVGG, ModelSpec, Shape, WideResNet, build
from limbeck.models.cifar import PadShortcut
from limbeck.models.weights import load_strictly

# Counted in the models of RepDistiller (the code of the CRD paper), built for 100 classes.
PUBLISHED_COUNTS = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn-16-1": 180_916,
    "wrn-16-2": 703_284,
    "wrn-40-1": 569_780,
    "wrn-40-2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
}


def named(name: str, num_classes: int = 100, **options: object) -> torch.nn.Module:
    return build(ModelSpec(name, options), Shape(num_classes, 3, (32, 32)))


@pytest.mark.parametrize(("name", "count"), PUBLISHED_COUNTS.items())
def test_parameter_counts_are_the_papers(name: str, count: int) -> None:
    """A net that differs from the papers' makes a comparison with their numbers worthless."""
    assert sum(parameter.numel() for parameter in named(name).parameters()) == count


@pytest.mark.parametrize(("depth", "count"), [(20, 269_722), (56, 853_018)])
def test_option_a_parameter_counts(depth: int, count: int) -> None:
    """Option A shortcuts have no parameters: 0.27 M and 0.85 M in He et al. 2016, table 6."""
    model = named(f"resnet{depth}", num_classes=10, shortcut="pad")
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet8x4", [(64, 32), (128, 16), (256, 8)]),
        ("wrn-16-2", [(32, 32), (64, 16), (128, 8)]),
        ("vgg8", [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
    ],
)
def test_stages_are_named_and_shaped_as_in_the_papers(name: str, shapes: list[tuple[int, int]]) -> None:
    """Feature terms tap `layer1`, `layer2`, …: a stage renamed or pooled elsewhere breaks such recipes."""
    model = named(name).eval()
    seen: list[tuple[int, ...]] = []
    for index in range(len(shapes)):
        stage = model.get_submodule(f"layer{index + 1}")
        stage.register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape)))
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert seen == [(1, width, size, size) for width, size in shapes]


@pytest.mark.parametrize("name", ["resnet20", "wrn-16-2", "vgg8"])
def test_no_module_writes_over_what_a_tap_holds(name: str) -> None:
    """An in-place ReLU changes the captured output of the layer before it, and a term trains on that."""
    model = named(name)
    held: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    for path, module in model.named_modules():
        if path:
            module.register_forward_hook(
                lambda _module, _inputs, output, path=path: held.append((path, output, output.clone()))
            )
    model(torch.randn(2, 3, 32, 32))
    assert [path for path, now, then in held if not torch.equal(now, then)] == []


def test_pad_shortcut_by_hand() -> None:
    """Zeros on one side, or pixels 1, 3, … for 0, 2, …, cost the published weights their accuracy."""
    inputs = torch.arange(2 * 3 * 3, dtype=torch.float32).reshape(1, 2, 3, 3)
    output = PadShortcut(2, 4, 2)(inputs)
    assert torch.equal(output[0, 0], torch.zeros(2, 2))
    assert torch.equal(output[0, 1], torch.tensor([[0.0, 2.0], [6.0, 8.0]]))
    assert torch.equal(output[0, 2], torch.tensor([[9.0, 11.0], [15.0, 17.0]]))
    assert torch.equal(output[0, 3], torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("model", "renames"),
    [
        (WideResNet(depth=16, widen=1), {f"layer{i}.": f"block{i}.layer." for i in (1, 2, 3)}),
        (
            CifarVGG(convolutions=(1, 1, 1, 1, 1)),
            {**{f"layer{i + 1}.": f"block{i}." for i in range(5)}, "fc.": "classifier."},
        ),
    ],
    ids=["wrn", "vgg"],
)
def test_loads_the_names_of_repdistiller(model: torch.nn.Module, renames: dict[str, str]) -> None:
    """The published teachers of the papers are of no use if their names do not fit."""
    published = {}
    for name, tensor in model.state_dict().items():
        prefix = next((new for new in renames if name.startswith(new)), "")
        published[renames.get(prefix, "") + name.removeprefix(prefix)] = torch.full_like(tensor, 2)
    load_strictly(model, published, "published")
    assert all(torch.all(tensor == 2) for tensor in model.state_dict().values())


def test_wrong_structure_says_what_is_right() -> None:
    """A depth or shortcut that does not exist must not build a net of another depth."""
    with pytest.raises(LimbeckError, match=r"depth 21: a CIFAR ResNet has 6n \+ 2 layers"):
        CifarResNet(depth=21, widths=(16, 16, 32, 64))
    with pytest.raises(LimbeckError, match=r"depth 20: a wide ResNet has 6n \+ 4 layers"):
        WideResNet(depth=20, widen=2)
    with pytest.raises(LimbeckError, match=r"unknown shortcut 'pat'; did you mean 'pad'"):
        named("resnet20", shortcut="pat")
    with pytest.raises(LimbeckError, match="needs 8×8 pixels"):
        CifarVGG(convolutions=(1, 1, 1, 1, 1), image_size=(4, 4))


@pytest.fixture(scope="module")
def data_root() -> Path:
    root = Path(os.environ.get("LIMBECK_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    if not (root / "models").is_dir():
        pytest.skip(f"{root} not found: set LIMBECK_DATA")
    return root


def test_published_weights_classify(data_root: Path) -> None:
    """Weights that load but meet other shortcuts or BatchNorms give chance, not the published 93.4 %."""
    weights = data_root / "models" / "cifar10_resnet56-4bfd9763.th"
    model = named("resnet56", num_classes=10, shortcut="pad", weights=str(weights)).eval()
    images, labels = [], []
    with zipfile.ZipFile(data_root / "vision" / "cifar10.zip") as archive:
        for label, name in enumerate(json.loads(archive.read("meta.json"))["fine_label_names"]):
            grid = np.asarray(Image.open(io.BytesIO(archive.read(f"test/{name}.webp"))).convert("RGB"))
            tiles = grid.reshape(-1, 32, grid.shape[1] // 32, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
            images.append(tiles[:50])
            labels += [label] * 50
    pixels = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        predicted = model((pixels - mean[:, None, None]) / std[:, None, None]).argmax(1)
    assert (predicted == torch.tensor(labels)).float().mean() > 0.9


def test_published_resnet20_loads_strictly(data_root: Path) -> None:
    """The other published net: its names begin with `module.` and its classifier is called `linear`."""
    weights = data_root / "models" / "cifar10_resnet20-12fca82f.th"
    model = named("resnet20", num_classes=10, shortcut="pad", weights=weights)
    held = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
    assert torch.equal(model.get_parameter("fc.weight"), held["module.linear.weight"])
    with pytest.raises(LimbeckError, match=r"resnet20-12fca82f\.th: .* missing \(layer2\.0\.downsample\.0\.weight"):
        named("resnet20", num_classes=10, weights=weights)
