"""Two tokenisations of one text: where both have read the same bytes, and a teacher that answers there."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from limbeck import Distiller, Live, Term
from limbeck.alignment import TokenBytes, align, same_vocabulary, shared_tokens
from limbeck.errors import LimbeckError
from limbeck.losses import KD, RKD, ULD, GeneralizedJSD, ReverseKL
from limbeck.sources.texts import train_tokenizer
from limbeck.teachers import Teacher
from limbeck.teachers.retokenized import Retokenized
from limbeck.teachers.shared_tokens import SharedTokens, across_tokenizers
from limbeck.tokens import TokenPlan
from limbeck.types import Batch, Signal, TopK

TEXTS = [
    "the cat sat on the mat and the cat sat again",
    "naïve café 漢字 and 🙂🙂 the the again",
    "  the\n\n\tindented  cat sat </s> <s>",
    "a",
]


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    if kind == "llama":
        return _like_llama()
    if kind == "shuffled":
        return _shuffled()
    assert kind in ("bpe", "bytes", "characters", "wordpiece")
    return train_tokenizer(TEXTS * 4, kind=kind, vocabulary=330, lowercase=False)  # type: ignore[arg-type]


def _like_llama() -> PreTrainedTokenizerFast:
    """SentencePiece as Llama 2 has it: a space before the text, bytes where a character is unknown, `<s>` before."""
    words = ["▁", "t", "h", "e", "c", "a", "s", "o", "n", "m", "d", "▁t", "he", "▁the", "▁c", "▁ca", "at", "▁cat"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "c"), ("▁c", "a"), ("a", "t"), ("▁c", "at")]
    model = models.BPE(
        {token: index for index, token in enumerate(tokens)}, merges, unk_token="<unk>", byte_fallback=True
    )
    made = Tokenizer(model)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _shuffled() -> PreTrainedTokenizerFast:
    """The merged bytes with other numbers for its tokens."""
    plain = json.loads(tokenizer("bpe").backend_tokenizer.to_str())
    vocabulary = plain["model"]["vocab"]
    tokens = [token for token in vocabulary if token not in ("<pad>", "<unk>", "<s>", "</s>")]
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0)).tolist()
    plain["model"]["vocab"] |= {token: 4 + place for token, place in zip(tokens, order, strict=True)}
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(plain)), **names)


def rows(kind: str, texts: list[str] = TEXTS, *, left: bool = False, special: bool = True) -> dict[str, Tensor]:
    ids = [tokenizer(kind)(text, add_special_tokens=special, split_special_tokens=True)["input_ids"] for text in texts]
    length = max(map(len, ids))
    batch = {name: torch.zeros(len(ids), length, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    for row, each in enumerate(ids):
        at = slice(length - len(each), length) if left else slice(0, len(each))
        batch["input_ids"][row, at] = torch.tensor(each)
        batch["attention_mask"][row, at] = 1
    return batch


BYTES = {character: byte for byte, character in bytes_to_unicode().items()}


def spelled(kind: str, index: int) -> bytes:
    """The bytes of a token, from transformers' own table."""
    token = tokenizer(kind).convert_ids_to_tokens(index)
    if token in ("<s>", "</s>", "<pad>", "<unk>"):
        return b""
    return bytes(BYTES[character] for character in token)


