"""Students made of smaller teachers: planted models are found again, copies compute the same, mistakes are named."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models import forward_of, load, save
from limbeck.models.lora import add_adapters
from limbeck.models.renumbered import renumbering_of
from limbeck.models.shrinking import shrink
from limbeck.starting import copy_layers

VOCABULARY, LENGTH = 20, 6
SPECIAL: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IDS = torch.randint(3, VOCABULARY, (3, LENGTH), generator=torch.Generator().manual_seed(0))
IDS[:, -1] = 2
MASK = torch.tensor([[1] * LENGTH, [1] * LENGTH, [1] * LENGTH])

Make = Callable[..., Any]


def bert(kind: str = "BertForSequenceClassification", **given: Any) -> Any:
    sizes = {"width": 16, "layers": 4, "heads": 4, "inner": 24} | given
    roberta = kind.startswith("Roberta")
    config = (transformers.RobertaConfig if roberta else transformers.BertConfig)(
        hidden_size=sizes["width"], num_hidden_layers=sizes["layers"], num_attention_heads=sizes["heads"],
        intermediate_size=sizes["inner"], max_position_embeddings=10, **(SPECIAL | {"pad_token_id": int(roberta)}),
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def distilbert(**given: Any) -> Any:
    sizes = {"width": 16, "layers": 4, "heads": 4, "inner": 24} | given
    return transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(
            dim=sizes["width"], n_layers=sizes["layers"], n_heads=sizes["heads"], hidden_dim=sizes["inner"],
            max_position_embeddings=10, **SPECIAL,
        )
    )  # fmt: skip


def gpt2(kind: str = "GPT2LMHeadModel", **given: Any) -> Any:
    sizes = {"width": 16, "layers": 4, "heads": 4, "inner": 24} | given
    config = transformers.GPT2Config(
        n_embd=sizes["width"], n_layer=sizes["layers"], n_head=sizes["heads"], n_inner=sizes["inner"], n_positions=10,
        **SPECIAL,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def llama(kind: str = "Llama", **given: Any) -> Any:
    sizes = {"width": 16, "layers": 4, "heads": 4, "keys": 2, "inner": 24} | given
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=sizes["width"], num_hidden_layers=sizes["layers"], num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["keys"], intermediate_size=sizes["inner"], max_position_embeddings=10, head_dim=4,
        **SPECIAL,
    )  # fmt: skip
    return getattr(transformers, f"{kind}ForCausalLM")(config)


def t5(**given: Any) -> Any:
    sizes = {"width": 16, "layers": 4, "heads": 4, "inner": 24} | given
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            d_model=sizes["width"], num_layers=sizes["layers"], num_decoder_layers=min(sizes["layers"], 3),
            num_heads=sizes["heads"], d_ff=sizes["inner"], d_kv=4, relative_attention_num_buckets=8,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, **SPECIAL,
        )
    )  # fmt: skip


def bart(kind: str = "BartForConditionalGeneration", **given: Any) -> Any:
    sizes = {"width": 16, "layers": 4, "heads": 4, "inner": 24} | given
    marian = kind.startswith("Marian")
    more = {"decoder_vocab_size": VOCABULARY} if marian else {}
    config = (transformers.MarianConfig if marian else transformers.BartConfig)(
        d_model=sizes["width"], encoder_layers=sizes["layers"], decoder_layers=min(sizes["layers"], 3),
        encoder_attention_heads=sizes["heads"], decoder_attention_heads=sizes["heads"],
        encoder_ffn_dim=sizes["inner"], decoder_ffn_dim=sizes["inner"], max_position_embeddings=10,
        decoder_start_token_id=2, forced_eos_token_id=2, **SPECIAL, **more,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def named(make: Make, kind: str) -> Make:
    return lambda **given: make(kind, **given)


KINDS: dict[str, Make] = {
    "bert": bert,
    "bert-qa": named(bert, "BertForQuestionAnswering"),
    "roberta": named(bert, "RobertaForSequenceClassification"),
    "distilbert": distilbert,
    "gpt2": gpt2,
    "gpt2-classifier": named(gpt2, "GPT2ForSequenceClassification"),
    "llama": llama,
    "qwen3": named(llama, "Qwen3"),
    "t5": t5,
    "bart": bart,
    "bart-classifier": named(bart, "BartForSequenceClassification"),
    "marian": named(bart, "MarianMTModel"),
}
CODERS = ("t5", "bart", "marian")
FOLLOWS = ("bert", "bert-qa", "roberta", "distilbert", "gpt2", "gpt2-classifier", "bart", "bart-classifier", "marian")
"""Whose heads' size follows from the width."""


