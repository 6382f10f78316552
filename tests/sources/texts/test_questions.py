"""Windows of questions and contexts, against windows made one by one."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tokenizers import processors
from torch import Tensor
from torch.utils.data import DataLoader

from limbeck.errors import LimbeckError
from limbeck.sources import collate_samples
from limbeck.sources.texts.questions import WindowSet
from limbeck.sources.texts.squad import Answer, Question
from limbeck.sources.texts.tokenizing import Tokenizing, train_tokenizer

CONTEXT = (
    "The Norman dynasty had a major political, cultural and military impact on medieval Europe. The Normans were "
    "famed for their martial spirit; their Christian piety became known. They gave their name to Normandy, a region "
    "in France, ruled by Rollo's heirs from 911 to 1204 (293 years)."
)
QUESTIONS = ["Where is Normandy?", "Who ruled it?", "When did their rule end, and when did it begin?"]
TOKENIZERS = {
    "wordpiece": train_tokenizer([CONTEXT, *QUESTIONS], kind="wordpiece", vocabulary=150),
    "bpe": train_tokenizer([CONTEXT, *QUESTIONS], kind="bpe", vocabulary=300),
    "bytes": train_tokenizer([CONTEXT], kind="bytes"),
    "characters": train_tokenizer([CONTEXT, *QUESTIONS], kind="characters", vocabulary=90, lowercase=False),
}


def ask(name: str, text: str, answer: str | None, context: str = CONTEXT) -> Question:
    """A question; no answer where it is "", and nobody says where it is None."""
    if answer is None:
        return Question(name, text, context, None, "")
    found = context.find(answer)
    answers = (Answer(answer, found if found >= 0 else None),) if answer else ()
    return Question(name, text, context, answers, "")


def several() -> list[Question]:
    return [
        ask("where", QUESTIONS[0], "France"),
        ask("who", QUESTIONS[1], "Rollo's heirs"),
        ask("none", QUESTIONS[1], ""),
        ask("long", QUESTIONS[2], "1204 (293 years)"),
        ask("unsaid", QUESTIONS[0], None),
        ask("short", "Who?", "Rollo", "Rollo."),
        ask("first", "Who?", "The Norman"),
    ]


def windows(
    questions: Sequence[Question], kind: str = "wordpiece", max_length: int = 48, stride: int | None = 12
) -> WindowSet:
    return WindowSet(questions, Tokenizing(TOKENIZERS[kind], max_length), stride=stride, name="test set")


def one_by_one(question: Question, tokenizer: Any, max_length: int, stride: int) -> list[dict[str, list[int]]]:
    """The windows of a question, as slices of its context's tokens; which tokens touch the answer is tried for each."""
    asked = tokenizer(question.text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(question.context, add_special_tokens=False, return_offsets_mapping=True)
    tokens, offsets = whole["input_ids"], whole["offset_mapping"]
    room = max_length - len(asked) - tokenizer.num_special_tokens_to_add(pair=True)
    assert len(asked) <= max_length // 2
    found, start = [], 0
    while True:
        part = tokens[start : start + room]
        row = tokenizer.convert_tokens_to_ids(["[CLS]"]) if tokenizer.cls_token else []
        end = tokenizer.convert_tokens_to_ids([(tokenizer.cls_token and "[SEP]") or "</s>"])
        row = [*row, *asked, *end]
        first = len(row)
        spots = offsets[start : start + room]
        touched: list[int] = []
        if question.answers:
            at = question.answers[0].start or 0
            until = at + len(question.answers[0].text)
            touched = [first + n for n, (b, e) in enumerate(spots) if b < until and e > at]
            inside = spots and spots[0][0] <= at and spots[-1][1] >= until
            touched = touched if inside else []
        unknown = question.answers is None
        found.append(
            {
                "input_ids": [*row, *part, *end],
                "span_mask": [0, *range(first, first + len(part))],
                "span": [-1, -1] if unknown else [touched[0], touched[-1]] if touched else [0, 0],
                "offsets": spots,
            }
        )
        if start + room >= len(tokens):
            return found
        start += room - stride


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(("max_length", "stride"), [(48, 12), (40, 0), (150, 50)])
def test_windows_against_windows_made_one_by_one(kind: str, max_length: int, stride: int) -> None:
    """An answer a token off, one that is cut by a window and learned, a window that is lost or doubled."""
    max_length *= {"wordpiece": 1, "bpe": 3}.get(kind, 4)  # what the longest question needs
    tokenizer, questions = TOKENIZERS[kind], several()
    made = windows(questions, kind, max_length, stride)
    expected = [
        {**window, "owner": owner}
        for owner, question in enumerate(questions)
        for window in one_by_one(question, tokenizer, max_length, stride)
    ]
    assert len(made) == len(expected)
    assert made.owners.tolist() == [window["owner"] for window in expected]
    batch, offsets = made.__getitems__(range(len(made))), made.offsets(torch.arange(len(made)))
    longest = max(len(window["input_ids"]) for window in expected)
    assert batch["input_ids"].shape == offsets.shape[:2] == (len(made), longest)
    learned = 0
    for row, window in enumerate(expected):
        length = len(window["input_ids"])
        assert batch["input_ids"][row, :length].tolist() == window["input_ids"]
        assert bool((batch["input_ids"][row, length:] == tokenizer.pad_token_id).all())
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (longest - length)
        assert batch["span_mask"][row].nonzero().squeeze(1).tolist() == window["span_mask"]
        span = [int(batch[name][row]) for name in ("start_positions", "end_positions")]
        assert span == window["span"]
        chosen = offsets[row, window["span_mask"][1:]]
        assert chosen.tolist() == [list(each) for each in window["offsets"]]
        assert int((offsets[row, :, 0] >= 0).sum()) == len(window["offsets"])
        question = questions[window["owner"]]
        if span[0] > 0:
            learned += 1
            text = question.context[int(offsets[row, span[0], 0]) : int(offsets[row, span[1], 1])]
            assert question.answers is not None
            assert question.answers[0].text in text
    assert learned >= 3
    assert ("token_type_ids" in batch) == (kind == "wordpiece")
    assert torch.equal(batch["labels"], batch["start_positions"])
    assert torch.equal(made.labels, batch["labels"])


def test_segments_and_types() -> None:
    """Question and context of one kind to the model, masks of another type than models take."""
    batch = windows(several()).__getitems__([0, 5])
    segments = batch["token_type_ids"]
    real, spans = batch["attention_mask"].bool(), batch["span_mask"]
    assert bool((segments[:, 1:][spans[:, 1:]] == 1).all())
    assert int(segments[0].sum()) == int(spans[0].sum()) - 1 + 1  # the context, not CLS, but the last separator
    assert bool((segments[~real] == 0).all())
    kinds = {name: tensor.dtype for name, tensor in batch.items()}
    assert kinds.pop("span_mask") is torch.bool
    assert set(kinds.values()) == {torch.int64}


def test_a_window_is_the_same_in_every_batch_split_and_process() -> None:
    """A teacher's stored answer that goes to another window."""
    questions = several()
    made = windows(questions)
    ids = made.ids
    assert len(ids.unique()) == len(made)
    other = windows(questions[::-1])
    assert set(other.ids.tolist()) == set(ids.tolist())
    part = made.subset(torch.tensor([4, 1]), name="part")
    assert part.ids.tolist() == ids[[4, 1]].tolist()
    assert part.name == "part"
    both = made.__getitems__([1, 4]), part.__getitems__([1, 0])
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])
    assert torch.equal(part.offsets([1]), made.offsets([1]))
    alone = part[1]
    assert alone["input_ids"].tolist() == [x for x in both[0]["input_ids"][0].tolist() if x]
    copied = pickle.loads(pickle.dumps(part))
    assert torch.equal(copied.__getitems__([0])["input_ids"], part.__getitems__([0])["input_ids"])
    with pytest.raises(LimbeckError, match="none: the split is empty"):
        made.subset([], name="none")


