"""Pairing: the places that are found in real architectures, and terms that name no taps."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    SwinConfig,
    SwinForImageClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from limbeck import Distiller, LimbeckError, Term
from limbeck.losses import AT, BYOT, KD, OFA, RKD, AttentionMSE, FeatureMSE, MiniLM, ReviewKD, Supervised
from limbeck.models import ModelSpec, Shape, build, conv_student, conv_teacher
from limbeck.pairing import Pairing, expand, pair, survey
from limbeck.pairing.pair import by_depth
from limbeck.taps import SignalReader
from limbeck.teachers import Ema, Ensemble, Live, Mapped, adapter
from limbeck.types import Preprocessing

CLASSES = 5
Batch = dict[str, Tensor]


def images(size: int = 32, rows: int = 3, channels: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {"inputs": torch.randn(rows, channels, size, size, generator=generator), "labels": torch.arange(rows)}


def texts(rows: int = 4, length: int = 9) -> Batch:
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(length) < torch.tensor([[length], [6], [4], [length]])).long()[:rows]
    ids = torch.randint(1, 50, (rows, length), generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(rows) % CLASSES}


def named(name: str) -> nn.Module:
    return build(ModelSpec(name), Shape(CLASSES, 3, (32, 32)))


def vision(name: str) -> nn.Module:
    return torchvision.models.get_model(name, num_classes=CLASSES)


def tiny_vit(size: int = 32, **options: Any) -> nn.Module:
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", num_classes=CLASSES, img_size=size, patch_size=8, embed_dim=24, depth=6, **options
    )
    return model


SMALL = {"vocab_size": 50, "max_position_embeddings": 64}


def bert(layers: int, width: int) -> BertForSequenceClassification:
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=4, intermediate_size=2 * width,
        num_labels=CLASSES, **SMALL,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def hf_vit(layers: int, width: int) -> nn.Module:
    return ViTForImageClassification(
        ViTConfig(
            image_size=32, patch_size=8, num_hidden_layers=layers, hidden_size=width, num_attention_heads=4,
            intermediate_size=2 * width, num_labels=CLASSES,
        )
    )  # fmt: skip


def llama() -> nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=3, hidden_size=16, num_attention_heads=4, num_key_value_heads=2, intermediate_size=32,
            bos_token_id=None, eos_token_id=None, **SMALL,
        )
    )  # fmt: skip


def stages(model: nn.Module, batch: Batch) -> list[str]:
    return [stage.tap for stage in survey(model, batch, "student").stages]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20", "layer1 layer2 layer3"),
        ("resnet8x4", "layer1 layer2 layer3"),
        ("wrn-16-2", "layer1 layer2 layer3"),
        ("vgg8", "layer1 layer2 layer3 layer5"),
        ("vgg11", "layer1 layer2 layer3 layer5"),
        ("vgg13", "layer1 layer2 layer3 layer5"),
        ("conv-student", "layer1 layer2"),
        ("torchvision:resnet18", "layer1 layer2 layer3 layer4"),
        ("torchvision:mobilenet_v3_small", "features.1 features.3 features.8 features.11"),
        ("torchvision:mobilenet_v2", "features.1 features.3 features.6 features.13 features.17"),
        ("torchvision:shufflenet_v2_x0_5", "stage2 stage3 stage4"),
        ("torchvision:vgg11", "features.1 features.4 features.9 features.14 features.19"),
        ("timm:resnet18", "layer1 layer2 layer3 layer4"),
        ("timm:mobilenetv3_small_050", "blocks.0 blocks.1 blocks.3 blocks.4"),
        ("timm:convnext_atto", "stages.0 stages.1 stages.2 stages.3"),
        ("timm:densenet121", " ".join(f"features.denseblock{number}" for number in range(1, 5))),
    ],
)
def test_stages_of_cnns(name: str, expected: str) -> None:
    """The stem, a branch, the pooling or a head for a stage; or a path that nobody would write."""
    assert stages(named(name), images()) == expected.split()


def test_stages_of_transformers() -> None:
    """Sublayers or the embedding for a block; blocks of one of several stacks."""
    blocks = [f"blocks.{index}" for index in range(6)]
    assert stages(tiny_vit(), images()) == blocks
    assert stages(hf_vit(3, 16), images()) == [f"vit.layers.{index}" for index in range(3)]
    assert stages(bert(3, 16), texts()) == [f"bert.encoder.layer.{index}" for index in range(3)]
    assert stages(llama(), texts()) == [f"model.layers.{index}" for index in range(3)]
    encoder = [f"encoder.layers.encoder_layer_{index}" for index in range(12)]
    large = torchvision.models.VisionTransformer(32, 16, 12, 2, 16, 32, num_classes=CLASSES)
    assert stages(large, images()) == encoder
    # Shared blocks run several times, so their outputs have names of their own only among the hidden states.
    albert = AlbertForSequenceClassification(
        AlbertConfig(
            num_hidden_layers=2, hidden_size=16, num_attention_heads=4, intermediate_size=16, embedding_size=8, **SMALL
        )
    )
    assert stages(albert, texts()) == ["hidden.1", "hidden.2"]


def test_stages_where_the_number_of_tokens_changes() -> None:
    """The longest stage of a Swin for the whole network."""
    model = SwinForImageClassification(
        SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[1, 3, 1], num_heads=[2, 2, 2], window_size=4)
    )
    found = survey(model, images(), "student")
    assert [stage.positions for stage in found.stages] == [256, 64, 16]
    assert [stage.tap for stage in found.stages] == [
        f"swin.encoder.layers.{i}.blocks.{j}" for i, j in enumerate((0, 2, 0))
    ]
    pairs = pair(named("vgg8"), model, images()).stages
    assert [here for here, _ in pairs] == ["layer2", "layer3", "layer5"]


@pytest.mark.parametrize(
    ("model", "batch", "tap"),
    [
        (lambda: named("resnet20"), images(), "fc.input"),
        (lambda: named("timm:resnet18"), images(), "global_pool"),
        (lambda: vision("mobilenet_v3_small"), images(), "classifier.1"),
        (lambda: vision("mobilenet_v2"), images(), "classifier.input"),  # before its dropout
        (lambda: named("dense-teacher"), images(), "4"),
        (tiny_vit, images(), "fc_norm"),
        (lambda: hf_vit(2, 16), images(), "classifier.input"),
        (lambda: bert(2, 16), texts(), "bert.pooler"),
        (llama, texts(), "model.norm"),
    ],
)
def test_the_embedding_enters_the_head(model: Any, batch: Batch, tap: str) -> None:
    """The embedding of another layer, or after a dropout: the head of what is tapped must be the logits."""
    net = model()
    found = survey(net, batch, "student")
    assert found.embedding == tap
    signal = SignalReader(net.eval(), {"logits", tap}, "student")({k: v for k, v in batch.items() if k != "labels"})
    assert found.shapes[tap][1:] == signal[tap].shape[1:]
    heads = [module for module in net.modules() if isinstance(module, nn.Linear)]
    head = [each for each in heads if each.out_features == signal["logits"].shape[-1]][-1]
    torch.testing.assert_close(head(signal[tap]), signal["logits"])


def test_attention_and_values_of_the_last_layer() -> None:
    """Attention of another layer; keys of the cross-attention; values of a model that has no layers for them."""
    found = survey(bert(3, 16), texts(), "student")
    assert found.attention == "attention.2"
    assert found.shapes["attention.2"] == (2, 4, 9, 9)
    inside = "bert.encoder.layer.2.attention.self"
    assert found.values == (f"{inside}.query", f"{inside}.key", f"{inside}.value")
    found = survey(hf_vit(2, 16), images(), "student")
    assert found.values == tuple(f"vit.layers.1.attention.{each}_proj" for each in "qkv")
    assert found.shapes["vit.layers.1.attention.q_proj"] == (2, 17, 16)
    assert survey(llama(), texts(), "student").shapes["model.layers.2.self_attn.k_proj"] == (2, 9, 8)
    for model in (tiny_vit(), named("resnet20")):
        found = survey(model, images(), "student")
        assert found.attention is None
        assert found.values is None


def test_pairs_of_cnns() -> None:
    """Stages of different depth, or shallow ones with deep ones where the numbers differ."""
    alike = pair(named("resnet20"), named("resnet56"), images())
    assert alike.stages == (("layer1", "layer1"), ("layer2", "layer2"), ("layer3", "layer3"))
    assert alike.embedding == ("fc.input", "fc.input")
    assert alike.student_shapes["layer3"] == (2, 64, 8, 8)
    assert alike.attention is None
    assert "attention" in alike.missing["attention"]
    one_to_one = pair(vision("mobilenet_v3_small"), vision("resnet18"), images()).stages
    assert one_to_one == tuple(
        zip(("features.1", "features.3", "features.8", "features.11"), (f"layer{n}" for n in range(1, 5)), strict=True)
    )
    # 32, 16, 8 with 32, 16, 8, 4: the deepest together, the others where the resolutions are equal.
    fewer = (("layer1", "layer1"), ("layer2", "layer2"), ("layer3", "layer5"))
    assert pair(named("resnet8x4"), named("vgg13"), images()).stages == fewer
    assert pair(named("vgg13"), named("resnet8x4"), images()).stages == tuple((b, a) for a, b in fewer)


def test_a_teacher_that_sees_larger_images() -> None:
    """Resolutions compared in pixels instead of shares of the input."""
    pairs = pair(named("vgg13"), named("vgg13"), images(), teacher_example=images(64)).stages
    assert pairs == tuple((tap, tap) for tap in ("layer1", "layer2", "layer3", "layer5"))


def test_pairs_by_depth() -> None:
    """Student block i of n belongs to teacher block round((i + 1) · m / n) − 1."""
    assert by_depth(3, 12) == [(0, 3), (1, 7), (2, 11)]
    assert by_depth(4, 6) == [(0, 1), (1, 2), (2, 4), (3, 5)]  # 1.5 and 4.5 upwards
    assert by_depth(6, 6) == [(index, index) for index in range(6)]
    assert by_depth(4, 2) == [(1, 0), (3, 1)]
    found = pair(bert(2, 16), bert(4, 32), texts())
    assert found.stages == (
        ("bert.encoder.layer.0", "bert.encoder.layer.1"),
        ("bert.encoder.layer.1", "bert.encoder.layer.3"),
    )
    assert found.attention == ("attention.1", "attention.3")
    assert found.values is not None
    assert found.values[1][2] == "bert.encoder.layer.3.attention.self.value"
    mixed = pair(vision("resnet18"), tiny_vit(), images())
    assert mixed.stages == tuple(
        zip((f"layer{n}" for n in range(1, 5)), (f"blocks.{n}" for n in (1, 2, 4, 5)), strict=True)
    )
    assert [there for _, there in pair(tiny_vit(), named("resnet20"), images()).stages] == [
        "layer1",
        "layer2",
        "layer3",
    ]


def test_looking_leaves_no_trace() -> None:
    """BatchNorm statistics that move, a model left in eval mode or with hooks, attention switched for good."""
    model = bert(2, 16)
    model.bert.encoder.layer[0].eval()
    cnn = named("resnet20")
    before = copy.deepcopy(cnn.state_dict())
    assert model.config._attn_implementation == "sdpa"
    for each, batch in ((model, texts()), (cnn, images())):
        modes = [module.training for module in each.modules()]
        survey(each, batch, "student")
        assert [module.training for module in each.modules()] == modes
        ours = [hook for module in each.modules() for hook in module._forward_pre_hooks.values()]
        assert not ours
    assert model.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks for module in cnn.modules())
    for name, value in cnn.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in cnn.parameters())


class Branches(nn.Module):
    """Two towers side by side: no module of either sees everything."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
        self.right = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        both = [tower(inputs).mean((2, 3)) for tower in (self.left, self.right)]
        logits: Tensor = self.fc(torch.cat(both, 1))
        return logits


