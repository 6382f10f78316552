"""LoRA: only the additions learn, and what is saved is the plain model with the additions in its weights."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Dataset

from limbeck import Distiller, DistillTrainer, Term
from limbeck.errors import LimbeckError
from limbeck.losses import KD
from limbeck.models import ModelSpec, TextShape, build, forward_of, load, save
from limbeck.models.heads import head_place, is_causal_lm
from limbeck.models.lora import Lora, add_adapters, has_adapters

if importlib.util.find_spec("peft") is None:
    pytest.skip("peft is not installed", allow_module_level=True)

TOKENS: dict[str, Any] = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BERT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
IDS = torch.randint(3, 20, (3, 6), generator=torch.Generator().manual_seed(0))
SHAPE = TextShape(3, 20, 16, 0, "classification", bos_id=1, eos_id=2)


def made(kind: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    if kind == "bert":
        config: Any = transformers.BertConfig(**BERT, max_position_embeddings=16, num_labels=3, **TOKENS)
        return transformers.BertForSequenceClassification(config).eval()
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2, n_positions=16, **TOKENS)
        return transformers.GPT2LMHeadModel(config).eval()
    if kind == "llama":
        config = transformers.LlamaConfig(**BERT, num_key_value_heads=1, max_position_embeddings=16, **TOKENS)
        return transformers.LlamaForCausalLM(config).eval()
    config = transformers.T5Config(
        d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2, decoder_start_token_id=0, **TOKENS
    )
    return transformers.T5ForConditionalGeneration(config).eval()


KINDS = ("bert", "gpt2", "llama", "t5")


def outputs(model: Any) -> Tensor:
    batch = {"input_ids": IDS}
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = IDS[:, :4]
    return forward_of(model)(batch)["logits"]


def moved(model: nn.Module) -> nn.Module:
    """The model with its additions as training may leave them."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("targets", [None, "all"])
def test_what_is_saved_is_the_merged_model(kind: str, targets: str | None, tmp_path: Path) -> None:
    """A student that cannot be loaded without peft, additions that are lost, or added the wrong way round (GPT-2)."""
    base = made(kind)
    before = copy.deepcopy(base.state_dict())
    with torch.no_grad():
        plain = outputs(base)
        adapted = add_adapters(copy.deepcopy(base), {"rank": 2, "alpha": 6, "targets": targets})
        assert type(adapted) is type(base)
        torch.testing.assert_close(outputs(adapted), plain, rtol=0, atol=0)
        expected = outputs(moved(adapted))
        change = float((expected - plain).abs().max())
        assert change > 1e-3
        state = copy.deepcopy(adapted.state_dict())
        save(adapted, tmp_path / "m", spec=None, classes=(), preprocessing=None, task="any")
        loaded = load(tmp_path / "m")
        torch.testing.assert_close(outputs(loaded), expected, rtol=0, atol=2e-3 * change)
        assert not has_adapters(loaded)
        assert loaded.state_dict().keys() == before.keys()
        for name, tensor in adapted.state_dict().items():
            assert torch.equal(tensor, state[name])
            own = name.replace(".base_layer", "")
            assert "lora_" in name or torch.equal(tensor, before[own]), name
        plainly: Any = type(base).from_pretrained(tmp_path / "m")
        torch.testing.assert_close(outputs(plainly.eval()), outputs(loaded), rtol=0, atol=0)