class Scripted(Teacher):
    """Sure of the token that really comes next, and remembers what it was asked."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.read: dict[str, Tensor] = {}

    def require(self, names: Collection[str]) -> None:
        pass

    def identity(self) -> str:
        return "scripted"

    def __call__(self, batch: Batch) -> Signal:
        self.read = dict(batch)
        following = torch.zeros_like(batch["input_ids"])
        following[:, :-1] = batch["input_ids"][:, 1:]
        return Signal({"logits": 30.0 * nn.functional.one_hot(following, self.vocabulary).float()})


def llama(vocabulary: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


# -- alignment itself ---------------------------------------------------------------------------------------------


def naive_pairs(mine: list[int], theirs: list[int]) -> list[int]:
    found = []
    for i, end in enumerate(mine):
        last = end >= 0 and all(other != end for other in mine[i + 1 :])
        same = [j for j, other in enumerate(theirs) if other == end]
        found.append(same[-1] if last and same else -1)
    return found


def test_pairs_are_those_of_a_loop() -> None:
    """A pair too few or too many, where tokens end together, stand for nothing, or are padding on either side."""
    generator = torch.Generator().manual_seed(0)
    mine, theirs = (torch.randint(0, 4, (40, n), generator=generator).cumsum(1) for n in (9, 14))
    for ends, before, behind in ((mine, 2, 1), (theirs, 0, 3)):
        ends[::2, :before] = -1
        ends[1::2, ends.shape[1] - behind :] = -1
    expected = [naive_pairs(a, b) for a, b in zip(mine.tolist(), theirs.tolist(), strict=True)]
    assert align(mine, theirs).tolist() == expected
    assert {len({j for j in row if j >= 0}) for row in expected} > {1, 2}
    assert align(mine, theirs[:, :0]).tolist() == [[-1] * 9] * 40
    with pytest.raises(LimbeckError, match="of one batch"):
        align(mine[:3], theirs)


def naive_positions(student: str, teacher: str, batch: Batch, read: Batch) -> list[list[tuple[int, int] | None]]:
    """For each of the student's tokens the row and place of the teacher's last token with the same prefix of bytes."""
    found: list[list[tuple[int, int] | None]] = []
    row = -1
    for ids, mask in zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True):
        row += 1
        theirs, text = {}, b""
        for j, index in enumerate(read["input_ids"][row].tolist()):
            if read["attention_mask"][row, j]:
                text += spelled(teacher, index)
                text += b"<end>" if index == 3 else b""
                theirs[text] = (row, j)
        line: list[tuple[int, int] | None] = []
        text = b""
        for index, real in zip(ids, mask, strict=True):
            text += spelled(student, index) if real else b""
            text += b"<end>" if real and index == 3 else b""
            line.append(theirs.get(text) if real else None)
        found.append(line)
    return found


@pytest.mark.parametrize(("student", "teacher"), [("bytes", "bpe"), ("bpe", "bytes"), ("shuffled", "bpe")])
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_positions_have_read_the_same_bytes(student: str, teacher: str, left: bool) -> None:
    """Characters counted in place of bytes, padding that shifts a row, or a pair that an independent loop has not."""
    across = Retokenized(Scripted(400), tokenizer(teacher), tokenizer(student))
    batch = rows(student, left=left)
    reading = across.read(batch)
    width = reading.batch["input_ids"].shape[1]
    got = [[None if at < 0 else divmod(at, width) for at in line] for line in reading.positions.tolist()]
    assert got == naive_positions(student, teacher, batch, reading.batch)
    real = batch["attention_mask"].bool()
    share = float((reading.positions[real] >= 0).float().mean())
    assert share == 1.0 if teacher == "bytes" or student == "shuffled" else 0.2 < share < 0.9


@pytest.mark.parametrize(
    ("student", "teacher"), [("bytes", "bpe"), ("bpe", "bytes"), ("llama", "bpe"), ("bpe", "llama")]
)
def test_a_teacher_that_knows_what_comes_says_what_comes(student: str, teacher: str) -> None:
    """Logits taken one token early or late: what the teacher foresees at an aligned token is what follows there."""
    mine, theirs = TokenBytes(tokenizer(student), "student"), TokenBytes(tokenizer(teacher), "teacher")
    across = Retokenized(Scripted(len(theirs)), tokenizer(teacher), tokenizer(student))
    batch = rows(student, special=False)
    signal = across(batch)
    foreseen = signal["logits"].argmax(-1)
    right = dict.fromkeys((-1, 0, 1), 0)
    total = 0
    for row, ids in enumerate(batch["input_ids"].tolist()):
        real = [index for index, here in zip(ids, batch["attention_mask"][row].tolist(), strict=True) if here]
        for i in range(len(real) - 1):
            if not signal.masks["logits"][row, i]:
                continue
            total += 1
            said = theirs.pieces[int(foreseen[row, i])] or b""
            for shift in right:
                follows = mine.joined(real[i + 1 + shift :])
                right[shift] += bool(said) and (follows.startswith(said) or said.startswith(follows or b"\0"))
    assert total > 20
    assert right[0] == total
    assert right[-1] < 0.7 * total
    assert right[1] < 0.7 * total


# -- what tokens spell --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bpe", "bytes", "llama", "characters"])
def test_tokens_spell_their_text(kind: str) -> None:
    """Bytes that are not those of the text: of a merged token, of a single byte, of the space before a text."""
    tokens = TokenBytes(tokenizer(kind), "student")
    lead = b" " if kind == "llama" else b""
    assert tokens.leads == (kind == "llama")
    for text, ids in zip(TEXTS, tokens.encoded(TEXTS), strict=True):
        if kind == "characters" and "</s>" in text:
            continue  # has characters that this vocabulary does not know
        assert tokens.joined(ids) == lead + text.encode()
        assert not any(index in tokens.special for index in ids)
    canonical = tokens.canonical()
    assert canonical[b"t"] == tokenizer(kind).get_vocab()["t"]  # not the byte <0x74> of SentencePiece


def test_word_pieces_are_refused() -> None:
    """Tokens placed in a text from which spaces were dropped."""
    with pytest.raises(LimbeckError, match=r"the teacher's tokenizer joins tokens by WordPiece.*sequence-level"):
        Retokenized(Scripted(9), tokenizer("wordpiece"), tokenizer("bytes"))


def test_words_that_were_added_are_written_as_they_are() -> None:
    """An added word read in the alphabet of bytes, in which `é` is a byte and no character."""
    added = train_tokenizer(TEXTS, kind="bytes", lowercase=False)
    added.add_tokens(["é", "  "])
    tokens = TokenBytes(added, "student")
    text = "café  x"
    ids = tokens.encoded([text])[0]
    assert len(ids) < len(text.encode())
    assert tokens.joined(ids) == text.encode()


def test_a_text_that_does_not_come_back_is_aligned_up_to_there(caplog: pytest.LogCaptureFixture) -> None:
    """A teacher that lowers its case is compared after texts that it has not read."""
    lowers = train_tokenizer(TEXTS * 4, kind="bpe", vocabulary=330, lowercase=True)
    across = Retokenized(Scripted(400), lowers, tokenizer("bytes"))
    batch = rows("bytes", ["the cat The cat sat", "the cat sat"])
    with caplog.at_level(logging.WARNING):
        positions = across.read(batch).positions
        across.read(batch)
    assert len(caplog.records) == 1
    assert "does not give back 1 of 2 texts" in caplog.text
    assert bool((positions[0, :7] >= 0).any())
    assert bool((positions[0, 8:] < 0).all())
    assert int(positions[1, 10]) >= 0


def test_a_character_that_a_row_cuts_in_two() -> None:
    """A row that ends inside of a character: an error, or a replacement character that the teacher reads. One that
    begins there is left alone."""
    across = Retokenized(scripted := Scripted(400), tokenizer("bpe"), tokenizer("bytes"))
    ids = rows("bytes", ["the 漢字"], special=False)["input_ids"]
    for cut in (ids[:, :5], ids[:, :6]):
        positions = across({"input_ids": cut}).masks["logits"]
        assert bool(positions[0, 3])
        assert not bool(positions[0, 4:].any())
        assert tokenizer("bpe").decode(scripted.read["input_ids"][0]).strip() == "the"
    begins_inside = torch.nn.functional.pad(ids[:, 5:], (0, 5))
    both = torch.cat([ids, begins_inside])
    mask = torch.ones_like(both)
    mask[1, ids.shape[1] - 5 :] = 0
    assert not bool(across.read({"input_ids": both, "attention_mask": mask}).positions[1].ge(0).any())


def test_an_unknown_character_ends_the_alignment() -> None:
    """Two texts taken for one because their unknown characters are the same token."""
    across = Retokenized(Scripted(400), tokenizer("bytes"), tokenizer("characters"))
    batch = rows("characters", ["the cat Q sat"], special=False)
    positions = across.read(batch).positions[0]
    assert bool((positions[:8] >= 0).all())
    assert bool((positions[8:] < 0).all())


def test_special_tokens_have_counterparts() -> None:
    """A `</s>` that the teacher reads as text, and a `<s>` that it misses or reads twice."""
    across = Retokenized(scripted := Scripted(400), tokenizer("llama"), tokenizer("bpe"))
    mine, theirs = tokenizer("bpe").get_vocab(), tokenizer("llama").get_vocab()
    the, end, begin = mine["the"], mine["</s>"], mine["<s>"]
    positions = across.read({"input_ids": torch.tensor([[the, end, the, end]])}).positions
    read = across.read({"input_ids": torch.tensor([[the, end, the, end]])}).batch["input_ids"][0].tolist()
    assert read == [theirs["<s>"], theirs["▁the"], theirs["</s>"], theirs["▁the"], theirs["</s>"]]
    assert positions.tolist() == [[1, 2, 3, 4]]
    began = across.read({"input_ids": torch.tensor([[begin, the, end]])})
    assert began.batch["input_ids"].tolist() == [[theirs["<s>"], theirs["▁the"], theirs["</s>"]]]
    assert began.positions.tolist() == [[0, 1, 2]]
    assert scripted.read == {}


def test_a_special_token_without_a_counterpart_is_named() -> None:
    """A chat's markers that the teacher does not see, while its answers are taken as if it had."""
    student = train_tokenizer(TEXTS, kind="bytes", lowercase=False)
    student.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    teacher = train_tokenizer(TEXTS * 4, kind="bpe", vocabulary=330, lowercase=False)
    teacher.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    batch = {"input_ids": torch.tensor([student("the<turn>cat")["input_ids"]])}
    with pytest.raises(LimbeckError, match=r"token '<turn>' is inside of a text.*special=\{'<turn>': …\}"):
        Retokenized(Scripted(400), teacher, student).read(batch)
    across = Retokenized(Scripted(400), teacher, student, special={"<turn>": "<|turn|>"})
    reading = across.read(batch)
    assert teacher.decode(reading.batch["input_ids"][0]) == "the<|turn|>cat</s>"
    assert int(reading.positions[0, 3]) >= 0
    with pytest.raises(LimbeckError, match=r"the teacher's tokenizer has no token '<b>'"):
        Retokenized(Scripted(400), teacher, student, special={"<turn>": "<b>"})


