"""Layers copied from the teacher: what a copied block computes, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from limbeck.errors import LimbeckError
from limbeck.starting import copy_layers


def bert(layers: int, width: int = 16, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=30, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, num_labels=3,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def gpt2(layers: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=16, n_layer=layers, n_head=2, n_positions=12)).eval()


def llama(layers: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, max_position_embeddings=12,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def vit(layers: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return VisionTransformer(img_size=16, patch_size=8, embed_dim=16, depth=layers, num_heads=2, num_classes=3).eval()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.GELU())
        # As many experts as no stack has blocks.
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(9))

    def forward(self, inputs: Tensor) -> Tensor:
        given: Tensor = inputs + self.layers(inputs)
        return given + sum(expert(given) for expert in self.experts)


def plain(layers: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Sequential(*(Block() for _ in range(layers))), nn.Linear(6, 3))


def bare(layers: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(*(Block() for _ in range(layers)))


IDS = torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(1))
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def hidden(model: Any) -> list[Tensor]:
    """The embeddings of a transformers model and its states after each block (after the norm, the last)."""
    return list(model(input_ids=IDS, output_hidden_states=True).hidden_states)


def seen(path: str, inputs: Tensor) -> Callable[[nn.Module], list[Tensor]]:
    """What the first block takes and each of them gives."""

    def states(model: nn.Module) -> list[Tensor]:
        found: list[Tensor] = []
        stack: Any = model.get_submodule(path)
        handle = stack[0].register_forward_pre_hook(lambda _module, given: found.append(given[0]))
        handles = [each.register_forward_hook(lambda _m, _i, output: found.append(output)) for each in stack]
        model(inputs)
        for each in (handle, *handles):
            each.remove()
        return found

    return states


KINDS: dict[str, tuple[Callable[..., nn.Module], str, Callable[[nn.Module], list[Tensor]]]] = {
    "bert": (bert, "bert.encoder.layer", hidden),
    "gpt2": (gpt2, "transformer.h", hidden),
    "llama": (llama, "model.layers", hidden),
    "vit": (vit, "blocks", seen("blocks", PIXELS)),
    "plain": (plain, "1", seen("1", torch.randn(2, 4, generator=torch.Generator().manual_seed(3)))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_blocks_compute_what_the_teacher_s_do(kind: str) -> None:
    """Blocks put into the wrong place, or embeddings that stay random: states differ from the teacher's."""
    build, _, states = KINDS[kind]
    teacher, student = build(4), build(2, seed=1)
    assert copy_layers(teacher, student, "first") == [0, 1]
    with torch.no_grad():
        theirs, ours = states(teacher), states(student)
    count = 2 if kind in ("gpt2", "llama") else 3  # theirs has the final norm in its last state
    for mine, other in zip(ours[:count], theirs[:count], strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", ["every", "last", "first-last", [3, 1]])
def test_a_copied_block_computes_what_the_teacher_s_does(kind: str, layers: Any) -> None:
    """An index that the block does not have: on random input it computes something else."""
    build, path, _ = KINDS[kind]
    teacher, student = build(4), build(2, seed=1)
    expected = {"every": [0, 2], "last": [2, 3], "first-last": [0, 3]}.get(str(layers), [3, 1])
    assert copy_layers(teacher, student, layers) == expected
    generator = torch.Generator().manual_seed(4)
    theirs: Any = teacher.get_submodule(path)
    ours: Any = student.get_submodule(path)
    for index, block in enumerate(ours):
        width = next(block.parameters()).shape[-1] if kind == "plain" else 16
        inputs = torch.randn(2, 5, width, generator=generator)
        options: dict[str, Any] = {}
        if kind == "llama":
            model: Any = teacher
            options["position_embeddings"] = model.model.rotary_emb(inputs, torch.arange(5)[None])
        with torch.no_grad():
            got, wanted = block(inputs, **options), theirs[expected[index]](inputs, **options)
        for mine, other in zip(tupled(got), tupled(wanted), strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=0)


def tupled(output: Any) -> tuple[Tensor, ...]:
    return tuple(each for each in output if isinstance(each, Tensor)) if isinstance(output, tuple) else (output,)


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_blocks_make_the_teacher(kind: str) -> None:
    """A final norm, head or position that is not copied."""
    build, _, _ = KINDS[kind]
    teacher, student = build(3), build(3, seed=1)
    before = copy.deepcopy(teacher.state_dict())
    copy_layers(teacher, student)
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, before[name]), name
        assert torch.equal(teacher.state_dict()[name], before[name]), name
        assert tensor.data_ptr() != teacher.state_dict()[name].data_ptr()


