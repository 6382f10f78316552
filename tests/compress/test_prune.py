from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from limbeck.compress import prune, rounds, zero_smallest
from limbeck.compress.targets import milliseconds_of
from limbeck.errors import LimbeckError
from limbeck.models import ModelSpec, Shape, build, forward_of, load, read_card, save
from limbeck.types import Batch, Preprocessing

pytest.importorskip("torch_pruning")
SMALL = Preprocessing(size=(32, 32), channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
PICTURES: Batch = {"inputs": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
IDS = torch.randint(5, 99, (3, 12), generator=torch.Generator().manual_seed(0))
TEXTS: Batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
# Layers that make heads or inner units, and those that read them.
MADE = (
    *("query", "key", "value", "q_lin", "k_lin", "v_lin", "q", "k", "v", "q_proj", "k_proj", "v_proj"),
    *("lin1", "wi", "fc1", "gate_proj", "up_proj", "c_fc"),
)
READ = ("out_lin", "o", "o_proj", "out_proj", "lin2", "wo", "fc2", "down_proj", "c_proj")
PAIRS: Batch = {**TEXTS, "decoder_input_ids": IDS[:, :7]}


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3), nn.Flatten())
    with torch.no_grad():
        for tensor in (*model[1].parameters(), model[1].running_mean, model[1].running_var):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model.eval()


def by_hand(model: nn.Sequential, kept: Tensor) -> nn.Sequential:
    """The chain with those channels alone, built anew."""
    new = nn.Sequential(
        nn.Conv2d(3, len(kept), 3), nn.BatchNorm2d(len(kept)), nn.ReLU(), nn.Conv2d(len(kept), 5, 3), nn.Flatten()
    )
    state = model.state_dict()
    cut = {name: value[kept] if name[0] in "01" and value.dim() else value for name, value in state.items()}
    cut["3.weight"] = state["3.weight"][:, kept]
    new.load_state_dict(cut)
    return new.eval()


@pytest.mark.parametrize("by", ["magnitude", "bn-scale", "taylor"])
def test_a_chain_loses_the_least_filters_as_by_hand(by: str) -> None:
    """Channels taken from one layer and others from the next give a model that runs and knows nothing."""
    model = chain()
    inputs = torch.randn(4, 3, 9, 9)

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        return module(batch["inputs"]).square().mean()

    filters = model[0].weight
    (gradient,) = torch.autograd.grad(loss(model, {"inputs": inputs}), filters)
    worth = {
        "magnitude": filters.detach().flatten(1).norm(dim=1),
        "bn-scale": model[1].weight.detach().abs(),
        "taylor": (filters.detach() * gradient).flatten(1).sum(1).square(),
    }[by]
    pruned = prune(model, {"inputs": inputs}, by=by, ratio=0.5, loss=loss, batches=[{"inputs": inputs}])
    expected = by_hand(model, worth.topk(4).indices.sort().values)
    assert torch.equal(pruned.module(inputs), expected(inputs))
    assert [(each.path, each.what, each.before, each.after) for each in pruned.removed] == [
        ("0", "out_channels", 8, 4), ("1", "num_features", 8, 4), ("3", "in_channels", 8, 4),
    ]  # fmt: skip
    assert model[0].out_channels == 8
    assert model[0].weight.grad is None