def test_packed_documents_are_read_one_by_one() -> None:
    """A document of a packed row that the teacher reads after another, or at the place that it has in the row."""
    across = Retokenized(Scripted(400), tokenizer("bpe"), tokenizer("bytes"))
    apart = rows("bytes", TEXTS[:2])
    ids = [row[mask.bool()] for row, mask in zip(*apart.values(), strict=True)]
    packed = {
        "input_ids": torch.cat(ids)[None],
        "position_ids": torch.cat([torch.arange(len(each)) for each in ids])[None],
    }
    alone, together = across.read(apart), across.read(packed)
    assert torch.equal(alone.batch["input_ids"], together.batch["input_ids"])
    assert torch.equal(alone.positions[apart["attention_mask"].bool()], together.positions[0])


def test_beyond_its_length_the_teacher_says_nothing() -> None:
    """A text that is longer than what the teacher can read."""
    across = Retokenized(scripted := Scripted(400), tokenizer("bytes"), tokenizer("bpe"), max_length=12)
    signal = across(rows("bpe", TEXTS[:1]))
    assert scripted.read["input_ids"].shape == (1, 12)
    ends = TokenBytes(tokenizer("bpe"), "student")
    read = [len(ends.joined(rows("bpe", TEXTS[:1])["input_ids"][0, : i + 1].tolist())) for i in range(8)]
    assert signal.masks["logits"][0, :8].tolist() == [end <= 12 for end in read]


