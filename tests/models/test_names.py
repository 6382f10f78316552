from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models import ModelSpec, Shape, build, known_models, save
from limbeck.types import Preprocessing

GREY = Preprocessing(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))


def digits(name: str, **options: object) -> nn.Module:
    return build(ModelSpec(name, options), Shape(10, 1, (8, 8)))


def photos(name: str, num_classes: int = 5, size: int = 32, **options: object) -> nn.Module:
    return build(ModelSpec(name, options), Shape(num_classes, 3, (size, size)))


@pytest.mark.parametrize("name", known_models("images"))
def test_every_built_in_fits_small_grey_images(name: str) -> None:
    """A name in the list that cannot be built, or only for 3×32×32, is a promise broken."""
    model = digits(name)
    assert model.training
    assert model.eval()(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_unknown_names_give_the_nearest() -> None:
    """`No X registered`, without a suggestion, sends the user into the source."""
    with pytest.raises(LimbeckError, match=r"unknown model 'resnet8x3'; did you mean 'resnet8x4'.*timm:NAME"):
        digits("resnet8x3")
    with pytest.raises(LimbeckError, match=r"'conv-student' takes no option 'droput'; did you mean 'dropout'"):
        digits("conv-student", droput=0.1)
    with pytest.raises(LimbeckError, match=r"'conv-student': 'num_classes' comes from the data"):
        digits("conv-student", num_classes=3)
    with pytest.raises(LimbeckError, match=r"timm has no model 'resnt18'; did you mean 'resnet18'"):
        photos("timm:resnt18")
    with pytest.raises(LimbeckError, match=r"torchvision has no classification model 'resnet81'; did you mean"):
        photos("torchvision:resnet81")
    with pytest.raises(LimbeckError, match=r"'resnet20' takes no option 'depth'"):
        digits("resnet20", depth=14)


def test_options_reach_the_model() -> None:
    """An option that is accepted and not used is the worst kind."""
    model = digits("conv-teacher", dropout=0.25)
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.25}


def test_timm() -> None:
    """Classes, channels and options must reach timm."""
    model = digits("timm:mobilenetv3_small_050", drop_rate=0.4)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 10)
    assert model.drop_rate == 0.4
    with pytest.raises(LimbeckError, match=r"'timm:resnet10t': an option does not fit \(.*bogus"):
        photos("timm:resnet10t", bogus=1)
    with pytest.raises(LimbeckError, match="'in_chans' comes from the data"):
        photos("timm:resnet10t", in_chans=1)


def test_torchvision() -> None:
    """Its models take RGB only, its pretrained ones ImageNet's classes: both must be said beforehand."""
    assert photos("torchvision:resnet18").eval()(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(LimbeckError, match=r"takes 3 input channels, the data have 1; convert .* timm:"):
        digits("torchvision:resnet18")
    with pytest.raises(LimbeckError, match=r"the pretrained weights have 1000 classes, the data 5"):
        photos("torchvision:resnet18", pretrained=True)
    with pytest.raises(LimbeckError, match=r"an option does not fit \(.*bogus"):
        photos("torchvision:resnet18", bogus=True)


@pytest.fixture
def vit_folder(tmp_path: Path) -> Path:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
    )
    config.num_labels = 5
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_huggingface_folder(vit_folder: Path) -> None:
    """The weights of the folder must arrive, not a fresh model of the same shape."""
    model = photos(f"hf:{vit_folder}", size=8)
    expected = transformers.ViTForImageClassification.from_pretrained(vit_folder)
    assert model.training
    assert torch.equal(model.get_parameter("classifier.weight"), expected.classifier.weight)
    fresh = photos(f"hf:{vit_folder}", size=8, pretrained=False)
    assert not torch.equal(fresh.get_parameter("classifier.weight"), expected.classifier.weight)


def test_huggingface_other_classes(vit_folder: Path) -> None:
    """Another number of classes must not pass by dropping the head in silence."""
    with pytest.raises(LimbeckError, match=r"has 5 classes, the data 7; .*ignore_mismatched_sizes"):
        photos(f"hf:{vit_folder}", num_classes=7, size=8)
    model = photos(f"hf:{vit_folder}", num_classes=7, size=8, ignore_mismatched_sizes=True)
    assert model.eval()(torch.randn(1, 3, 8, 8)).logits.shape == (1, 7)
    with pytest.raises(LimbeckError, match="takes 3 input channels, the data have 1"):
        build(ModelSpec(f"hf:{vit_folder}"), Shape(5, 1, (8, 8)))