def test_which_blocks_are_taken() -> None:
    """A spacing that leaves the first block out, repeats one, or differs from DistilBERT's."""
    teacher = bare(12)
    for layers, count, expected in (
        ("every", 6, [0, 2, 4, 6, 8, 10]),
        ("every", 4, [0, 3, 6, 9]),
        ("every", 5, [0, 2, 4, 7, 9]),
        ("every", 1, [0]),
        ("first-last", 6, [0, 2, 4, 7, 9, 11]),
        ("first-last", 2, [0, 11]),
        ("first-last", 1, [0]),
        ("last", 3, [9, 10, 11]),
        ("every", 12, list(range(12))),
        ([0, 0], 2, [0, 0]),
    ):
        assert copy_layers(teacher, bare(count, seed=1), layers) == expected


def test_a_head_of_other_classes_stays() -> None:
    """A student for another task whose own head is refused, or overwritten with a part."""
    teacher, student = vit(4), vit(2, seed=1)
    student.head = nn.Linear(16, 5)  # type: ignore[assignment]
    before = student.head.weight.clone()
    copy_layers(teacher, student)
    assert torch.equal(student.head.weight, before)
    assert torch.equal(student.get_parameter("pos_embed"), teacher.get_parameter("pos_embed"))


def test_the_stack_can_be_named() -> None:
    """A model with two stacks, of which the longest is not the one meant."""

    def two(first: int, second: int, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        long, short = (nn.ModuleList(nn.Linear(3, 3) for _ in range(count)) for count in (first, second))
        return nn.ModuleDict({"long": long, "short": short})

    teacher, student = two(5, 4, 0), two(5, 2, 1)
    assert copy_layers(teacher, student, blocks="short") == [0, 2]
    assert torch.equal(student.get_parameter("short.1.weight"), teacher.get_parameter("short.2.weight"))
    assert torch.equal(student.get_parameter("long.4.weight"), teacher.get_parameter("long.4.weight"))
    with pytest.raises(LimbeckError, match="did you mean 'short'"):
        copy_layers(teacher, student, blocks="shor")
    with pytest.raises(LimbeckError, match=r"'long\.0' is no stack"):
        copy_layers(teacher, student, blocks="long.0")


def test_other_shapes_are_named_and_nothing_is_changed() -> None:
    """A student that is half copied, or an error that names neither tensor."""
    teacher, student = bert(4), bert(2, width=8, seed=1)
    before = copy.deepcopy(student.state_dict())
    side = r"'s bert\.encoder\.layer\.0\.\S+ has shape \("
    with pytest.raises(LimbeckError, match=f"the teacher{side}16.*the student{side}8"):
        copy_layers(teacher, student)
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, before[name])
    with pytest.raises(
        LimbeckError, match=r"the teacher's 0\.bias has shape \(2,\) and the student's 0\.bias is missing"
    ):
        copy_layers(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2, bias=False)))


def test_what_does_not_fit_is_refused() -> None:
    """Layers that the teacher does not have, and models without a stack in common."""
    with pytest.raises(LimbeckError, match="the student has 4 blocks, the teacher 2"):
        copy_layers(bare(2), bare(4))
    with pytest.raises(LimbeckError, match="expected 2 indices from 0 to 3"):
        copy_layers(bare(4), bare(2), [0, 4])
    with pytest.raises(LimbeckError, match="did you mean 'every'"):
        copy_layers(bare(4), bare(2), "evry")
    with pytest.raises(LimbeckError, match=r"has no nn\.ModuleList or nn\.Sequential of blocks of one class"):
        copy_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), bare(2))
    other = DistilBertModel(DistilBertConfig(vocab_size=30, dim=16, n_layers=2, n_heads=2, hidden_dim=32))
    with pytest.raises(LimbeckError, match="the teacher's blocks, BertLayer"):
        copy_layers(bert(4), other)