def test_the_wrong_tokenizer_is_noticed() -> None:
    """A run in which no token has a teacher, and nothing says so."""
    across = Retokenized(Scripted(400), tokenizer("bpe"), tokenizer("bytes"))
    with pytest.raises(LimbeckError, match="no token of the student's ends where one of the teacher's does"):
        across.read({"input_ids": torch.tensor([[tokenizer("bytes").get_vocab()[bytes_to_unicode()[0x9F]]] * 3])})


# -- vocabularies -------------------------------------------------------------------------------------------------


def test_padding_of_models_makes_no_other_tokenizer() -> None:
    """Qwen's 151,936 and 152,064 rows for one tokenizer taken for two; or numbers that stand for other tokens taken for
    one."""
    bpe, again = tokenizer("bpe"), train_tokenizer(TEXTS * 4, kind="bpe", vocabulary=330, lowercase=False)
    assert same_vocabulary(bpe, again)
    again.add_special_tokens({"additional_special_tokens": ["<more>"]})
    assert same_vocabulary(bpe, again)
    assert same_vocabulary(again, bpe)
    assert not same_vocabulary(bpe, tokenizer("shuffled"))
    assert not same_vocabulary(bpe, tokenizer("bytes"))
    student, teacher = llama(len(bpe) + 7), llama(len(bpe) + 20, seed=1)
    plain = across_tokenizers(teacher, again, bpe)
    assert isinstance(plain, Live)
    batch = rows("bpe", TEXTS[:2])
    loss = Distiller(student, plain, [Term(KD(1.0))])(batch).loss
    torch.testing.assert_close(loss, Distiller(student, teacher, [Term(KD(1.0))])(batch).loss)
    with pytest.raises(LimbeckError, match=r"have one vocabulary.*without Retokenized"):
        Retokenized(teacher, again, bpe)