def test_labels_are_hidden_by_question() -> None:
    """A window of an unlabelled question that teaches "no answer", or labels that are hidden from the original too."""
    made = windows(several())
    assert made.labelled.tolist() == [True, True, True, True, False, True, True]
    few = made.with_labels(torch.tensor([True, False, False, True, True, True, True])).with_labels([True] * 6 + [False])
    assert few.labelled.tolist() == [True, False, False, True, False, True, False]
    shown = few.labelled[few.owners]
    batch, whole = few.__getitems__(range(len(few))), made.__getitems__(range(len(made)))
    for name in ("start_positions", "end_positions", "labels"):
        assert torch.equal(batch[name], torch.where(shown, whole[name], -1))
    assert torch.equal(few.labels, batch["labels"])
    assert few.references == made.references
    assert made.references["none"] == []
    assert made.references["where"] == ["France"]
    assert "unsaid" not in made.references
    assert made.has_unanswerable
    assert not windows(several()[:2]).has_unanswerable
    assert len(made.question_ids.unique()) == 7


def test_what_cannot_be_learned_or_is_cut_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A wrong answer learned in silence; a question that leaves no room for its context."""
    questions = [
        ask("lost", "Who?", "Napoleon"),
        ask("long", " ".join(QUESTIONS * 3), "France"),
        ask("fine", "Who?", "Rollo"),
    ]
    with caplog.at_level(logging.WARNING):
        made = windows(questions)
        assert not caplog.records, "nothing is made before it is needed"
        batch = made.__getitems__(range(len(made)))
    assert [record.message for record in caplog.records] == [
        "test set: 1 of 3 questions are longer than 24 tokens, half of a window, and are cut",
        "test set: the answers of 1 of 3 questions are not found in their contexts; these are taken as unlabelled",
    ]
    assert set(batch["labels"][made.owners == 0].tolist()) == {-1}
    assert made.labelled.tolist() == [False, True, True]
    for owner in (1, 2):
        assert int(batch["labels"][made.owners == owner].max()) > 0
    tokens = batch["input_ids"][made.owners == 1][0].tolist()
    assert 20 <= tokens.index(TOKENIZERS["wordpiece"].sep_token_id) - 1 <= 24
    assert made.references["lost"] == ["Napoleon"]


HARD = {
    "right to left": ("متى ولد؟", "ولد صلاح الدين في تكريت عام 1137 م.", "تكريت"),
    "no spaces": ("首都はどこ？", "日本の首都は東京です。人口は約1400万人。", "東京"),
    "combined characters": ("Who?", "Cafe\u0301 Zoe\u0308 and na\u00efve 👩‍👩‍👧 family", "Zoe\u0308"),
    "emoji": ("Who?", "It was 👩‍👩‍👧 family, again.", "👩‍👩‍👧 family"),
    "turkish": ("Who?", "İstanbul'da ışık İzmir'e gitti", "İzmir"),
    "white space": ("Who?", "\n\n  Rollo \t was\u00a0here \u3000", "was\u00a0here"),
}


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "bytes"])
@pytest.mark.parametrize("name", HARD)
def test_other_scripts(kind: str, name: str) -> None:
    """Characters of the normalised text, or bytes, taken for characters of the context."""
    question, context, answer = HARD[name]
    made = windows([ask(name, question, answer, context)], kind, max_length=240)
    batch = made[0]
    start, end = int(batch["start_positions"]), int(batch["end_positions"])
    offsets = made.offsets([0])[0]
    assert 0 < start <= end
    found = context[int(offsets[start, 0]) : int(offsets[end, 1])]
    # This tokenizer drops a combining mark, so no token ends behind the last one.
    assert (answer.rstrip("\u0308") if kind == "wordpiece" else answer) in found
    assert len(found) <= len(answer) + 12
    if kind == "bytes":
        assert found == answer


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_nothing_to_read(kind: str) -> None:
    """An empty context or question, which is a window of its own, and not the next question's."""
    questions = [
        ask("empty context", "Who?", "", ""), ask("empty question", "", "Rollo", "Rollo."), ask("blank", " ", "", "\t"),
        ask("after", "Who?", "Rollo", "Rollo."),
    ]  # fmt: skip
    made = windows(questions, kind)
    assert made.owners.tolist() == [0, 1, 2, 3]
    batch = made.__getitems__(range(4))
    assert batch["labels"][[0, 2]].tolist() == [0, 0]
    assert bool((batch["labels"][[1, 3]] > 0).all())
    assert batch["span_mask"][0].nonzero().flatten().tolist() == [0]