@pytest.mark.parametrize(
    "name", ["resnet8", "wrn-16-1", "conv-teacher", "dense-teacher", "timm:resnet18", "timm:mobilenetv3_small_050"]
)
def test_pruned_networks_come_back_to_the_bit(tmp_path: Path, name: str) -> None:
    """What was pruned, distilled and saved has to be what is loaded; a spec alone builds the large model."""
    spec = ModelSpec(name)
    model = build(spec, Shape(7, 3, (32, 32))).eval()
    pruned = prune(model, PICTURES, ratio=0.5)
    assert pruned.parameters[1] < 0.51 * pruned.parameters[0]
    save(pruned.module, tmp_path / "m", spec=spec, classes=tuple("abcdefg"), preprocessing=SMALL)
    loaded = load(tmp_path / "m")
    with torch.inference_mode():
        expected, got = pruned.module(PICTURES["inputs"]), loaded(PICTURES["inputs"])
    assert expected.shape == (2, 7)
    assert torch.equal(got, expected)
    # What was loaded is pruned again, and saved again.
    again = prune(loaded, PICTURES, ratio=0.25)
    save(again.module, tmp_path / "n", spec=ModelSpec(str(tmp_path / "m")), classes=tuple("abcdefg"),
         preprocessing=SMALL)  # fmt: skip
    with torch.inference_mode():
        assert torch.equal(load(tmp_path / "n")(PICTURES["inputs"]), again.module(PICTURES["inputs"]))


def text_config(kind: type, **more: object) -> object:
    return kind(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, **more,
    )  # fmt: skip


def seq2seq_config(kind: type, **more: object) -> object:
    return kind(
        vocab_size=99, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
        pad_token_id=0, decoder_start_token_id=0, bos_token_id=1, eos_token_id=2, forced_eos_token_id=2, **more,
    )  # fmt: skip