def test_shared_tokens_stand_for_the_same_bytes() -> None:
    """A token paired by its spelling, which is another alphabet's; two pairs for one token; a pair that is missing."""
    mine, theirs = TokenBytes(tokenizer("bpe"), "student"), TokenBytes(tokenizer("llama"), "teacher")
    student_ids, teacher_ids = shared_tokens(mine, theirs, {3: 2, 2: 2})
    pairs = dict(zip(student_ids.tolist(), teacher_ids.tolist(), strict=True))
    assert pairs.pop(3) == 2
    assert len(set(pairs.values())) == len(pairs)
    naive = {
        i: j
        for i, mine_piece in enumerate(mine.pieces)
        for j, their_piece in enumerate(theirs.pieces)
        if mine_piece and mine_piece == their_piece and not (j < 259 and mine_piece.decode("latin") in "thecasonmd ")
    }
    assert pairs == naive
    assert mine.pieces.index(b" the") in pairs


# -- in training --------------------------------------------------------------------------------------------------


def lumped(logits: Tensor, ids: Tensor) -> Tensor:
    """Probabilities of some entries and of all others together, as plain sums."""
    p = logits.double().softmax(-1)
    return torch.cat([p[..., ids], 1.0 - p[..., ids].sum(-1, keepdim=True)], -1)