def made(kind: str, seed: int = 0, **sizes: int) -> Any:
    torch.manual_seed(seed)
    model = KINDS[kind](**sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def outputs(model: nn.Module, kind: str) -> Tensor:
    batch = {"input_ids": IDS, "attention_mask": MASK}
    if kind in CODERS:
        batch["decoder_input_ids"] = IDS[:, :4]
    return forward_of(model)(batch)["logits"]


@pytest.mark.parametrize("kind", KINDS)
def test_with_nothing_cut_the_outputs_are_the_teacher_s(kind: str) -> None:
    """A tensor that is not copied, or rows that come back in another order."""
    teacher = made(kind)
    before = copy.deepcopy(teacher.state_dict())
    with torch.no_grad():
        expected = outputs(teacher, kind)
        for sizes in ({}, {"width": 16, "feed_forward": 24}):
            student = shrink(teacher, **sizes)  # type: ignore[arg-type]
            assert student.training
            torch.testing.assert_close(outputs(student.eval(), kind), expected, rtol=0, atol=0)
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert all(tensor.data_ptr() != other.data_ptr() for other in student.state_dict().values())


def planted(small: Any, large: Any, places: dict[tuple[int, int], list[int]]) -> None:
    """Puts `small` into `large`, whose matrices are 0 elsewhere: a dimension by the places of its two sizes."""
    targets = large.state_dict()
    with torch.no_grad():
        for name, tensor in small.state_dict().items():
            target = targets[name]
            if target.dim() == 2:
                target.zero_()
            index = [
                torch.tensor(places[size, full]) if size != full else torch.arange(size)
                for size, full in zip(tensor.shape, target.shape, strict=True)
            ]
            target[torch.meshgrid(*index, indexing="ij")] = tensor


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_student_is_found(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Rows of one matrix and columns of the next that do not belong together; heads cut through the middle."""
    keys = {"keys": 2} if kind in ("llama", "qwen3") else {}
    small = made(kind, seed=1, width=8, layers=2, heads=2, inner=12, **keys)
    large = made(kind, seed=2, width=16, layers=2, heads=4, inner=24, **keys)
    # Heads 0 and 3, of size 4, in different groups where queries share keys.
    two = [0, 1, 2, 3, 12, 13, 14, 15]
    places = {
        (8, 16): two,
        (12, 24): [1, 2, 3, 5, 8, 9, 13, 17, 18, 20, 21, 23],
        (24, 48): [part * 16 + row for part in range(3) for row in two],
        (2, 4): [0, 3],
    }
    planted(small, large, places)
    student = shrink(large, width=8, heads=2, feed_forward=12)
    assert not caplog.records
    assert student.state_dict().keys() == small.state_dict().keys()
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, small.state_dict()[name]), name
    with torch.no_grad():
        torch.testing.assert_close(outputs(student.eval(), kind), outputs(small, kind), rtol=0, atol=0)


@pytest.mark.parametrize("kind", FOLLOWS)
def test_heads_may_become_smaller(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A query's entries and its key's that no longer meet, where a head keeps a part of its size."""
    small = made(kind, seed=1, width=4, layers=1, heads=2, inner=12)
    large = made(kind, seed=2, width=8, layers=1, heads=2, inner=12)
    places = [1, 3, 4, 6]
    planted(small, large, {(4, 8): places, (12, 24): [part * 8 + row for part in range(3) for row in places]})
    student = shrink(large, width=4, heads=2, feed_forward=12)
    assert not caplog.records
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, small.state_dict()[name]), name


SILENT = {
    "t5": ({}, [0, 2], 2),
    # One query of each key, and a key with both of its queries.
    "llama": ({"keys": 2}, [1, 2], 2),
    "llama-groups": ({"heads": 8, "keys": 4}, [2, 3], 6),
}


@pytest.mark.parametrize("case", SILENT)
def test_without_heads_that_say_nothing_the_outputs_stay(case: str) -> None:
    """T5's position bias is that of all its blocks: one that chooses heads for itself reads another's. A query whose
    key goes reads another's too."""
    sizes, silent, left = SILENT[case]
    kind = case.partition("-")[0]
    teacher = made(kind, **sizes)
    with torch.no_grad():
        for name, module in teacher.named_modules():
            if name.endswith(("o_proj", "SelfAttention.o", "EncDecAttention.o")):
                for head in silent:
                    module.weight[:, 4 * head : 4 * head + 4] = 0.0
                    if name.endswith("o_proj"):
                        attention = teacher.get_submodule(name.rpartition(".")[0])
                        attention.q_proj.weight[4 * head : 4 * head + 4] *= 0.1
        student: Any = shrink(teacher, heads=left)
        torch.testing.assert_close(outputs(student.eval(), kind), outputs(teacher, kind), rtol=1e-4, atol=1e-5)
    assert student.config.num_attention_heads == left
    if kind == "llama":
        assert student.config.num_key_value_heads == (3 if left == 6 else 2)


def test_fewer_heads_than_the_width_has_room_for_are_joined() -> None:
    """A head's size that does not match the rows it is given; here no row may be lost or moved."""
    teacher = made("bert")
    student: Any = shrink(teacher, heads=2)
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, teacher.state_dict()[name]), name
    assert student.bert.encoder.layer[0].attention.self.attention_head_size == 8


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_runs_and_learns(kind: str) -> None:
    """A size that the configuration has and the weights do not, or a part without gradient."""
    teacher = made(kind)
    last: Any = None
    for sizes in ({"layers": [2, 0]}, {"width": 12}, {"layers": 1, "width": 8, "heads": 2, "feed_forward": 3}):
        student: Any = shrink(teacher, **sizes)
        outputs(student, kind).float().square().sum().backward()
        missing = [name for name, each in student.named_parameters() if each.requires_grad and each.grad is None]
        assert not [name for name in missing if "pooler" not in name and "token_type" not in name], sizes
        assert student.num_parameters() < teacher.num_parameters()
        last = student
    assert last.config.num_hidden_layers == 1
    assert last.config.hidden_size == 8