TRANSFORMERS = {
    "bert": (lambda: transformers.BertForSequenceClassification(text_config(transformers.BertConfig)), TEXTS),
    "roberta": (lambda: transformers.RobertaForQuestionAnswering(text_config(transformers.RobertaConfig)), TEXTS),
    "electra": (lambda: transformers.ElectraForSequenceClassification(text_config(transformers.ElectraConfig)), TEXTS),
    "distilbert": (
        lambda: transformers.DistilBertForSequenceClassification(
            transformers.DistilBertConfig(vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=64)
        ),
        TEXTS,
    ),
    "gpt2": (
        lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
        ),
        TEXTS,
    ),
    "llama": (
        lambda: transformers.LlamaForCausalLM(text_config(transformers.LlamaConfig, num_key_value_heads=2)),
        TEXTS,
    ),
    "qwen3": (
        lambda: transformers.Qwen3ForCausalLM(
            text_config(transformers.Qwen3Config, num_key_value_heads=4, head_dim=16)
        ),
        TEXTS,
    ),
    "t5": (
        lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
            )
        ),
        PAIRS,
    ),
    "bart": (lambda: transformers.BartForConditionalGeneration(seq2seq_config(transformers.BartConfig)), PAIRS),
    "marian": (lambda: transformers.MarianMTModel(seq2seq_config(transformers.MarianConfig)), PAIRS),
    "vit": (
        lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=64,
                image_size=32,
                patch_size=8,
                num_labels=5,
            )
        ),
        PICTURES,
    ),
    "resnet": (
        lambda: transformers.ResNetForImageClassification(
            transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], num_labels=5)
        ),
        PICTURES,
    ),
}


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_pruned_transformers_come_back_to_the_bit(tmp_path: Path, kind: str) -> None:
    """No configuration can say what a pruned layer has, so one that is built from it alone is another model."""
    make, batch = TRANSFORMERS[kind]
    torch.manual_seed(0)
    model = make().eval()
    pruned = prune(model, batch, ratio=0.5)
    assert pruned.flops_share < 0.65
    save(pruned.module, tmp_path / "m", spec=None, classes=(), preprocessing=None, task="any")
    loaded = load(tmp_path / "m")
    with torch.inference_mode():
        before, expected, got = (forward_of(each)(batch) for each in (model, pruned.module, loaded))
    assert {name: each.shape for name, each in before.items()} == {name: each.shape for name, each in got.items()}
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    # transformers would build the large model from it.
    assert not (tmp_path / "m" / "config.json").exists()


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "llama", "t5", "bart"])
def test_heads_and_units_that_are_zero_go_without_a_trace(kind: str) -> None:
    """Cut where heads do not lie, or keys of other heads than queries, and what remains is another function."""
    make, batch = TRANSFORMERS[kind]
    torch.manual_seed(0)
    model = make().eval()
    # Half the heads (keys, where queries share them) and half the inner units give nothing; the last, so that the order
    # in which weights lie matters. Their other weights are small, so that they are what magnitude removes.
    with torch.no_grad():
        for name, module in model.named_modules():
            end = name.rpartition(".")[2]
            weight = getattr(module, "weight", None)
            if weight is None or weight.dim() != 2:
                continue
            turned = kind == "gpt2" and end.startswith("c_")
            rows = weight.T if turned else weight
            half = rows.shape[0] // 2
            if end in MADE or name.endswith("intermediate.dense"):
                rows[half:] *= 1e-3
            elif end == "c_attn":
                for part in rows.chunk(3):
                    part[len(part) // 2 :] *= 1e-3
            elif end in READ or name.endswith("output.dense"):
                rows[:, rows.shape[1] // 2 :] = 0
    pruned = prune(model, batch, ratio=0.5)
    with torch.inference_mode():
        expected, got = forward_of(model)(batch)["logits"], forward_of(pruned.module)(batch)["logits"]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_heads_of_timm_are_whole() -> None:
    """Channels taken from every head would leave heads of nothing; the number of heads is the attention's own."""
    spec = ModelSpec("timm:vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "num_heads": 4, "embed_dim": 64})
    model = build(spec, Shape(5, 3, (32, 32))).eval()
    pruned = prune(model, PICTURES, ratio=0.5)
    attention = pruned.module.blocks[0].attn
    assert (attention.num_heads, attention.head_dim, attention.qkv.out_features) == (2, 16, 3 * 32)
    assert pruned.module.blocks[1].mlp.fc1.out_features == 128
    assert pruned.module.pos_embed.shape[-1] == attention.proj.out_features == 32


def test_of_a_detector_the_backbone_is_pruned(tmp_path: Path) -> None:
    """Its heads are run once a level, where following every path takes hours; and boxes have to stay boxes."""
    spec, shape = ModelSpec("fcos:timm:resnet18"), Shape(3, 3, (64, 64), "detection")
    model = build(spec, shape).eval()
    batch = {"inputs": torch.rand(2, 3, 64, 64)}
    pruned = prune(model, batch, ratio=0.5)
    assert pruned.parameters[1] < 0.8 * pruned.parameters[0]
    assert all(each.path.startswith("network.backbone.backbone.") for each in pruned.removed)
    save(pruned.module, tmp_path / "m", spec=spec, classes=tuple("abc"), preprocessing=SMALL, shape=shape)
    with torch.inference_mode():
        expected, got = forward_of(pruned.module)(batch), forward_of(load(tmp_path / "m"))(batch)
    assert expected.tensors.keys() == got.tensors.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_torchvision_s_transformer() -> None:
    """Its attention keeps its parameters itself, and its width is written in two places."""
    model = VisionTransformer(image_size=32, patch_size=8, num_layers=1, num_heads=4, hidden_dim=32, mlp_dim=64)
    pruned = prune(model.eval(), PICTURES, ratio=0.5)
    assert pruned.module(PICTURES["inputs"]).shape == (2, 1000)
    assert pruned.parameters[1] < 0.6 * pruned.parameters[0]


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_a_share_of_flops_is_reached(scope: str) -> None:
    """A budget that is missed by a half is no budget."""
    model = build(ModelSpec("resnet8x4"), Shape(7, 3, (32, 32))).eval()
    pruned = prune(model, PICTURES, flops=0.4, scope=scope)  # type: ignore[arg-type]
    assert abs(pruned.flops_share - 0.4) < 0.03


def test_ratio_scope_and_rounding_are_honoured() -> None:
    model = build(ModelSpec("resnet8"), Shape(7, 3, (32, 32))).eval()
    quarter = prune(model, PICTURES, ratio=0.25)
    assert {each.after / each.before for each in quarter.removed} == {0.75}
    eights = prune(model, PICTURES, ratio=0.3, round_to=8)
    assert all(each.after % 8 == 0 for each in eights.removed)
    together = prune(model, PICTURES, ratio=0.25, scope="model")
    assert len({each.after / each.before for each in together.removed}) > 1
    kept = prune(model, PICTURES, ratio=0.5, keep=["layer1"])
    assert not any(each.path.startswith("layer1.0.conv1") and each.what == "out_channels" for each in kept.removed)
    first, second = (prune(model, PICTURES, by="random", seed=3).module.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_modes_frozen_parameters_and_ties_stay() -> None:
    """A frozen layer that learns again, or embeddings that are two afterwards, train another model."""
    model = build(ModelSpec("resnet8"), Shape(7, 3, (32, 32))).train()
    model.layer1.requires_grad_(False).eval()
    pruned = prune(model, PICTURES).module
    assert not any(each.requires_grad for each in pruned.layer1.parameters())
    assert all(each.requires_grad for each in pruned.layer2.parameters())
    assert pruned.training
    assert not pruned.layer1.training
    make, batch = TRANSFORMERS["gpt2"]
    gpt2 = prune(make(), batch).module
    assert gpt2.lm_head.weight is gpt2.transformer.wte.weight


def test_latency_is_searched_and_failure_is_said() -> None:
    """The clock is noisy, so the search is tested with one that is not."""
    model = chain()
    batch = {"inputs": torch.randn(4, 3, 9, 9)}

    def clock(module: nn.Module) -> float:
        return 1.0 + module[0].out_channels

    pruned = prune(model, batch, latency=5.5, measure=clock)
    assert pruned.module[0].out_channels == 4
    assert pruned.milliseconds == 5.0
    with pytest.raises(LimbeckError, match=r"still takes 2 ms, with all 9; 1\.5 ms needs a smaller"):
        prune(model, batch, latency=1.5, measure=clock)
    with pytest.raises(LimbeckError, match=r"takes 9 ms already"):
        prune(model, batch, latency=10, measure=clock)
    times = iter([9.0, 5.0] + 7 * [5.0] + 3 * [9.0])
    with pytest.raises(LimbeckError, match="on both sides"):
        prune(model, batch, latency=5.5, measure=lambda module: next(times))


def test_rounds_remove_as_much_as_one() -> None:
    left = 1.0
    for each in rounds(0.75, 3):
        left *= 1 - each
    assert left == pytest.approx(0.25)
    with pytest.raises(LimbeckError, match=r"1 round or more, got 0\.5 and 0"):
        rounds(0.5, 0)


def test_masks_zero_the_smallest_and_nothing_else() -> None:
    model = chain()
    masked = zero_smallest(model, 0.5)
    weights = torch.cat([model[index].weight.detach().flatten() for index in (0, 3)])
    after = torch.cat([masked[index].weight.detach().flatten() for index in (0, 3)])
    least = weights.abs().sort().values[len(weights) // 2]
    assert torch.equal(after, torch.where(weights.abs() >= least, weights, 0.0))
    assert model.state_dict().keys() == masked.state_dict().keys()


def test_a_broken_plan_is_one_line(tmp_path: Path) -> None:
    """A plan that does not fit must not leave a model that is half one thing and half another."""
    spec = ModelSpec("resnet8")
    model = build(spec, Shape(7, 3, (32, 32)))
    save(prune(model, PICTURES).module, tmp_path, spec=spec, classes=tuple("abcdefg"), preprocessing=SMALL)
    card = tmp_path / "limbeck.json"
    text = json.loads(card.read_text())
    plan = read_card(tmp_path).pruned
    assert plan is not None
    assert plan.as_json() == text["pruned"]
    path = "layer1.0.conv1"

    def broken(**changes: object) -> None:
        part = {**text["pruned"][path], **changes}
        card.write_text(json.dumps({**text, "pruned": {**text["pruned"], path: part}}))

    broken(attributes={"out_channels": "eight"})
    with pytest.raises(LimbeckError, match=r"'layer1\.0\.conv1': cannot set 'out_channels' from 16 to 'eight'"):
        load(tmp_path)
    broken(attributes={"forward": 1})
    with pytest.raises(LimbeckError, match="cannot set 'forward'"):
        load(tmp_path)
    broken(shapes={"weight": [8, 10**9, 3, 3]})
    with pytest.raises(LimbeckError, match=r"'weight' of shape \(8, 1000000000, 3, 3\) was left of"):
        load(tmp_path)
    broken(shapes={"weight": [8, 7, 3, 3]})
    with pytest.raises(LimbeckError, match=r"model\.safetensors: does not fit CifarResNet: size mismatch"):
        load(tmp_path)
    card.write_text(json.dumps({**text, "pruned": {"layer9": {"attributes": {}, "shapes": {}}}}))
    with pytest.raises(LimbeckError, match="has no module 'layer9' that was pruned"):
        load(tmp_path)
    card.write_text(json.dumps({**text, "pruned": {path: []}}))
    with pytest.raises(LimbeckError, match="not a whole model card"):
        load(tmp_path)


def test_an_own_module_loads_into_one_of_the_full_size(tmp_path: Path) -> None:
    """Nothing but the user's code builds it; what was removed is in the card."""
    inputs = torch.randn(4, 3, 9, 9)
    pruned = prune(chain(), {"inputs": inputs}).module
    save(pruned, tmp_path, spec=None, classes=(), preprocessing=None)
    assert torch.equal(load(tmp_path, into=chain())(inputs), pruned(inputs))
    assert torch.equal(load(tmp_path, into=prune(chain(), {"inputs": inputs}).module)(inputs), pruned(inputs))


def test_what_cannot_be_pruned_says_why() -> None:
    model = chain()
    batch = {"inputs": torch.randn(4, 3, 9, 9)}
    with pytest.raises(LimbeckError, match="ratio and flops are different targets"):
        prune(model, batch, ratio=0.5, flops=0.5)
    with pytest.raises(LimbeckError, match=r"ratio above 0 and below 1, got 1\.5"):
        prune(model, batch, ratio=1.5)
    with pytest.raises(LimbeckError, match="by='taylor' asks how much the loss changes"):
        prune(model, batch, by="taylor")
    with pytest.raises(LimbeckError, match="unknown criterion 'magnitud'; did you mean 'magnitude'"):
        prune(model, batch, by="magnitud")  # type: ignore[arg-type]
    with pytest.raises(LimbeckError, match="has no module 'layr'"):
        prune(model, batch, keep=["layr"])
    with pytest.raises(LimbeckError, match="no BatchNorm"):
        prune(TRANSFORMERS["bert"][0](), TEXTS, by="bn-scale")
    with pytest.raises(LimbeckError, match="nothing of Linear can be removed"):
        prune(nn.Linear(3, 4), {"inputs": torch.randn(2, 3)})
    xlnet = transformers.XLNetForSequenceClassification(
        transformers.XLNetConfig(vocab_size=99, d_model=16, n_layer=1, n_head=2, d_inner=32)
    )
    with pytest.raises(LimbeckError, match="does not know the blocks of 'xlnet' models"):
        prune(xlnet, TEXTS)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.second(self.first(inputs).view(-1, 8))

    with pytest.raises(LimbeckError, match="Odd does not run any more with what would be left of it"):
        prune(Odd(), {"inputs": torch.randn(2, 4)})


def test_milliseconds_are_measured_on_this_machine() -> None:
    small, large = (nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, 10)) for width in (8, 8192))
    example = {"inputs": torch.randn(4, 1, 8, 8)}
    assert 0 < milliseconds_of(small, example) < milliseconds_of(large, example) < 1000