@pytest.mark.parametrize("loss", [KD(2.0), ReverseKL(2.0), GeneralizedJSD(2.0)], ids=lambda loss: loss.name)
def test_divergences_over_shared_tokens(loss: Any) -> None:
    """A tail that is missing, in another order, or of another temperature; logits at another token. Every token of the
    student's ends at a byte, so each has a teacher."""
    student, teacher = llama(len(tokenizer("bpe")) + 3), llama(260, seed=1)
    shared = SharedTokens(Retokenized(teacher, tokenizer("bytes"), tokenizer("bpe")), temperature=2.0)
    batch = rows("bpe")
    distiller = Distiller(student, shared, [Term(loss)], example=batch)
    output = distiller(batch)
    reading = shared.teacher.read(batch)
    with torch.no_grad():
        q = student(**batch, use_cache=False).logits / 2
        p = teacher(**reading.batch, use_cache=False).logits / 2
    width = reading.batch["input_ids"].shape[1]
    values = []
    for row, mask in enumerate(batch["attention_mask"].tolist()):
        for i in range(sum(mask) - 1):
            at = divmod(int(reading.positions[row, i]), width)
            one, other = lumped(q[row, i], shared.student_ids), lumped(p[at], shared.teacher_ids)
            middle = (one + other) / 2
            kl = {
                "kd": other * (other / one).log(),
                "reverse-kl": one * (one / other).log(),
                "generalized-jsd": (other * (other / middle).log() + one * (one / middle).log()) / 2,
            }[loss.name]
            values.append(4 * float(kl.sum()))
    torch.testing.assert_close(output.loss.item(), sum(values) / len(values), rtol=1e-4, atol=1e-6)
    output.loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in student.parameters() if p.grad is not None)


def test_a_teacher_with_other_numbers_for_the_same_tokens_teaches_the_same() -> None:
    """Tokens paired wrongly: a shuffled vocabulary is no other one, but for tokens that nobody writes."""
    vocabulary = len(tokenizer("bpe"))
    student, teacher = llama(vocabulary), llama(vocabulary, seed=1)
    across = SharedTokens(Retokenized(teacher, tokenizer("shuffled"), tokenizer("bpe")))
    batch = rows("bpe", TEXTS[:1])
    signal = across(batch)
    top = signal.targets["logits"]
    assert isinstance(top, TopK)
    # pad, unk and begin have counterparts of one name; nothing is left over
    assert len(top.ids[0]) == vocabulary - 1  # all but <unk>
    theirs = tokenizer("shuffled").get_vocab()
    ids = torch.tensor([theirs[token] for token in tokenizer("bpe").convert_ids_to_tokens(range(vocabulary))])
    there = {"input_ids": ids[batch["input_ids"]]}
    with torch.no_grad():
        expected = teacher(**there, use_cache=False).logits[0, :-1].log_softmax(-1)[:, ids]
    torch.testing.assert_close(top.log_probs, expected[:, top.ids[0]])
    torch.testing.assert_close(top.log_tail, expected[:, 1])
    assert bool(Distiller(student, across, [Term(KD(1.0))])(batch).loss.isfinite())


def test_sorted_probabilities_at_aligned_tokens() -> None:
    """ULD against logits of another token, or of a vocabulary that padding has made larger."""
    student, teacher = llama(len(tokenizer("bpe"))), llama(300, seed=1)
    across = Retokenized(teacher, tokenizer("bytes"), tokenizer("bpe"))
    batch = rows("bpe", TEXTS[:2])
    output = Distiller(student, across, [Term(ULD())], example=batch)(batch)
    reading = across.read(batch)
    with torch.no_grad():
        q = student(**batch, use_cache=False).logits.softmax(-1)
        p = teacher(**reading.batch, use_cache=False).logits[..., :260].softmax(-1).flatten(0, 1)
    values = []
    for row, mask in enumerate(batch["attention_mask"].tolist()):
        for i in range(sum(mask) - 1):
            one = q[row, i].sort(descending=True).values
            other = p[reading.positions[row, i]].sort(descending=True).values
            values.append(float((one - torch.nn.functional.pad(other, (0, len(one) - 260))).abs().sum()))
    torch.testing.assert_close(output.loss.item(), sum(values) / len(values), rtol=1e-5, atol=1e-6)
    output.loss.backward()