def test_huggingface_from_a_model_type() -> None:
    """Without the hub a model type and its values are the only way to a fresh transformers model."""
    values = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
    model = digits("hf:vit", pretrained=False, config=values)
    assert model.eval()(torch.randn(2, 1, 8, 8)).logits.shape == (2, 10)
    with pytest.raises(LimbeckError, match=r"its configuration has no 'hiden_size'; did you mean 'hidden_size'"):
        digits("hf:vit", pretrained=False, config={"hiden_size": 16})
    with pytest.raises(LimbeckError, match=r"takes no option 'pretrain'; did you mean 'pretrained'"):
        digits("hf:vit", pretrain=False)


def test_huggingface_broken_or_of_another_task(vit_folder: Path) -> None:
    """A weights file cut short, or a model that cannot classify images, must give one line as all else does."""
    weights = vit_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(LimbeckError, match=r"could not be built \(.*; check that its files are whole") as error:
        photos(f"hf:{vit_folder}", size=8)
    assert "\n" not in str(error.value)
    with pytest.raises(LimbeckError, match="has it for image classification"):
        photos("hf:bert", pretrained=False)


def test_huggingface_missing(tmp_path: Path) -> None:
    """A folder without a model gives many lines of transformers; the command line prints one."""
    with pytest.raises(LimbeckError, match=r"could not be had \(.*; give a folder that save_pretrained wrote") as error:
        photos(f"hf:{tmp_path}")
    assert "\n" not in str(error.value)


def test_python_names_need_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe from a stranger must not run code because it names some."""
    mark = tmp_path / "ran"
    (tmp_path / "stranger_models.py").write_text(
        f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nfrom torch import nn\n"
        "def net(num_classes, in_features, width=3):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(in_features, width), "
        "nn.Linear(width, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = ModelSpec("python:stranger_models:net", {"width": 4})
    with pytest.raises(LimbeckError, match="give --trust-code"):
        build(spec, Shape(2, 1, (2, 2)))
    assert not mark.exists()
    assert "stranger_models" not in sys.modules

    model = build(spec, Shape(2, 1, (2, 2)), trust_code=True)
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(4, 4), (4,), (2, 4), (2,)]
    for name, message in {
        "python:stranger_models:nett": "has no function 'nett'; did you mean 'net'",
        "python:no_such_module:net": "No module named 'no_such_module'",
        "python:stranger_models": "expected python:package.module:function",
    }.items():
        with pytest.raises(LimbeckError, match=message):
            build(ModelSpec(name), Shape(2, 1, (2, 2)), trust_code=True)


def test_a_saved_folder_by_its_path(tmp_path: Path) -> None:
    """Yesterday's teacher is named by its folder, and must be checked against today's data."""
    model = digits("conv-student")
    save(
        model,
        tmp_path / "m",
        spec=ModelSpec("conv-student"),
        classes=[str(n) for n in range(10)],
        preprocessing=GREY,
    )
    built = digits(str(tmp_path / "m"))
    assert built.training
    assert torch.equal(built.get_parameter("head.2.weight"), model.get_parameter("head.2.weight"))
    with pytest.raises(LimbeckError, match="the saved model has 10 classes, the data 5"):
        build(ModelSpec(str(tmp_path / "m")), Shape(5, 1, (8, 8)))
    with pytest.raises(LimbeckError, match="takes 1 input channels, the data have 3"):
        build(ModelSpec(str(tmp_path / "m")), Shape(10, 3, (8, 8)))
    with pytest.raises(LimbeckError, match="takes no option 'dropout'"):
        digits(str(tmp_path / "m"), dropout=0.1)
    with pytest.raises(LimbeckError, match=r"a folder without limbeck\.json; for a transformers folder write hf:"):
        digits(str(tmp_path))


def test_weights_option(tmp_path: Path) -> None:
    """Weights of another width must name the file and the tensor, not pass or print a page."""
    model = digits("dense-student")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    loaded = digits("dense-student", weights=tmp_path / "w.safetensors")
    assert torch.equal(loaded.get_parameter("1.weight"), model.get_parameter("1.weight"))
    with pytest.raises(LimbeckError, match=r"w\.safetensors: does not fit Sequential: size mismatch for 1\.weight"):
        digits("dense-student", hidden=[32], weights=tmp_path / "w.safetensors")
