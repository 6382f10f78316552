"""Vocabularies learned from texts: parts of words, merged bytes, bytes, or characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

Kind = Literal["wordpiece", "bpe", "bytes", "characters"]

LEAST: dict[Kind, int] = {"wordpiece": 6, "bpe": 260, "bytes": 0, "characters": 5}
"""The smallest vocabulary of each kind: its special tokens and one more, or all bytes; that of bytes is not chosen."""
KINDS = tuple(LEAST)

_BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
_PLAIN = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


def learned(kind: Kind, texts: Sequence[str], vocabulary: int, lowercase: bool) -> tuple[Tokenizer, dict[str, str]]:
    """A tokenizer of a kind, and its special tokens by the name that transformers has for them.

    `texts` (samples,) are read unless a token is a byte. The same texts give the same tokenizer.
    """
    names = _BERT if kind == "wordpiece" else _PLAIN
    special = list(names.values())
    if kind == "bytes":
        return _bytes(special, lowercase), names
    by_kind: dict[str, Callable[[Sequence[str], list[str], int, bool], Tokenizer]] = {
        "wordpiece": _wordpiece,
        "bpe": _merged_bytes,
        "characters": _characters,
    }
    return by_kind[kind](texts, special, vocabulary, lowercase), names


def _wordpiece(texts: Sequence[str], special: list[str], vocabulary: int, lowercase: bool) -> Tokenizer:
    # Left to itself the trainer numbers the single inner characters in the order of a hash table, another in each run,
    # and decides ties between merges by these numbers. So they are found first, and given in order.
    inner = sorted(token for token in _pieces(texts, special, 0, lowercase) if token.startswith("##"))
    tokenizer = _of_words(_pieces(texts, [*special, *inner], vocabulary, lowercase), lowercase)
    tokenizer.add_special_tokens(special)
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(_named(tokenizer, "[SEP]"), _named(tokenizer, "[CLS]"))
    return tokenizer


def _pieces(texts: Sequence[str], first: list[str], vocabulary: int, lowercase: bool) -> dict[str, int]:
    """The parts of words and their numbers: `first`, the characters, and what the most frequent neighbours make."""
    tokenizer = _of_words({}, lowercase)
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.get_vocab()


def _of_words(vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _merged_bytes(texts: Sequence[str], special: list[str], vocabulary: int, lowercase: bool) -> Tokenizer:
    tokenizer = _of_bytes(Tokenizer(models.BPE()), lowercase, words=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _ended(tokenizer)


def _bytes(special: list[str], lowercase: bool) -> Tokenizer:
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    model = models.BPE({token: index for index, token in enumerate(tokens)}, [])
    tokenizer = _of_bytes(Tokenizer(model), lowercase, words=False)
    tokenizer.add_special_tokens(special)
    return _ended(tokenizer)


def _of_bytes(tokenizer: Tokenizer, lowercase: bool, *, words: bool) -> Tokenizer:
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _characters(texts: Sequence[str], special: list[str], vocabulary: int, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return _ended(tokenizer)


def _ended(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with `</s>` behind each text, as T5 and Marian have it."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[_named(tokenizer, "</s>")]
    )
    return tokenizer


def _named(tokenizer: Tokenizer, token: str) -> tuple[str, int]:
    index = tokenizer.token_to_id(token)
    assert index is not None
    return token, index
