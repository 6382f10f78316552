from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models import ModelSpec, Shape, build, known_models, load, read_card, save
from limbeck.types import Preprocessing

CLASSES = tuple("abc")
SMALL = Preprocessing(size=(16, 16), channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def shaken(model: nn.Module) -> nn.Module:
    """The model with every tensor moved, BatchNorm statistics too, so that a part left unsaved shows."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.add_(1) if not tensor.is_floating_point() else tensor.mul_(1 + 0.1 * torch.rand_like(tensor))
    return model.eval()


def small(name: str, **options: object) -> nn.Module:
    return shaken(build(ModelSpec(name, options), Shape(3, 3, SMALL.size)))


@pytest.mark.parametrize("name", [*known_models("images"), "timm:mobilenetv3_small_050", "torchvision:squeezenet1_1"])
def test_round_trip_is_equal_to_the_bit(tmp_path: Path, name: str) -> None:
    """A tensor that is not saved, or a spec that builds another net, changes what was measured."""
    model = small(name)
    save(model, tmp_path / "m", spec=ModelSpec(name), classes=CLASSES, preprocessing=SMALL)
    loaded = load(tmp_path / "m")
    inputs = torch.randn(2, 3, 32, 32) if "squeezenet" in name else torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(loaded(inputs), model(inputs))
    assert not loaded.training


def test_card_round_trip(tmp_path: Path) -> None:
    """Classes in another order or another mean turn a good model into a bad one after loading."""
    spec = ModelSpec("resnet8", {"shortcut": "pad"})
    model = small("resnet8", shortcut="pad")
    save(model, tmp_path / "m", spec=spec, classes=CLASSES, preprocessing=SMALL, task="t", about={"seed": 3})
    card = read_card(tmp_path / "m")
    assert (card.spec, card.classes, card.preprocessing) == (spec, CLASSES, SMALL)
    assert (card.task, card.about) == ("t", {"seed": 3})
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["limbeck.json", "model.safetensors"]


def test_loading_needs_neither_weights_file_nor_download(tmp_path: Path) -> None:
    """A saved model that still needs the file or the hub it began from cannot be shipped."""
    begin = tmp_path / "begin.pt"
    torch.save(small("resnet8").state_dict(), begin)
    model = small("resnet8", weights=begin)
    save(
        model,
        tmp_path / "m",
        spec=ModelSpec("resnet8", {"weights": begin}),
        classes=CLASSES,
        preprocessing=SMALL,
    )
    begin.unlink()
    load(tmp_path / "m")

    timm = small("timm:mobilenetv3_small_050")
    spec = ModelSpec("timm:mobilenetv3_small_050", {"pretrained": True})
    save(timm, tmp_path / "t", spec=spec, classes=CLASSES, preprocessing=SMALL)
    load(tmp_path / "t")


def test_a_model_that_began_as_a_saved_folder_stands_alone(tmp_path: Path) -> None:
    """The teacher's folder is deleted after training; the student that began from it must still load."""
    save(
        small("conv-student"),
        tmp_path / "a",
        spec=ModelSpec("conv-student"),
        classes=CLASSES,
        preprocessing=SMALL,
    )
    began = ModelSpec(str(tmp_path / "a"))
    model = build(began, Shape(3, 3, SMALL.size))
    save(model, tmp_path / "b", spec=began, classes=CLASSES, preprocessing=SMALL)
    (tmp_path / "a" / "limbeck.json").unlink()
    assert read_card(tmp_path / "b").spec == ModelSpec("conv-student")
    load(tmp_path / "b")


@pytest.mark.parametrize(
    "model",
    [
        transformers.ViTForImageClassification(
            transformers.ViTConfig(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, num_labels=3
            )
        ),
        transformers.BertForQuestionAnswering(
            transformers.BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        ),
        transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2, eos_token_id=7)
        ),
    ],
    ids=["vit", "bert-qa", "gpt2-tied"],
)
def test_transformers_models_carry_their_configuration(tmp_path: Path, model: transformers.PreTrainedModel) -> None:
    """No hub at loading time, and tied embeddings must load as one."""
    shaken(model)
    save(model, tmp_path / "m", spec=None, classes=(), preprocessing=None, task="any")
    loaded = load(tmp_path / "m")
    assert type(loaded) is type(model)
    assert loaded.config.to_dict() == model.config.to_dict()
    for (name, saved), (other, got) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(saved, got)
    if isinstance(loaded, transformers.GPT2LMHeadModel):
        assert loaded.lm_head.weight is loaded.transformer.wte.weight
        assert loaded.generation_config.eos_token_id == 7