class Series(nn.Module):
    """Blocks on (batch, channels, length), whose channels are no tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(*(self._block() for _ in range(3)))
        self.fc = nn.Linear(8, CLASSES)

    @staticmethod
    def _block() -> nn.Sequential:
        return nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 3, padding=1))

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.blocks(self.stem(inputs.flatten(2))).mean(2))
        return logits


def hourglass() -> nn.Module:
    def block(stride: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 3, 3, stride, 1), nn.ReLU(), nn.Conv2d(3, 3, 3, 1, 1))

    return nn.Sequential(
        block(1), block(2), nn.Upsample(scale_factor=4), block(1), nn.Flatten(), nn.Linear(3 * 64**2, 5)
    )


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Branches, "through which everything passes"),
        (Series, "through which everything passes"),
        (hourglass, "goes up again"),
        (lambda: torchvision.models.swin_t(num_classes=CLASSES), "channels last"),
        (lambda: timm.create_model("volo_d1_224", num_classes=CLASSES, img_size=32), "channels last"),
        (lambda: timm.create_model("hiera_tiny_224", num_classes=CLASSES, img_size=64), "most of its layers"),
    ],
)
def test_no_stages_rather_than_wrong_ones(model: Any, why: str) -> None:
    """A branch that sees half of the input, windows in their own order, or channels for height."""
    net = model()
    size = 64 if "most" in why else 32
    assert why in survey(net, images(size), "student").missing["stages"]
    with pytest.raises(LimbeckError, match=f"term feature-mse: the student has no stages: .*{why}.*name the taps"):
        Distiller(net, named("resnet20"), [Term(FeatureMSE())], example=images(size))


def test_models_that_cannot_be_looked_into() -> None:
    """Parts of a traced graph, in which nothing tells a shortcut from the main path; a model without parts."""
    student = named("resnet20")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        traced = torch.jit.trace(named("resnet20").eval(), images()["inputs"])
    for model, why in (
        (traced, "scripted or traced"),
        (torch.fx.symbolic_trace(named("resnet20")), "a traced graph"),
        (nn.Linear(4, CLASSES), "no modules inside"),
    ):
        with pytest.raises(LimbeckError, match=rf"term feature-mse: the teacher .* {why}"):
            Distiller(student, model, [Term(FeatureMSE())], example=images())
    both = T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0)
    )
    batch = texts()
    batch["decoder_input_ids"] = batch["input_ids"]
    with pytest.raises(LimbeckError, match="the student has no stages"):
        expand([Term(FeatureMSE())], both, both, batch)


def test_a_model_of_starts_and_ends() -> None:
    """Two answers that come from one head, which must be found by what both are together."""
    config = bert(2, 16).config
    config.num_labels = 2
    found = survey(BertForQuestionAnswering(config), texts(), "student")
    assert [stage.tap for stage in found.stages] == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    assert found.embedding is not None
    assert found.shapes[found.embedding][2:] == (16,)


def test_a_model_without_logits() -> None:
    """Two answers, neither called logits: blocks are found, and there is no one head for an embedding."""

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
            self.age, self.name = nn.Linear(8, 1), nn.Linear(8, CLASSES)

        def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            vector = self.body(inputs).mean((2, 3))
            return {"age": self.age(vector), "name": self.name(vector)}

    assert "logits" in survey(TwoHeads(), images(), "student").missing["embedding"]


def test_checkpointed_activations() -> None:
    """A term on a module that is run without gradient would be silently without effect."""
    inside = "attention.self.query"
    terms = [
        Term(FeatureMSE(), student=f"bert.encoder.layer.1{part}", teacher=f"bert.encoder.layer.3{part}")
        for part in ("", f".{inside}")
    ]
    model, teacher = bert(2, 16), bert(4, 32)
    gradients = []
    for reentrant in (None, False, True):
        torch.manual_seed(0)
        distiller = Distiller(model, teacher, terms[:1] if reentrant else terms, example=texts()).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if reentrant is not None:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        distiller(texts()).loss.backward()
        gradients.append(model.bert.encoder.layer[0].output.dense.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])
    assert bool(gradients[2].abs().sum() > 0)
    distiller = Distiller(model, teacher, terms[1:], example=texts()).train()
    with pytest.raises(LimbeckError, match=r"query' runs without gradient.*use_reentrant=False"):
        distiller(texts())
    assert stages(model, texts()) == ["bert.encoder.layer.0", "bert.encoder.layer.1"]


MODELS: dict[str, Any] = {
    "cifar": (lambda: named("resnet20"), lambda: named("resnet56"), images()),
    "torchvision": (lambda: vision("mobilenet_v3_small"), lambda: vision("resnet18"), images(64)),
    "cnn from vit": (lambda: vision("resnet18"), tiny_vit, images()),
    "vit from cnn": (tiny_vit, lambda: vision("resnet18"), images(64)),
    "vit from vit": (tiny_vit, lambda: hf_vit(3, 16), images()),
    "bert": (lambda: bert(2, 16), lambda: bert(4, 32), texts()),
    "hf vit": (lambda: hf_vit(2, 16), lambda: hf_vit(4, 32), images()),
    "llama": (llama, llama, texts()),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_term_without_taps_trains(name: str) -> None:
    """The promise of Term: pair, projector and step from a loss alone."""
    make_student, make_teacher, batch = MODELS[name]
    batch = {key: value for key, value in batch.items() if name != "llama" or key != "labels"}
    if name == "vit from cnn":
        make_student = lambda: tiny_vit(64)  # noqa: E731
    torch.manual_seed(0)
    student, teacher = make_student(), make_teacher()
    distiller = Distiller(student, teacher, [Term(FeatureMSE())], example=batch).train()
    found = pair(student, teacher, batch)
    [term] = distiller.objective.terms
    assert (term.student, term.teacher) == found.stages[-1]
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.01)
    losses = []
    for _ in range(2):
        output = distiller(batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    assert losses[1] < losses[0]


def expanded(loss: Any, student: nn.Module, teacher: Any, batch: Batch, /, **settings: Any) -> list[Term]:
    return expand([Term(Supervised()), Term(loss, **settings)], student, teacher, batch)[1:]


def test_what_each_loss_gets() -> None:
    """Stages where the paper has one place, one stage where it has all, or one learned part shared by all stages."""
    student, teacher, batch = named("resnet20"), named("resnet56"), images()
    layers = ("layer1", "layer2", "layer3")
    terms = expanded(AT(), student, teacher, batch, weight=7.0, name="hint")
    assert [(term.student, term.teacher) for term in terms] == [(each, each) for each in layers]
    assert len({id(term.loss) for term in terms}) == 3
    assert {(term.weight, term.name, type(term.loss)) for term in terms} == {(7.0, "hint", AT)}
    [term] = expanded(FeatureMSE(), student, teacher, batch)
    assert (term.student, term.teacher) == ("layer3", "layer3")
    [term] = expanded(ReviewKD(), student, teacher, batch)
    assert (term.student, term.teacher) == (layers, layers)
    [term] = expanded(RKD(), student, teacher, batch)
    assert (term.student, term.teacher) == ("fc.input", "fc.input")
    terms = expanded(OFA(), student, teacher, batch)
    assert [(term.student, term.teacher) for term in terms] == [(each, "logits") for each in layers]
    for said in ("", "logits"):
        terms = expanded(BYOT(), student, None, batch, own=True, teacher=said)
        assert [(term.student, term.teacher) for term in terms] == [("layer1", "logits"), ("layer2", "logits")]
    terms = expanded(FeatureMSE(), student, None, batch, own=True)
    assert [(term.student, term.teacher) for term in terms] == [("layer1", "layer3"), ("layer2", "layer3")]
    terms = expanded(OFA(), tiny_vit(), teacher, batch)
    assert [term.student for term in terms] == ["blocks.1", "blocks.2", "blocks.4", "blocks.5"]
    small, large = bert(2, 16), bert(4, 32)
    [term] = expanded(AttentionMSE(), small, large, texts())
    assert (term.student, term.teacher) == ("attention.1", "attention.3")
    [term] = expanded(MiniLM(), small, large, texts())
    assert (term.student, term.teacher) == pair(small, large, texts()).values


def test_stages_get_names_of_their_own() -> None:
    """Two terms of one name in the logs."""
    distiller = Distiller(named("resnet20"), named("resnet56"), [Term(AT())], example=images())
    assert [term.name for term in distiller.objective.terms] == ["at", "at-2", "at-3"]


def test_what_is_named_stays() -> None:
    """Taps that the user chose replaced, models run where nothing is to be found, an example that is not there."""
    chosen = [Term(KD()), Term(FeatureMSE(), student="layer1", teacher="layer2"), Term(AT(), student="layer1")]
    broken = nn.Module()
    assert expand(chosen, broken, broken, {}) == chosen
    with pytest.raises(LimbeckError, match="name them"):
        Distiller(named("resnet20"), named("resnet56"), [Term(FeatureMSE())])
    with pytest.raises(LimbeckError, match="name them"):
        Distiller(named("resnet20"), named("resnet56"), [Term(FeatureMSE(), student="layer1")], example=images())


def test_losses_that_have_no_place() -> None:
    """A place that only one of the models has, or a stage that is not there: an error that says what to do."""
    student, teacher, batch = named("resnet20"), named("resnet56"), images()
    with pytest.raises(LimbeckError, match=r"term attention-mse: the student has no attention: .*name the taps"):
        expanded(AttentionMSE(), student, teacher, batch)
    with pytest.raises(LimbeckError, match="term minilm: the student has no values"):
        expanded(MiniLM(), student, teacher, batch)
    with pytest.raises(LimbeckError, match="term rkd: RKD wants embedding, which no stage of the student is"):
        expanded(RKD(), student, None, batch, own=True)
    with pytest.raises(LimbeckError, match="term byot: the student has no stages before its last"):
        expanded(BYOT(), named("dense-teacher"), None, batch, own=True)
    with pytest.raises(LimbeckError, match="term ofa: the student has no stages"):
        expanded(OFA(), named("dense-teacher"), teacher, batch)


def test_teachers_that_run_one_module() -> None:
    """A wrapped teacher that is not looked into, or one that is looked at as if it were another."""
    student, batch = named("resnet20"), images()
    classes = [str(index) for index in range(CLASSES)]
    for teacher in (
        Live(named("resnet56")),
        Ensemble([named("resnet56")]),
        Ema(named("resnet20")),
        Mapped(named("resnet56"), classes, classes[::-1]),
    ):
        [term] = expanded(FeatureMSE(), student, teacher, batch)
        assert term.teacher == "layer3"
    pixels = Preprocessing((32, 32), 3, (0.5,) * 3, (0.5,) * 3)
    larger = Live(tiny_vit(64), adapt=adapter(pixels, Preprocessing((64, 64), 3, (0.5,) * 3, (0.5,) * 3)))
    assert expanded(FeatureMSE(), student, larger, batch)[0].teacher == "blocks.5"
    with pytest.raises(LimbeckError, match=r"term feature-mse: the teacher \(Ensemble\) is not one module.*name them"):
        expanded(FeatureMSE(), student, Ensemble([named("resnet56"), named("resnet20")]), batch)


def test_attention_needs_no_setting(caplog: pytest.LogCaptureFixture) -> None:
    """Fused attention gives no maps: the term must switch it off, on both models, and say so; answers stay."""
    student, teacher, batch = bert(2, 16), bert(4, 32), texts()
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    before = teacher.eval()(**inputs).logits
    distiller = Distiller(student, teacher, [Term(AttentionMSE())], example=batch).train()
    distiller(batch).loss.backward()
    assert student.bert.encoder.layer[1].attention.self.query.weight.grad is not None
    assert [model.config._attn_implementation for model in (student, teacher)] == ["eager", "eager"]
    said = [record.message for record in caplog.records if "attention eagerly" in record.message]
    assert [line.split()[1] for line in said] == ["teacher", "student"]
    torch.testing.assert_close(teacher(**inputs).logits, before)
    caplog.clear()
    # By name it works as well, and what is eager already is not mentioned.
    named_terms = [Term(AttentionMSE(), student="attention.0", teacher="attention.1")]
    Distiller(bert(2, 16), teacher, named_terms, example=batch)(batch).loss.backward()
    assert len([record for record in caplog.records if "attention eagerly" in record.message]) == 1


def test_what_enters_a_module_can_be_tapped() -> None:
    """The output of a module for its input; a wrong path without the hint at the right one."""
    model, batch = named("resnet20").eval(), images()
    signal = SignalReader(model, {"fc.input", "layer3"}, "student")(batch)
    torch.testing.assert_close(signal["fc.input"], signal["layer3"].mean((2, 3)))
    with pytest.raises(LimbeckError, match=r"no module 'fcc' to tap; did you mean 'fc'"):
        SignalReader(model, {"fcc.input"}, "student")


def test_wrapped_models() -> None:
    """Paths without the wrapper's prefix, which the reader would not find."""
    plain = named("resnet20")
    wrapped = nn.DataParallel(plain)
    assert stages(wrapped, images()) == ["module.layer1", "module.layer2", "module.layer3"]
    distiller = Distiller(wrapped, named("resnet56"), [Term(FeatureMSE())], example=images())
    assert distiller.objective.terms[0].student == "module.layer3"


