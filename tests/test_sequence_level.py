"""limbeck.sequences: a teacher's own translations, from its store to a student's targets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from limbeck import Distiller, LabelStore, Stored, Term, label
from limbeck.errors import LimbeckError
from limbeck.generation import generate
from limbeck.losses import KD, Supervised
from limbeck.metrics import sentence_scores
from limbeck.sequences import SEQUENCES, Hypothesis, as_hypotheses, read_sequences, sequence_targets
from limbeck.sources.texts import PairSet, Tokenizing, train_tokenizer
from limbeck.store import DenseLogits, Sequences, TopKLogits
from limbeck.store.codecs import Items
from limbeck.types import LinearHead

ENGLISH = ["a dog runs", "two men play chess", "a girl reads a book", "the dog sleeps", "a man", "the girl runs"]
GERMAN = ["ein hund läuft", "zwei männer spielen schach", "ein mädchen liest ein buch", "der hund schläft", "ein mann",
          "das mädchen läuft"]  # fmt: skip


def quiet(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def tokenizing() -> Tokenizing:
    return Tokenizing(train_tokenizer([*ENGLISH, *GERMAN], kind="bpe", vocabulary=300, lowercase=False), 30)


@pytest.fixture
def data(tokenizing: Tokenizing) -> PairSet:
    return PairSet(ENGLISH, GERMAN, torch.arange(6) * 11 + 3, tokenizing)


def translator(tokenizing: Tokenizing, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.MarianConfig(
        vocab_size=tokenizing.vocabulary, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
        decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=40,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=2, forced_eos_token_id=None, dropout=0.0,
    )  # fmt: skip
    model = transformers.MarianMTModel(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "positions" not in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.final_logits_bias[0, 3] = 7.0
    return model


def items(count: int) -> Items:
    zeros = torch.zeros(count, dtype=torch.int64)
    return Items(zeros, zeros, zeros, zeros - 1, 0)


@pytest.mark.parametrize("vocabulary", [50, 65_535, 65_536, 250_000])
def test_tokens_come_back(vocabulary: int) -> None:
    """A token taken for padding, or cut to 16 bits."""
    tokens = torch.randint(0, vocabulary, (5, 3, 7))
    tokens[0, 0, 0], tokens[1, 2, 6] = vocabulary - 1, vocabulary - 1
    tokens[0, 1, 3:], tokens[2], tokens[4, 0, 1:] = -1, -1, -1
    codec = Sequences(vocabulary, {"eos_token_id": [2]})
    columns = codec.encode(tokens, items(5))
    assert columns["tokens"].element_size() == (2 if vocabulary < 65_536 else 4)
    assert torch.equal(codec.decode(columns, (3, 7), {}), tokens)  # type: ignore[arg-type]
    assert Sequences(3).ends == ()
    assert Sequences(3, {"eos_token_id": 2}).ends == (2,)
    assert Sequences(3, {"eos_token_id": [2, 1]}).ends == (2, 1)


def test_what_a_store_of_sequences_does_not_take_or_serve() -> None:
    """Logits kept as whole numbers; a loss that compares tokens' names as if they were features."""
    head = LinearHead(torch.zeros(1, 2), torch.zeros(3, 2))
    for values in (torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64), head):
        with pytest.raises(
            LimbeckError, match=r"codec 'sequences' keeps the tokens that limbeck\.generation\.generate"
        ):
            Sequences().encode(values, items(2))
    assert "learn it as targets, by limbeck.sequences.sequence_targets" in Sequences().refuses(KD(1.0))


def test_hypotheses() -> None:
    """An end that is learned twice, a cut-off text taken for a whole one, a beam of nothing that is a translation."""
    tokens = torch.tensor([[[5, 6, 2, -1], [7, 8, 9, 4]], [[2, -1, -1, -1], [-1, -1, -1, -1]], [[-1] * 4, [-1] * 4]])
    found = as_hypotheses(tokens, torch.tensor([[-0.5, -1.0], [-2.0, 0.0], [0.0, 0.0]]), [2])
    assert found == [
        [Hypothesis([5, 6], -0.5, True), Hypothesis([7, 8, 9, 4], -1.0, False)],
        [Hypothesis([], -2.0, True)],
        [Hypothesis([], 0.0, False)],
    ]
    assert math.isnan(as_hypotheses(tokens, None, [2])[0][0].score)


def test_best_takes_the_most_probable_that_ended() -> None:
    """Texts that were cut off, from which a student learns never to end."""
    given = {
        1: [Hypothesis([5], -0.1, True), Hypothesis([6], -0.2, True)],
        2: [Hypothesis([7] * 9, -0.1, False), Hypothesis([8], -0.3, True)],
        3: [Hypothesis([9] * 9, -0.1, False)],
    }
    assert sequence_targets(given) == {1: [5], 2: [8]}
    with pytest.raises(LimbeckError, match="unknown mode 'beam' of sequence-level targets; known: best, interpolation"):
        sequence_targets(given, mode="beam")  # type: ignore[arg-type]