def test_the_number_of_parameters_is_what_the_sizes_say() -> None:
    """A proportion that is another than documented: heads and inner units go down with the width."""

    def count(width: int, layers: int, inner: int, tokens: int) -> int:
        block = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
        return (tokens + 10 + 2 + 2) * width + layers * block + width * width + width + 2 * width + 2

    teacher = made("bert")
    assert teacher.num_parameters() == count(16, 4, 24, VOCABULARY)
    for sizes, expected in (
        ({"layers": 3}, count(16, 3, 24, VOCABULARY)),
        ({"width": 8}, count(8, 4, 12, VOCABULARY)),
        ({"width": 8, "feed_forward": 24}, count(8, 4, 24, VOCABULARY)),
        ({"layers": 1, "width": 4, "heads": 4, "feed_forward": 5}, count(4, 1, 5, VOCABULARY)),
        ({"vocabulary": range(9), "unknown": 3}, count(16, 4, 24, 9)),
    ):
        student: Any = shrink(teacher, **sizes)  # type: ignore[arg-type]
        assert student.num_parameters() == expected, sizes
    assert student.config.num_attention_heads == 4
    assert shrink(teacher, width=8).config.num_attention_heads == 2  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2", "llama"])
def test_layers_are_those_that_copy_layers_gives(kind: str) -> None:
    """Two ways to the same student that differ."""
    teacher = made(kind)
    for layers, named_ in ((2, "every"), (3, "every"), ([3, 1], [3, 1])):
        other = made(kind, seed=5, layers=2 if layers != 3 else 3)
        copy_layers(teacher, other, named_)  # type: ignore[arg-type]
        for name, tensor in shrink(teacher, layers=layers).state_dict().items():  # type: ignore[arg-type]
            assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize("kind", CODERS)
def test_both_stacks(kind: str) -> None:
    """A decoder that gets the encoder's blocks, or loses the position bias with its first block."""
    teacher = made(kind)
    student: Any = shrink(teacher, layers={"encoder": [0, 1, 2, 3], "decoder": [0, 2]})
    with torch.no_grad():
        theirs, ours = (
            model.get_encoder()(input_ids=IDS, attention_mask=MASK).last_hidden_state
            for model in (teacher, student.eval())
        )
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        stack = "decoder.block" if kind == "t5" else "model.decoder.layers"
        for name, tensor in student.get_submodule(f"{stack}.1").state_dict().items():
            assert torch.equal(tensor, teacher.get_submodule(f"{stack}.2").state_dict()[name])
    assert len(shrink(teacher, layers={"decoder": 1}).get_submodule(stack)) == 1  # type: ignore[arg-type]
    moved = shrink(teacher, layers=[1, 2])
    outputs(moved, kind)
    if kind == "t5":
        bias = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        assert torch.equal(moved.get_parameter(bias), teacher.get_parameter(bias))