def test_where_nothing_is_aligned_nothing_is_said() -> None:
    """Logits of some other token at the student's tokens that have no teacher; NaN from there in a gradient."""
    teacher = llama(len(tokenizer("bpe")), seed=1)
    across = Retokenized(teacher, tokenizer("bpe"), tokenizer("bytes"))
    batch = rows("bytes", TEXTS[:2])
    signal = across(batch)
    mask = signal.masks["logits"]
    assert mask.shape == batch["input_ids"].shape
    assert torch.equal(mask, across.masks(batch)["logits"])
    assert bool((signal["logits"][~mask] == 0).all())
    shared = SharedTokens(across)
    shared.require({"logits"})
    answered = shared(batch)
    counted = TokenPlan(batch, causal=True).where("logits")
    assert torch.equal(answered.masks["logits"], mask.flatten()[counted])
    top = answered.targets["logits"]
    assert isinstance(top, TopK)
    torch.testing.assert_close(top.log_probs.exp().sum(1) + top.log_tail.exp(), torch.ones(len(counted)))
    reading = across.read(batch)
    with torch.no_grad():
        p = teacher(**reading.batch, use_cache=False).logits.softmax(-1).flatten(0, 1)
    for item, at in enumerate(reading.positions.flatten()[counted].tolist()):
        if at >= 0:
            torch.testing.assert_close(top.log_probs[item].exp(), p[at][shared.teacher_ids], rtol=1e-4, atol=1e-7)


def test_losses_that_cannot_serve_are_refused() -> None:
    """Class 17 of one vocabulary compared with class 17 of another, as padding of a vocabulary allows."""
    student, teacher = llama(len(tokenizer("bpe"))), llama(260, seed=1)
    across = Retokenized(teacher, tokenizer("bytes"), tokenizer("bpe"))
    with pytest.raises(
        LimbeckError, match=r"term kd.*the teacher's vocabulary is another; wrap the teacher in SharedT"
    ):
        Distiller(student, across, [Term(KD(1.0))])
    with pytest.raises(LimbeckError, match=r"term uld.*needs every class of the teacher's.*give the teacher without"):
        Distiller(student, SharedTokens(across), [Term(ULD())])
    with pytest.raises(LimbeckError, match=r"its temperature is 4.0, and that of SharedTokens 1; give both the same"):
        Distiller(student, SharedTokens(across), [Term(KD())])
    with pytest.raises(LimbeckError, match="only its logits can"):
        Distiller(student, across, [Term(RKD(), student="model.norm", teacher="model.norm")])


def test_identity_knows_the_tokenizers() -> None:
    """Labels of one tokenisation taken for those of another."""
    teacher = Scripted(400)
    made = [
        Retokenized(teacher, tokenizer("bpe"), tokenizer("bytes")),
        Retokenized(teacher, tokenizer("shuffled"), tokenizer("bytes")),
        Retokenized(teacher, tokenizer("bpe"), tokenizer("bytes"), max_length=9),
    ]
    names = [each.identity() for each in made] + [SharedTokens(made[0]).identity()]
    assert len(set(names)) == 4
    made[0].read(rows("bytes"))
    assert made[0].identity() == names[0]
    assert Retokenized(teacher, tokenizer("bpe"), tokenizer("bytes")).identity() == names[0]


def test_texts_that_come_again_are_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenising every text in every epoch, or remembering all texts of a corpus."""
    across = Retokenized(Scripted(400), tokenizer("bpe"), tokenizer("bytes"))
    first = across.read(rows("bytes"))
    monkeypatch.setattr(across.speller.teacher, "tokenizer", None)
    again = across.read(rows("bytes", TEXTS[::-1]))
    assert torch.equal(first.batch["input_ids"], again.batch["input_ids"].flip(0))
    monkeypatch.undo()
    monkeypatch.setattr("limbeck.teachers.retokenized.REMEMBERED", 2)
    across.read(rows("bytes", TEXTS[:3]))
    across.read(rows("bytes", TEXTS[:1]))
    assert len(across._known) == 2
