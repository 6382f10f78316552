"""Alignment: where two tokenisations of one text have both just ended a token, in bytes of the text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from limbeck.errors import LimbeckError

NOWHERE = -1
"""The end of a token that is not aligned, and the partner of a position that has none."""

SPACE = "▁"
"""How SentencePiece writes a space."""


def align(student_ends: Tensor, teacher_ends: Tensor) -> Tensor:
    """The teacher's position at which both have read the same bytes of a text, for each of the student's.

    A causal model's logits at position i speak of what follows token i, so two distributions are after the same prefix
    where tokens i and j end at the same byte. Where several tokens end there (one stands for no text), it is the last
    of them, on both sides: before it, a model has not read all.

    Args:
        student_ends: (batch, length) int64, how many bytes of the text have been read with each token, never falling
            along a row; -1 for a token that is not to be aligned, such as padding.
        teacher_ends: (batch, other length) int64, the same of the teacher's tokens.

    Returns:
        (batch, length) int64, positions of the teacher's tokens; -1 where none ends at that byte.

    Raises:
        LimbeckError: the two are not of one batch.
    """
    if student_ends.dim() != 2 or teacher_ends.dim() != 2 or len(student_ends) != len(teacher_ends):
        raise LimbeckError(
            f"align: expected ends (batch, length) of one batch, got {tuple(student_ends.shape)} and "
            f"{tuple(teacher_ends.shape)}"
        )
    if not student_ends.shape[1] or not teacher_ends.shape[1]:
        return torch.full_like(student_ends, NOWHERE)
    real = teacher_ends >= 0
    # Padding behind a text must not sort before it.
    begun = real.long().cummax(1).values.bool()
    ordered = teacher_ends.masked_fill(~real & begun, torch.iinfo(torch.int64).max)
    found = torch.searchsorted(ordered.contiguous(), student_ends.contiguous(), right=True) - 1
    same = (found >= 0) & (student_ends >= 0) & (ordered.gather(1, found.clamp(min=0)) == student_ends)
    last = torch.ones_like(same)
    last[:, :-1] = student_ends[:, 1:] != student_ends[:, :-1]
    return found.masked_fill(~(same & last), NOWHERE)


class TokenBytes:
    """What each token of a tokenizer stands for, as bytes of the text.

    Byte-level tokens, SentencePiece's (`▁` for a space, `<0xE2>` for a byte) and plain characters have bytes of their
    own, whatever stands beside them. WordPiece has not: how its tokens join is lost.

    Args:
        tokenizer: one of the tokenizers library.
        whose: what messages call it.

    Raises:
        LimbeckError: the bytes of its tokens cannot be told.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, whose: str) -> None:
        self.tokenizer = tokenizer
        self.whose = whose
        # Cut and padding are those of the last call.
        content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        self.content = content | {"truncation": None, "padding": None}
        added = tokenizer.added_tokens_decoder
        numbers = tokenizer.get_vocab()
        self.special = {int(index): str(token) for index, token in added.items() if token.special}
        self.special |= {numbers[token]: token for token in tokenizer.all_special_tokens if token in numbers}
        kinds = _kinds(self.content.get("decoder"))
        pieces = _byte_level if "ByteLevel" in kinds else sentence_piece if kinds & {"Replace", "Metaspace"} else None
        if pieces is None and kinds != {"Fuse"}:
            raise LimbeckError(
                f"the {whose}'s tokenizer joins tokens by {', '.join(sorted(kinds)) or 'spaces'}, so that nobody can "
                "say at which byte of a text each ends; take one with byte-level or SentencePiece tokens, or learn "
                "from texts that the teacher has written (sequence-level)"
            )
        # Whole words that were added to byte-level tokens are written as they are.
        whole = added.keys() if pieces is _byte_level else frozenset()
        known: list[bytes | None] = [None] * (max([*numbers.values(), *self.special]) + 1)
        for token, index in numbers.items():
            if index not in self.special:
                known[index] = token.encode() if pieces is None or index in whole else pieces(token)
        self.pieces: tuple[bytes | None, ...] = tuple(known)
        self._check()

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def leads(self) -> bool:
        """Whether the tokenizer puts a space before a text, which is no part of it."""
        return self.joined(self.encoded(["a"])[0])[:1] == b" "

    @cached_property
    def leads_again(self) -> bool:
        """Whether it does so behind each special token too."""
        for token in self.special.values():
            ids = self.tokenizer(token + "a", add_special_tokens=False)["input_ids"]
            if ids and ids[0] in self.special:
                return self.joined(ids[1:])[:1] == b" "
        return self.leads

    def encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts, without special ones: `</s>` in a text is text."""
        if not texts:
            return []
        found = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)
        ids: list[list[int]] = found["input_ids"]
        return ids

    def joined(self, ids: Sequence[int]) -> bytes:
        """The bytes of some tokens together; those that stand for no text have none."""
        return b"".join([self.pieces[index] or b"" for index in ids])

    def canonical(self) -> dict[bytes, int]:
        """For each string of bytes the token that the tokenizer would write it with: never a byte for itself where
        there is a token for its character."""
        ranked: dict[bytes, int] = {}
        fallback = {index for token, index in self.tokenizer.get_vocab().items() if _is_byte(token)}
        for index, piece in enumerate(self.pieces):
            if piece and (piece not in ranked or (ranked[piece] in fallback and index not in fallback)):
                ranked[piece] = index
        return ranked

    def _check(self) -> None:
        """Raises LimbeckError where tokens do not join to the text that was encoded."""
        text = "ab b"
        ids = self.encoded([text])[0]
        if any(self.pieces[index] is None for index in ids):
            return  # unknown characters; every batch is compared with its own text
        got = self.joined(ids)
        if got not in (text.encode(), b" " + text.encode()):
            raise LimbeckError(
                f"the {self.whose}'s tokenizer gives {got.decode(errors='replace')!r} back for {text!r}, so that "
                "its tokens cannot be placed in a text; take one with byte-level or SentencePiece tokens"
            )


def same_vocabulary(student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast) -> bool:
    """Whether every token has one number in both tokenizers, so that both models can read the same ids.

    Either may have added tokens of its own behind them. How far models pad their tables of embeddings, 151,936 rows
    here and 152,064 there, says nothing about it.
    """
    mine, theirs = (each.backend_tokenizer.get_vocab(with_added_tokens=False) for each in (student, teacher))
    if len(mine) != len(theirs):
        return False
    mine, theirs = student.get_vocab(), teacher.get_vocab()
    numbers, others = ({index: token for token, index in each.items()} for each in (mine, theirs))
    return all(others.get(index, token) == token for index, token in numbers.items()) and all(
        theirs.get(token, index) == index for token, index in mine.items()
    )


def shared_tokens(
    student: TokenBytes, teacher: TokenBytes, special: Mapping[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """The tokens that stand for the same bytes in both vocabularies, as two lists of ids (tokens,) int64: the student's
    in ascending order, and the teacher's for each.

    `special` gives the teacher's id for special tokens of the student's, such as the end of a text; where two have the
    same one, the first takes it.

    Raises:
        LimbeckError: there is none.
    """
    mine, theirs = student.canonical(), teacher.canonical()
    pairs = {index: theirs[piece] for piece, index in mine.items() if piece in theirs}
    taken: dict[int, int] = {}
    for own, other in (special or {}).items():
        taken.setdefault(other, own)
    pairs |= {own: other for other, own in taken.items()}
    if not pairs:
        raise LimbeckError("the vocabularies of student and teacher share no token; compare sorted probabilities (uld)")
    return torch.tensor(sorted(pairs)), torch.tensor([pairs[index] for index in sorted(pairs)])


def special_counterparts(
    student: TokenBytes, teacher: TokenBytes, given: Mapping[str, str] | None = None
) -> tuple[dict[int, int], dict[int, int]]:
    """The teacher's id for each special token of the student's that it has one for: where the token begins a text, and
    elsewhere. They are paired as `given` by name, by their role (begin, end, separator), or by their name.

    Raises:
        LimbeckError: a name that was given is no token.
    """
    inside: dict[int, int] = {}
    names = {token: index for index, token in teacher.special.items()}
    unknown = student.tokenizer.unk_token_id
    for index, token in student.special.items():
        if token in names and index != unknown:
            inside[index] = names[token]
    first = dict(inside)
    roles = ("sep_token_id", "bos_token_id", "eos_token_id")  # the last one counts
    for order, pairs in ((roles, inside), (("sep_token_id", "eos_token_id", "bos_token_id"), first)):
        for role in order:
            mine, theirs = getattr(student.tokenizer, role, None), getattr(teacher.tokenizer, role, None)
            if mine is not None and theirs is not None:
                pairs[int(mine)] = int(theirs)
    for mine_named, theirs_named in (given or {}).items():
        ids = []
        for each, name in ((student, mine_named), (teacher, theirs_named)):
            numbers = each.tokenizer.get_vocab()
            if name not in numbers:
                raise LimbeckError(f"special: the {each.whose}'s tokenizer has no token {name!r}")
            ids.append(numbers[name])
        inside[ids[0]] = first[ids[0]] = ids[1]
    return first, inside


def _kinds(decoder: Mapping[str, Any] | None) -> set[str]:
    """The types of a decoder and of all that it is made of."""
    if not decoder:
        return set()
    parts = decoder.get("decoders", [])
    return set().union(*(_kinds(part) for part in parts)) if parts else {str(decoder["type"])}


def _alphabet() -> dict[str, int]:
    """The character with which byte-level tokenizers write each byte: itself where it can be seen, else the next free
    one from 256 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTES = _alphabet()


def _byte_level(token: str) -> bytes:
    written = [_BYTES.get(character) for character in token]
    return token.encode() if None in written else bytes([byte for byte in written if byte is not None])


def _is_byte(token: str) -> bool:
    """Whether a token is SentencePiece's for a single byte, such as `<0xE2>`."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def sentence_piece(token: str) -> bytes:
    """The bytes that SentencePiece writes as this token."""
    return bytes([int(token[3:5], 16)]) if _is_byte(token) else token.replace(SPACE, " ").encode()