def test_layer_types_follow_the_layers() -> None:
    """A student whose sliding and full attention are those of other layers than it has."""
    config = transformers.Qwen2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24,
        max_position_embeddings=10, use_sliding_window=True, sliding_window=2, max_window_layers=2, **SPECIAL,
    )  # fmt: skip
    teacher = transformers.Qwen2ForCausalLM(config).eval()
    types = teacher.config.layer_types
    student: Any = shrink(teacher, layers=[3, 1])
    assert student.config.layer_types == [types[3], types[1]]
    assert types[3] != types[1]
    outputs(student, "llama")


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "gpt2-classifier", "bart-classifier", "bert-qa"])
def test_fewer_tokens(kind: str, tmp_path: Path) -> None:
    """Ids that are not renumbered, special tokens that lose their meaning, or positions that move with the padding."""
    teacher = made(kind)
    pad = teacher.config.pad_token_id
    used = sorted({*IDS.flatten().tolist()} - {9})
    ids = IDS.masked_fill(IDS == 9, 7)
    ids[0, -2:] = torch.tensor([2, pad])
    mask = (ids != pad).long()
    batch = {"input_ids": ids, "attention_mask": mask}
    student: Any = shrink(teacher, vocabulary=used[::-1], unknown=7)
    expected = {*used, pad, 1, 2, 7}
    assert student.get_input_embeddings().num_embeddings == student.config.vocab_size == len(expected)
    with torch.no_grad():
        wanted = forward_of(teacher)(batch)["logits"]
        torch.testing.assert_close(forward_of(student.eval())(batch)["logits"], wanted, rtol=0, atol=0)
        odd, plain = ids.clone(), ids.clone()
        odd[1, 1], plain[1, 1] = 9, 7
        student_odd = forward_of(student)({**batch, "input_ids": odd})["logits"]
        torch.testing.assert_close(student_odd, forward_of(teacher)({**batch, "input_ids": plain})["logits"])
        for again in (copy.deepcopy(student), shrink(student), reloaded(student, tmp_path)):
            torch.testing.assert_close(forward_of(again.eval())(batch)["logits"], wanted, rtol=0, atol=0)
    assert not (tmp_path / "m" / "config.json").exists()
    smaller: Any = shrink(student, vocabulary=[12, 19], unknown=7, layers=1)
    assert smaller.config.vocab_size == len({pad, 1, 2, 7, 12, 19})
    numbers = renumbering_of(smaller)
    assert numbers is not None
    assert numbers[9] == numbers[7] == numbers[8]
    assert forward_of(smaller)(batch)["logits"].isfinite().all()


def reloaded(model: nn.Module, folder: Path) -> nn.Module:
    save(model, folder / "m", spec=None, classes=(), preprocessing=None, task="any")
    return load(folder / "m")


def test_the_most_used_tokens() -> None:
    """Counts of the wrong end, or special tokens that a text never shows and that are gone."""
    teacher = made("bert")
    counts = torch.arange(VOCABULARY).flip(0)
    counts[15] = 100
    student: Any = shrink(teacher, vocabulary=8, counts=counts, unknown=19, always=[18])
    numbers = renumbering_of(student)
    assert numbers is not None
    assert [token for token in range(VOCABULARY) if token == 19 or numbers[token] != numbers[19]] == [
        0, 1, 2, 3, 4, 15, 18, 19,
    ]  # fmt: skip
    padded: Any = shrink(teacher, vocabulary=6, counts=[1] * 9, unknown=3)
    assert renumbering_of(padded)[4] != renumbering_of(padded)[3] == renumbering_of(padded)[19]  # type: ignore[index]
    for given, message in (
        ({"vocabulary": 8, "unknown": 3}, "give counts="),
        ({"vocabulary": 8, "counts": counts}, "give unknown="),
        ({"vocabulary": 8, "counts": [1] * 21, "unknown": 3}, r"counts of the teacher's 20 tokens, got \(21,\)"),
        ({"vocabulary": 3, "counts": counts, "unknown": 3}, "of which 4 stay in any case; give a number from 4 to 20"),
        ({"vocabulary": [3, 20], "unknown": 3}, "token 20 is not among the teacher's 20"),
    ):
        with pytest.raises(LimbeckError, match=message):
            shrink(teacher, **given)  # type: ignore[arg-type]
    for kind in ("gpt2", "t5"):
        with pytest.raises(
            LimbeckError, match=r"gives logits over its vocabulary.*train a tokenizer with fewer tokens"
        ):
            shrink(made(kind), vocabulary=[3, 4], unknown=3)