@pytest.mark.parametrize("similarity", ["bleu", "chrf"])
def test_interpolation_takes_the_nearest_to_the_reference(data: PairSet, similarity: Any) -> None:
    """The nearest to another sample's reference, or to a hidden one; a less probable one where two are as near."""

    def written(text: str) -> list[int]:
        return data.tokenizing.tokenizer(text).input_ids[:-1]  # type: ignore[no-any-return]

    texts = {
        3: ["ein", "ein hund läuft", "ein hund"],
        14: ["zwei", "zwei männer", "zwei männer spielen"],
        25: ["ein buch", "ein buch", "ein"],
        36: ["der hund", "der"],
        47: ["ein frau", "ein mann"],
    }
    given = {
        each: [
            Hypothesis(written(text), -float(place), not (each == 47 and place == 1)) for place, text in enumerate(own)
        ]
        for each, own in texts.items()
    }
    hidden = data.with_labels(torch.tensor([True, True, True, False, True, True]))
    chosen = sequence_targets(given, mode="interpolation", references=hidden, similarity=similarity)
    for each, own in texts.items():
        expected = own[0]
        if each not in (36, 47):  # whose reference is hidden, of which only one ended
            scores = sentence_scores(own, [GERMAN[(each - 3) // 11]] * len(own), similarity=similarity)
            expected = own[scores.index(max(scores))]
        assert hidden.decode([chosen[each]]) == [expected]
    assert chosen[25] is given[25][0].tokens
    with pytest.raises(LimbeckError, match="give references=the data set"):
        sequence_targets(given, mode="interpolation")
    with pytest.raises(LimbeckError, match="no sample has both a hypothesis and a reference"):
        sequence_targets({99: given[3]}, mode="interpolation", references=data)


def test_from_a_teacher_to_a_students_step(tmp_path: Path, data: PairSet) -> None:
    """A student that learns the references, its teacher's words on other texts, or another loss than on any labels."""
    teacher, student = translator(data.tokenizing), translator(data.tokenizing, 1)
    options: dict[str, Any] = {"beams": 3, "max_new_tokens": 20, "scores": True, "say": quiet}
    given = generate(teacher, data, return_all_beams=True, cache=tmp_path / "s", **options)
    store = LabelStore.open(tmp_path / "s")
    assert store.signals[SEQUENCES].shape == (3, 20)
    assert store.verify() == []
    found = read_sequences(store)
    assert [found[each] for each in data.ids.tolist()] == given
    targets = sequence_targets(tmp_path / "s")
    assert targets == sequence_targets(dict(zip(data.ids.tolist(), given, strict=True)))
    assert len(targets) > 3
    taught = data.with_targets(targets)
    batch = taught.__getitems__(range(6))
    for row, each in enumerate(data.ids.tolist()):
        labels = batch["labels"][row][batch["labels"][row] >= 0].tolist()
        expected = [*targets[each], 3] if each in targets else data.tokenizing.tokenizer(GERMAN[row]).input_ids
        assert labels == expected
    loss = Distiller(student, None, [Term(Supervised())])(batch).loss
    own = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    torch.testing.assert_close(loss, student(**own).loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("codec", [DenseLogits(), TopKLogits(k=300)], ids=lambda codec: codec.name)
def test_tokens_are_taught_on_the_teachers_own_words(tmp_path: Path, data: PairSet, codec: Any) -> None:
    """Logits that a teacher gave on the references, beside its own words: other tokens before each of them."""
    teacher, student = translator(data.tokenizing), translator(data.tokenizing, 1)
    words = generate(teacher, data, beams=2, max_new_tokens=20, return_all_beams=True, say=quiet)
    taught = data.with_targets(sequence_targets(dict(zip(data.ids.tolist(), words, strict=True))))
    store = label(teacher, taught, tmp_path / "logits", signals={"logits": codec}, batch_size=4, say=quiet)
    terms = [Term(Supervised(), 0.5), Term(KD(1.0), 0.5)]
    batch = taught.__getitems__([4, 0, 2])
    live = Distiller(student, teacher, terms)(batch).loss
    torch.testing.assert_close(Distiller(student, Stored(store), terms)(batch).loss, live, rtol=2e-3, atol=2e-3)
    with pytest.raises(LimbeckError, match="is not what the teacher of the label store"):
        Distiller(student, Stored(store), terms)(data.__getitems__([4, 0, 2]))


def test_stores_that_hold_no_sequences(tmp_path: Path, data: PairSet) -> None:
    """Logits that are read as translations."""
    teacher = translator(data.tokenizing)
    label(teacher, data, tmp_path / "logits", say=quiet)
    with pytest.raises(LimbeckError, match="holds logits, not what a teacher writes; make one with"):
        read_sequences(tmp_path / "logits")
    with pytest.raises(LimbeckError, match="holds no label store"):
        sequence_targets(tmp_path / "nowhere")
    generate(teacher, data, max_new_tokens=4, cache=tmp_path / "words", say=quiet)
    with pytest.raises(LimbeckError, match="has no signal 'logits'"):
        Distiller(translator(data.tokenizing, 1), Stored(tmp_path / "words"), [Term(KD(1.0))])


def test_a_text_without_a_target_is_taught_by_its_teacher(data: PairSet, tokenizing: Tokenizing) -> None:
    """Texts that nobody translated, left out although the teacher can."""
    alone = PairSet(ENGLISH, [None] * 6, data.ids, tokenizing)
    words = generate(translator(tokenizing), alone, max_new_tokens=20, return_all_beams=True, say=quiet)
    targets = sequence_targets(dict(zip(alone.ids.tolist(), words, strict=True)))
    taught = alone.with_targets(targets)
    assert int(taught.labelled.sum()) == len(targets) > 0
    distiller = Distiller(translator(tokenizing, 1), None, [Term(Supervised())])
    batch = taught.__getitems__(range(6))
    assert distiller.counts(batch).tolist() == [sum(len(tokens) + 1 for tokens in targets.values())]
    assert alone.references == (None,) * 6