def test_a_compiled_model() -> None:
    """A compiled model whose modules run inside one graph."""
    compiled = torch.compile(named("resnet20"), backend="eager")
    assert stages(compiled, images()) == [f"_orig_mod.layer{number}" for number in (1, 2, 3)]
    partly = named("resnet20")
    partly.layer2.compile(backend="eager")
    with torch.no_grad():
        partly(images()["inputs"])
    assert stages(partly, images()) == ["layer1", "layer2", "layer3"]


def test_long_texts_are_cut() -> None:
    """The attention maps of a long text, of all layers at once, in memory."""
    ids = torch.arange(200).reshape(2, 100) % 50
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=50, num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8,
            max_position_embeddings=128,
        )
    )  # fmt: skip
    assert survey(model, batch, "student").shapes["attention.0"] == (2, 2, 32, 32)


def test_an_error_of_the_model_is_its_own() -> None:
    """A hook left behind by a dry forward that failed."""
    model = conv_student(image_size=(8, 8))
    with pytest.raises(RuntimeError, match="channels"):
        survey(model, {"inputs": torch.zeros(2, 3, 8, 8)}, "student")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with pytest.raises(LimbeckError, match="needs 'inputs', the batch has pixels"):
        survey(model, {"pixels": torch.zeros(2, 1, 8, 8)}, "student")


def test_the_small_pair() -> None:
    """The pair of the demo."""
    found = pair(conv_student(image_size=(8, 8)), conv_teacher(image_size=(8, 8)), images(8, channels=1))
    assert isinstance(found, Pairing)
    assert found.stages == (("layer1", "layer1"), ("layer2", "layer2"))