def test_the_sum_is_the_paper_s() -> None:
    """A scale of alpha instead of alpha / rank: eight times too much."""
    base = made("bert")
    adapted: Any = moved(add_adapters(copy.deepcopy(base), Lora(rank=2, alpha=6, targets=["query"])))
    name = "bert.encoder.layer.1.attention.self.query"
    layer, inputs = adapted.get_submodule(name), torch.randn(2, 8)
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = base.get_submodule(name)(inputs) + 6 / 2 * inputs @ product.T
    torch.testing.assert_close(layer(inputs), expected)
    assert has_adapters(adapted)
    assert not has_adapters(base)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_additions_learn(kind: str) -> None:
    """A base that is trained as well; or a classifier's new head, which would stay random."""
    model = add_adapters(made(kind), {"rank": 2})
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    head = {name for name in learning if "lora_" not in name}
    assert head == (
        {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
        if kind == "bert"
        else set()
    )
    last = {"bert": "value", "gpt2": "c_attn", "llama": "v_proj", "t5": "v"}[kind]
    assert any(f".{last}.lora_A" in name for name in learning)
    outputs(model.train()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in learning), name


def test_a_language_model_stays_one() -> None:
    """A wrapped model that is no causal language model any more: labels unshifted, logits of a whole vocabulary."""
    model = add_adapters(made("llama"), {})
    assert is_causal_lm(model)
    assert head_place(model) is not None
    assert forward_of(model, ["output_hidden_states"])({"input_ids": IDS})["hidden.2"].shape == (3, 6, 8)


def test_a_recipe_s_option() -> None:
    """An option that only some names take."""
    options = {"pretrained": False, "config": BERT, "lora": {"rank": 3, "targets": ["query", "intermediate.dense"]}}
    model = build(ModelSpec("hf:bert", options), SHAPE)
    assert has_adapters(model)
    assert model.get_parameter("bert.encoder.layer.0.intermediate.dense.lora_A.default.weight").shape == (3, 8)
    with pytest.raises(LimbeckError, match="lora: adapts transformers models, not a TextLSTM"):
        build(ModelSpec("text-lstm", {"lora": {"rank": 3}}), SHAPE)


def test_mistakes_are_named() -> None:
    """A target that nobody has is a student that does not learn, or pages of peft."""
    for given, message in (
        ({"rnk": 2}, "unknown setting 'rnk'; did you mean 'rank'"),
        ({"rank": 0}, "expected a rank of 1 or more, got 0"),
        ({"alpha": 0}, "alpha above 0"),
        ({"dropout": 1.0}, "dropout from 0 to below 1"),
        ({"targets": ["querry"]}, "has no linear layer 'querry'; did you mean 'query'"),
        ({"targets": ["classifier"]}, "classifier is trained whole, so it takes no adapter"),
    ):
        with pytest.raises(LimbeckError, match=message):
            add_adapters(made("bert"), given)  # type: ignore[arg-type]
    with pytest.raises(LimbeckError, match="expected settings such as"):
        add_adapters(made("bert"), 8)  # type: ignore[arg-type]
    with pytest.raises(LimbeckError, match="lm_head shares its weight with the embeddings"):
        add_adapters(made("gpt2"), {"targets": ["lm_head"]})
    with pytest.raises(LimbeckError, match="has adapters already"):
        add_adapters(add_adapters(made("bert"), {}), {})
    vision = transformers.ViTForImageClassification(
        transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
    )
    add_adapters(vision, {"targets": "all"})


class Texts(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        return {"input_ids": torch.randint(3, 20, (6,), generator=generator), "ids": torch.tensor(index)}


def trained(folder: Path, steps: int, resume: bool = False) -> nn.Module:
    student = add_adapters(made("bert"), {"rank": 2, "dropout": 0.2})
    distiller = Distiller(student.train(), made("bert", seed=1), [Term(KD())])
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, learning_rate=0.01, save_steps=3,
        lr_scheduler_type="constant", logging_steps=100, report_to=[], disable_tqdm=True, use_cpu=True, seed=0,
        dataloader_pin_memory=False,
    )  # fmt: skip
    DistillTrainer(distiller, arguments, train_dataset=Texts()).train(resume_from_checkpoint=resume)
    return student


def test_a_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """A checkpoint without the additions, from which training begins again."""
    start = made("bert")
    whole = trained(tmp_path / "a", 6)
    trained(tmp_path / "b", 3)
    again = trained(tmp_path / "b", 6, resume=True)
    for (name, one), (_, other) in zip(whole.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
        if "lora_B" in name:
            assert one.abs().max() > 0
    frozen = "bert.encoder.layer.0.attention.self.query.base_layer.weight"
    assert torch.equal(again.get_parameter(frozen), start.get_parameter(frozen.replace(".base_layer", "")))


def test_a_folder_loads_without_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets the student would have to install what only its training needed."""
    save(moved(add_adapters(made("bert"), {})), tmp_path / "m", spec=None, classes=(), preprocessing=None, task="any")
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert type(load(tmp_path / "m")).__name__ == "BertForSequenceClassification"


def test_without_peft_the_remedy_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError from the middle of a run."""
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(LimbeckError, match=r'needs peft; pip install "limbeck\[text\]"'):
        add_adapters(made("bert"), {})
