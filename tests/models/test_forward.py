from __future__ import annotations

import time

import pytest
import torch
import transformers
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models import forward_of


class Gives(nn.Module):
    """A module that gives what it was told to."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, inputs: Tensor) -> object:
        return self.output


BATCH = {"inputs": torch.ones(2, 3), "labels": torch.zeros(2, dtype=torch.long)}
LOGITS = torch.randn(2, 4)


@pytest.mark.parametrize("output", [LOGITS, (LOGITS, "aux"), [LOGITS], {"logits": LOGITS, "n": 3}])
def test_plain_outputs(output: object) -> None:
    """Models with auxiliary heads give tuples, those of transformers style dicts: the logits are the same."""
    signal = forward_of(Gives(output))(BATCH)
    assert list(signal) == ["logits"]
    assert signal["logits"] is LOGITS


def test_plain_module_gets_the_inputs() -> None:
    """Labels or ids passed on to a module that takes one tensor end in a TypeError."""
    model = nn.Linear(3, 4)
    assert torch.equal(forward_of(model)(BATCH)["logits"], model(BATCH["inputs"]))


def test_a_dict_gives_all_its_tensors() -> None:
    """An embedding that a model gives beside its logits is a signal that terms may ask for."""
    embedding = torch.randn(2, 8)
    signal = forward_of(Gives({"logits": LOGITS, "embedding": embedding}))(BATCH)
    assert signal["embedding"] is embedding


def test_several_heads_need_no_logits() -> None:
    """A student with a head for each task was refused for want of an entry called logits."""
    art, place = torch.randn(2, 8), torch.randn(2, 5)
    signal = forward_of(Gives({"art": art, "place": place}))(BATCH)
    assert list(signal) == ["art", "place"]
    assert signal["art"] is art


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"features": [LOGITS]}, "gave a dict of features; expected logits"),
        ({}, "gave a dict of nothing; expected logits"),
        (("a", LOGITS), "gave a tuple that begins with str"),
        ((), "gave a tuple that begins with nothing"),
        (3.0, "gave a float"),
    ],
)
def test_no_logits(output: object, message: str) -> None:
    """A model that gives no tensor must be named, not fail with a KeyError in a loss."""
    with pytest.raises(LimbeckError, match=f"^Gives {message}"):
        forward_of(Gives(output))(BATCH)


@pytest.fixture
def vit() -> transformers.PreTrainedModel:
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4, num_labels=4
    )
    return transformers.ViTForImageClassification(config).eval()


def test_transformers_main_input(vit: transformers.PreTrainedModel) -> None:
    """`inputs` of a plain loader is `pixel_values`; labels must not make the model compute its own loss."""
    pixels = torch.randn(2, 3, 8, 8)
    expected = vit(pixel_values=pixels).logits
    for batch in ({"inputs": pixels}, {"pixel_values": pixels, "inputs": pixels * 2, "ids": pixels}):
        signal = forward_of(vit)({**batch, "labels": BATCH["labels"]})
        assert list(signal) == ["logits"]
        assert torch.equal(signal["logits"], expected)
    with pytest.raises(LimbeckError, match=r"ViTForImageClassification needs 'pixel_values' .* the batch has labels"):
        forward_of(vit)({"labels": BATCH["labels"]})


def test_transformers_hidden_states(vit: transformers.PreTrainedModel) -> None:
    """Hidden states that a model gives are named signals, in the order of the layers."""
    vit.config.output_hidden_states = True
    pixels = torch.randn(2, 3, 8, 8)
    signal = forward_of(vit)({"inputs": pixels})
    expected = vit(pixel_values=pixels).hidden_states
    assert [name for name in signal if name != "logits"] == ["hidden.0", "hidden.1", "hidden.2"]
    assert torch.equal(signal["hidden.2"], expected[2])


def test_transformers_text_gets_its_mask() -> None:
    """A text model without its attention mask reads the padding, and gives other logits without a word."""
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = transformers.BertForSequenceClassification(config).eval()
    ids, mask = torch.randint(1, 20, (2, 5)), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    signal = forward_of(model)({"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1])})
    assert torch.equal(signal["logits"], model(input_ids=ids, attention_mask=mask).logits)
    assert not torch.equal(signal["logits"], model(input_ids=ids).logits)


def test_wrapped_transformers_are_called_by_name(vit: transformers.PreTrainedModel) -> None:
    """In torch.compile or data parallel the model takes `pixel_values`, and the wrapper must be called."""
    pixels = torch.randn(2, 3, 8, 8)
    signal = forward_of(nn.DataParallel(vit))({"pixel_values": pixels})
    assert torch.equal(signal["logits"], vit(pixel_values=pixels).logits)
    compiled = torch.compile(vit, backend="eager")
    assert torch.allclose(forward_of(compiled)({"pixel_values": pixels})["logits"], signal["logits"])


def test_overhead_of_a_plain_module() -> None:
    """A step calls this twice; what it costs must not show beside the smallest model."""
    model = Gives(LOGITS)
    run = forward_of(model)

    def fastest(call: object) -> float:
        assert callable(call)
        times = []
        for _ in range(200):
            begin = time.perf_counter()
            for _ in range(20):
                call()
            times.append((time.perf_counter() - begin) / 20)
        return min(times)

    assert fastest(lambda: run(BATCH)) - fastest(lambda: model(BATCH["inputs"])) < 10e-6


def test_documents_of_a_packed_row_do_not_see_each_other() -> None:
    """With a cache, which only generation needs, transformers attends from one packed document to those before it."""
    config = transformers.LlamaConfig(
        vocab_size=31, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    first, second = torch.randint(3, 31, (5,)), torch.randint(3, 31, (7,))
    packed = {
        "input_ids": torch.cat([first, second])[None],
        "position_ids": torch.cat([torch.arange(5), torch.arange(7)])[None],
    }
    logits = forward_of(model)(packed)["logits"][0]
    alone = torch.cat([forward_of(model)({"input_ids": each[None]})["logits"][0] for each in (first, second)])
    torch.testing.assert_close(logits, alone)