@pytest.mark.parametrize("kind", KINDS)
def test_students_are_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    """Sizes that the card does not have, or that transformers alone reads otherwise."""
    student: Any = shrink(made(kind), layers=2, width=8, feed_forward=5)
    again = reloaded(student, tmp_path)
    with torch.no_grad():
        expected = outputs(student.eval(), kind)
        torch.testing.assert_close(outputs(again, kind), expected, rtol=0, atol=0)
        plain: Any = type(student).from_pretrained(tmp_path / "m")
        torch.testing.assert_close(outputs(plain.eval(), kind), expected, rtol=0, atol=0)


def test_an_unknown_kind_keeps_what_it_can(caplog: pytest.LogCaptureFixture) -> None:
    """Weights of random numbers that nobody is told of."""
    config = transformers.ElectraConfig(
        hidden_size=16, embedding_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=24,
        max_position_embeddings=10, **SPECIAL,
    )  # fmt: skip
    teacher = transformers.ElectraForSequenceClassification(config).eval()
    with caplog.at_level(logging.WARNING):
        student: Any = shrink(teacher, layers=2)
        assert not caplog.records
        assert torch.equal(
            student.electra.encoder.layer[1].intermediate.dense.weight,
            teacher.electra.encoder.layer[1].intermediate.dense.weight,
        )
        student = shrink(teacher, feed_forward=7)
    assert "12 of the 57 tensors of ElectraForSequenceClassification cannot be cut" not in caplog.text
    assert "9 of the 57 tensors of ElectraForSequenceClassification cannot be cut" in caplog.text
    assert torch.equal(
        student.electra.encoder.layer[0].attention.self.query.weight,
        teacher.electra.encoder.layer[0].attention.self.query.weight,
    )
    assert outputs(student, "bert").isfinite().all()


def test_mistakes_are_named() -> None:
    """A size that cannot be, found as a traceback of transformers or not at all."""
    teacher, coder, grouped = made("bert"), made("t5"), made("llama", heads=8, keys=4)
    for model, given, message in (
        (teacher, {"layers": 5}, r"layers 5: the teacher has 4; give a number from 1 to 4"),
        (teacher, {"layers": 0}, "layers 0"),
        (teacher, {"layers": [0, 4]}, r"layers \[0, 4\]: the teacher has 0 to 3"),
        (teacher, {"layers": []}, r"layers \[\]"),
        (teacher, {"layers": {"encoder": 1}}, "has one stack of layers"),
        (teacher, {"width": 17}, "width 17: the teacher has 16"),
        (teacher, {"width": 10, "heads": 4}, "4 heads do not divide a width of 10"),
        (teacher, {"width": 15}, "4 heads do not divide a width of 15"),
        (teacher, {"width": 12, "heads": 2}, "have a size of 6, which is no multiple of the teacher's 4; take 3 heads"),
        (teacher, {"heads": 5}, "heads 5: the teacher has 4"),
        (teacher, {"feed_forward": 0}, "feed_forward 0: the teacher has 24"),
        (teacher, {"width": 8.0}, r"width 8\.0"),
        (coder, {"layers": 4}, "layers of the decoder 4: the teacher has 3"),
        (coder, {"layers": {"encodr": 1}}, "layers of 'encodr'; did you mean 'encoder'"),
        (grouped, {"heads": 3}, "3 heads: the teacher's 8 share 4 keys; take a multiple of 4 or of 2"),
        (nn.Linear(2, 2), {"layers": 1}, "the teacher is a Linear; name a smaller student instead"),
    ):
        with pytest.raises(LimbeckError, match=message):
            shrink(model, **given)  # type: ignore[arg-type]
    with pytest.raises(LimbeckError, match="the teacher has adapters"):
        shrink(add_adapters(made("bert"), {"rank": 2}), layers=1)


def test_a_teacher_in_half_precision_gives_a_student_that_learns() -> None:
    """Adam's steps vanish in bfloat16, and nobody asked for a student in it."""
    teacher = made("bert").to(torch.bfloat16)
    student = shrink(teacher, layers=2)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    first = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(student.get_parameter(first), teacher.get_parameter(first).float())