def test_a_question_without_any_token_is_named() -> None:
    """An index out of range in a batch, where a tokenizer adds nothing and there is nothing to read."""
    bare = Tokenizing(train_tokenizer([CONTEXT], kind="bytes"), 48)
    bare.tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    made = WindowSet([ask("fine", "Who?", "Rollo"), ask("none", "", "", "")], bare, stride=4, name="test set")
    with pytest.raises(LimbeckError, match="test set: question 'none' and its context give no token; leave it out"):
        len(made)


def test_mistakes_are_named() -> None:
    """An error of a library in Rust at the first long question."""
    with pytest.raises(LimbeckError, match="test set: the split is empty"):
        windows([])
    with pytest.raises(LimbeckError, match="test set: question 'where' is there 2 times"):
        windows([several()[0]] * 2)
    for stride in (-1, 21, 60):
        with pytest.raises(LimbeckError, match=f"expected a stride from 0 to 20, .* got {stride}; give a smaller"):
            windows(several(), stride=stride)
    long = ask("long", "who " * 80, "France")
    assert len(windows([long], stride=20)) > 1
    assert windows(several(), stride=None).stride == 16


def test_tokens_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens made anew for a subset, for hidden labels or in every epoch."""
    from limbeck.sources.texts import windows as module

    calls: list[int] = []
    plain = module.WindowMaker._encoded

    def counted(self: Any, asked: Any, chunk: slice) -> Any:
        calls.append(chunk.start)
        return plain(self, asked, chunk)

    monkeypatch.setattr(module.WindowMaker, "_encoded", counted)
    made = windows(several())
    hidden = made.with_labels([False] * 7)
    assert calls == []
    for each in (hidden, made, made.subset([0, 1]), hidden):
        len(each), each.ids, each.__getitems__([0])
    assert calls == [0]


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners, ids or places that start again in the next chunk."""
    from limbeck.sources.texts import windows as module

    whole = windows(several())
    expected = whole.__getitems__(range(len(whole)))
    monkeypatch.setattr(module, "CHUNK", 2)
    parts = windows(several())
    found = parts.__getitems__(range(len(parts)))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(parts.owners, whole.owners)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_gives_whole_batches(workers: int) -> None:
    """Samples of other lengths that do not stack, or labels overwritten by the collator's."""
    made = windows(several())
    loader = DataLoader(made, 4, collate_fn=collate_samples, num_workers=workers)
    batches: list[dict[str, Tensor]] = list(loader)
    assert torch.equal(torch.cat([batch["ids"] for batch in batches]), made.ids)
    assert torch.equal(torch.cat([batch["labels"] for batch in batches]), made.labels)


def test_the_preparation_is_told_apart() -> None:
    """A store of other windows taken for these."""
    prepared = windows(several()).prepared_as()
    assert prepared == windows(several()[:1]).prepared_as()
    assert prepared != windows(several(), stride=11).prepared_as()
    assert prepared != windows(several(), "bpe").prepared_as()
    assert (prepared["max_length"], prepared["stride"]) == (48, 12)