def test_an_own_module_loads_into_one_like_it(tmp_path: Path) -> None:
    """Nothing but the user's code can build the user's module; the error must say what to do."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    save(model, tmp_path / "m", spec=None, classes=CLASSES, preprocessing=None)
    with pytest.raises(LimbeckError, match=r"saved without a spec, .* load\(folder, into=model\)"):
        load(tmp_path / "m")
    into = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert load(tmp_path / "m", into=into) is into
    assert torch.equal(into[0].weight, model[0].weight)
    with pytest.raises(LimbeckError, match=r"model\.safetensors: does not fit Sequential: size mismatch"):
        load(tmp_path / "m", into=nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)))
    with pytest.raises(LimbeckError, match=r"names do not fit Linear: 2 missing \(weight, bias\), 7 unexpected"):
        load(tmp_path / "m", into=nn.Linear(3, 4))


def test_broken_folders_give_one_line(tmp_path: Path) -> None:
    """A copy that broke off, an older format, a stranger's folder: each names the file."""
    folder = tmp_path / "m"
    save(small("conv-student"), folder, spec=ModelSpec("conv-student"), classes=CLASSES, preprocessing=SMALL)
    card, weights = folder / "limbeck.json", folder / "model.safetensors"
    text, tensors = card.read_text(), weights.read_bytes()

    weights.write_bytes(tensors[: len(tensors) // 2])
    with pytest.raises(LimbeckError, match=r"model\.safetensors: not a whole safetensors file"):
        load(folder)
    weights.unlink()
    with pytest.raises(LimbeckError, match=r"model\.safetensors: no such file"):
        load(folder)
    weights.write_bytes(tensors)
    for broken, message in {
        text[:50]: "not valid JSON",
        "[]": "expected format 'limbeck-model/1', got 'list'",
        text.replace("limbeck-model/1", "limbeck-model/9"): "got 'limbeck-model/9'",
        text.replace('"classes"', '"klasses"'): r"not a whole model card \(KeyError\('classes'\)\)",
        text.replace('"channels"', '"chanels"'): "not a whole model card",
        text.replace('"conv-student"', '"conv-stud"'): "did you mean 'conv-student'",
    }.items():
        card.write_text(broken)
        with pytest.raises(LimbeckError, match=message) as error:
            load(folder)
        assert "\n" not in str(error.value)
    with pytest.raises(LimbeckError, match=r"no limbeck\.json in it"):
        read_card(tmp_path)


def test_python_specs_load_only_with_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model folder from a stranger must not run the code that its card names."""
    (tmp_path / "own_models_of_a_user.py").write_text(
        "from torch import nn\ndef net(num_classes):\n    return nn.Linear(2, num_classes)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = ModelSpec("python:own_models_of_a_user:net")
    save(nn.Linear(2, 3), tmp_path / "m", spec=spec, classes=CLASSES, preprocessing=SMALL)
    with pytest.raises(LimbeckError, match="--trust-code"):
        load(tmp_path / "m")
    load(tmp_path / "m", trust_code=True)


def test_a_card_cannot_name_any_class(tmp_path: Path) -> None:
    """The architecture of a card must be a model class of transformers, not whatever that module holds."""
    config = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=16)
    save(
        transformers.ViTForImageClassification(config),
        tmp_path / "m",
        spec=None,
        classes=(),
        preprocessing=None,
    )
    data = json.loads((tmp_path / "m" / "limbeck.json").read_text())
    for name in ("pipeline", "logging", "TrainingArguments", "NoSuchClass"):
        data["transformers"]["architecture"] = name
        (tmp_path / "m" / "limbeck.json").write_text(json.dumps(data))
        with pytest.raises(LimbeckError, match=rf"has no model class '{name}'"):
            load(tmp_path / "m")


def test_saving_replaces_a_model_and_nothing_else(tmp_path: Path) -> None:
    """A trainer's checkpoints lie in the folder that the model is saved to: they must survive."""
    (tmp_path / "checkpoint-10").mkdir()
    for _ in range(2):
        model = small("conv-student")
        save(model, tmp_path, spec=ModelSpec("conv-student"), classes=CLASSES, preprocessing=SMALL)
        assert torch.equal(load(tmp_path).get_parameter("head.2.bias"), model.get_parameter("head.2.bias"))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-10", "limbeck.json", "model.safetensors"]


def test_a_failed_save_leaves_the_old_model(tmp_path: Path) -> None:
    """A full disk or a value that is no JSON must not leave half a model in the place of a whole one."""
    model = small("conv-student")
    save(model, tmp_path / "m", spec=ModelSpec("conv-student"), classes=CLASSES, preprocessing=SMALL)
    with pytest.raises(TypeError):
        save(
            small("conv-student"),
            tmp_path / "m",
            spec=ModelSpec("conv-student"),
            classes=CLASSES,
            preprocessing=SMALL,
            about={"not json": object()},
        )
    assert torch.equal(load(tmp_path / "m").get_parameter("head.2.bias"), model.get_parameter("head.2.bias"))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_save_refuses_what_could_not_be_built_again(tmp_path: Path) -> None:
    """Found at loading time, a missing shape is found when the training is gone."""
    with pytest.raises(LimbeckError, match="'conv-student' is saved without preprocessing"):
        save(
            small("conv-student"),
            tmp_path / "m",
            spec=ModelSpec("conv-student"),
            classes=CLASSES,
            preprocessing=None,
        )
    (tmp_path / "file").touch()
    with pytest.raises(LimbeckError, match="file: is a file"):
        save(nn.Linear(1, 1), tmp_path / "file", spec=None, classes=(), preprocessing=None)


def test_wrappers_are_left_out(tmp_path: Path) -> None:
    """The names of a compiled or data parallel model begin with the wrapper's, and then fit nothing."""
    model = nn.Sequential(nn.Linear(2, 3))
    for wrapped in (torch.compile(copy.deepcopy(model)), nn.DataParallel(copy.deepcopy(model))):
        save(wrapped, tmp_path / "m", spec=None, classes=CLASSES, preprocessing=None)
        into = nn.Sequential(nn.Linear(2, 3))
        load(tmp_path / "m", into=into)
        assert torch.equal(into[0].weight, model[0].weight)
