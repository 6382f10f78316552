"""The forms in which endpoints give the probabilities of tokens, each known by its answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from limbeck.alignment import TokenBytes, sentence_piece
from limbeck.errors import LimbeckError
from limbeck.teachers.endpoint.client import Client, Refused

Form = Literal["prompt-logprobs", "echo", "token by token"]
"""vLLM's `prompt_logprobs`; a prompt that comes back with `logprobs`; or, as llama.cpp speaks of generated tokens only,
a question for every token."""

Entries = dict[int, float]
"""Log-probabilities in nats by token, of the most likely tokens after some prefix."""

NUMBERED = "token_id:"
"""How vLLM writes a token as its number."""

LEAST = -9999.0
"""What vLLM writes for a probability of 0; llama.cpp writes the lowest float."""

PADDING = 4096
"""By how many rows more than its tokenizer has tokens a model's vocabulary may be padded."""

REMEDY = "so top-k labels cannot be had from it; ask for the texts that it writes instead (sequence-level)"


class Names:
    """The student's tokens by the names that endpoints give them, and whether they are the endpoint's.

    Args:
        tokens: what the student's tokens stand for.
        where: what messages call the endpoint.
    """

    def __init__(self, tokens: TokenBytes, where: str) -> None:
        self._tokens = tokens
        self.where = where

    def named(self, name: str) -> int | None:
        """The token of a name; None where several have it, as half a character has no name of its own.

        Raises:
            LimbeckError: no token has it.
        """
        if name.startswith(NUMBERED) and name[len(NUMBERED) :].isdigit():
            return self.checked(int(name[len(NUMBERED) :]))
        known, several = self._by_text
        if name in known:
            return known[name]
        if name in several or name.startswith("bytes:") or "\ufffd" in name:
            return None
        raise self.other(f"it has a token {name!r}")

    def checked(self, index: int, text: str | None = None, written: Sequence[int] | None = None) -> int | None:
        """Gives a token's number back; None where it only pads the model's vocabulary.

        Raises:
            LimbeckError: the endpoint calls it by another `text`, or writes it with other bytes (`written`), than the
                student's tokenizer.
        """
        pieces = self._tokens.pieces
        if not 0 <= index < len(pieces) + PADDING:
            raise self.other(f"it has a token {index}, of which the student's tokenizer knows {len(pieces):,}")
        if index >= len(pieces):
            return None
        own = pieces[index]
        if own is None:
            return index  # special tokens are written in many ways, or not at all
        theirs = bytes(written) if written else sentence_piece(text or "")
        known = written or (text is not None and "\ufffd" not in text)
        # A space before a word is dropped by some when they write a token alone; half a character by all.
        if known and theirs.strip() != own.strip() and (written or _whole(own)):
            raise self.other(
                f"token {index} is {theirs.decode(errors='replace')!r} there, {own.decode(errors='replace')!r} here"
            )
        return index

    def other(self, why: str) -> LimbeckError:
        """The error of an endpoint that has other tokens."""
        return LimbeckError(f"{self.where}: its tokenizer is not the student's ({why}), {REMEDY}")

    @cached_property
    def _by_text(self) -> tuple[dict[str, int], set[str]]:
        """The tokens whose text no other has, and the texts that several have."""
        found: dict[str, int] = {}
        several = {""}
        for index, piece in enumerate(self._tokens.pieces):
            text = self._tokens.special.get(index, "") if piece is None else piece.decode(errors="replace")
            several |= {text} if text in found else set()
            found[text] = index
        return {text: index for text, index in found.items() if text not in several}, several


def probed(client: Client, names: Names, ids: Sequence[int], k: int) -> tuple[Form, list[Entries]]:
    """Asks of a text in the forms that there are until one is understood: that form, and its answer; of the form token
    by token only what follows the whole text, the last of the list.

    Raises:
        LimbeckError: the endpoint gives no probabilities, or its tokens are others.
    """
    answer = client.ask("/completions", _question(ids, k) | {"prompt_logprobs": k})
    choice = _choice(answer, names)
    if choice.get("prompt_logprobs"):
        return "prompt-logprobs", _prompt_logprobs(choice, ids, names)
    generated = _generated(answer, names)
    if _legacy(choice):
        try:
            choice = _choice(client.ask("/completions", _question(ids, k) | {"echo": True}), names)
            if len(choice["logprobs"]["tokens"]) >= len(ids):
                return "echo", _echoed(choice, ids, names)
        except (Refused, KeyError, TypeError):
            pass  # it speaks of what it writes only
    if generated is None:
        raise LimbeckError(f"{names.where}: its answer has no log-probabilities (`logprobs`), {REMEDY}")
    return "token by token", [{} for _ in ids[:-1]] + [generated]


def asked_whole(client: Client, names: Names, ids: Sequence[int], k: int, form: Form) -> list[Entries]:
    """The distribution after each token of a text, in one question."""
    extra: dict[str, Any] = {"prompt_logprobs": k} if form == "prompt-logprobs" else {"echo": True}
    choice = _choice(client.ask("/completions", _question(ids, k) | extra), names)
    return (_prompt_logprobs if form == "prompt-logprobs" else _echoed)(choice, ids, names)


def asked_token(client: Client, names: Names, ids: Sequence[int], k: int) -> Entries:
    """The distribution after the last token of `ids`; empty where the endpoint gives none."""
    return _generated(client.ask("/completions", _question(ids, k)), names) or {}


def _question(ids: Sequence[int], k: int) -> dict[str, Any]:
    """One token more, the likeliest; the tokens as numbers, in the question and in the answer."""
    return {
        "prompt": list(ids), "max_tokens": 1, "temperature": 0, "logprobs": k, "return_tokens_as_token_ids": True,
        "add_special_tokens": False,
    }  # fmt: skip


def _choice(answer: Mapping[str, Any], names: Names) -> dict[str, Any]:
    choices = answer.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    if "completion_probabilities" in answer:
        return {}
    raise LimbeckError(f"{names.where}: its answer has no `choices`: {', '.join(answer) or 'it is empty'}")


def _legacy(choice: Mapping[str, Any]) -> bool:
    """Whether a choice has OpenAI's older form: lists of tokens and of their likeliest."""
    logprobs = choice.get("logprobs")
    return isinstance(logprobs, Mapping) and isinstance(logprobs.get("top_logprobs"), list)


def _prompt_logprobs(choice: Mapping[str, Any], ids: Sequence[int], names: Names) -> list[Entries]:
    """vLLM: for each token of the prompt what was likely in its place, `{"17": {"logprob": -1.2, …}}`; the first has
    none. What is likely after the last is that of the token that it wrote."""
    places = choice["prompt_logprobs"]
    if not isinstance(places, list) or len(places) != len(ids):
        got = len(places) if isinstance(places, list) else type(places).__name__
        raise names.other(f"of {len(ids)} tokens that were sent it speaks of {got}")
    found = []
    for own, entries in zip(ids[1:], places[1:], strict=True):
        if not isinstance(entries, Mapping) or str(own) not in entries:
            raise names.other(f"token {own}, which was sent, is not among those that it speaks of")
        found.append(_entries(entries, names))
    return [*found, _generated({"choices": [choice]}, names) or {}]


def _echoed(choice: Mapping[str, Any], ids: Sequence[int], names: Names) -> list[Entries]:
    """The prompt's tokens and the one that was written, in lists: `tokens`, `token_logprobs`, `top_logprobs`."""
    logprobs = choice["logprobs"]
    tokens, top = logprobs["tokens"], logprobs["top_logprobs"]
    own = logprobs.get("token_logprobs") or [None] * len(tokens)
    if not len(tokens) == len(top) == len(own) or len(tokens) not in (len(ids), len(ids) + 1):
        raise names.other(f"of {len(ids)} tokens that were sent {len(tokens)} come back")
    for sent, token in zip(ids, tokens, strict=False):
        back = names.named(str(token))
        if back is not None and back != sent:
            raise names.other(f"token {sent} comes back as {token!r}")
    found = []
    for place in range(1, len(tokens)):
        entries = _entries(top[place] or {}, names)
        if place < len(ids) and isinstance(own[place], int | float):
            entries.setdefault(ids[place], _log(own[place], names))
        found.append(entries)
    return found + [{}] * (len(ids) - len(found))


def _generated(answer: Mapping[str, Any], names: Names) -> Entries | None:
    """What was likely in the place of the first token that was written; None where the answer does not say."""
    choice = _choice(answer, names)
    logprobs = choice.get("logprobs")
    if _legacy(choice):
        top = choice["logprobs"]["top_logprobs"]
        return _entries(top[-1] or {}, names) if top else {}
    listed = logprobs.get("content") if isinstance(logprobs, Mapping) else answer.get("completion_probabilities")
    if not isinstance(listed, list):
        return None
    if not listed:
        return {}  # of a token that is half a character llama.cpp gives none
    first = listed[0]
    if not isinstance(first, Mapping) or "top_logprobs" not in first:
        raise LimbeckError(
            f"{names.where}: it gives probabilities as they are after sampling ({', '.join(first)}), which are not the "
            "model's; update the server, or leave post_sampling_probs off"
        )
    return _entries(first["top_logprobs"], names)


def _entries(given: Any, names: Names) -> Entries:
    """Log-probabilities by token, from any of the forms."""
    listed: list[tuple[int | None, Any]] = []
    if isinstance(given, Mapping):
        for name, value in given.items():
            if isinstance(value, Mapping):
                text = value.get("decoded_token")
                listed.append((names.checked(int(name), text if isinstance(text, str) else None), value.get("logprob")))
            else:
                listed.append((names.named(str(name)), value))
    elif isinstance(given, list):
        for each in given:
            by_number = "id" in each
            index = names.checked(each["id"], None, each.get("bytes")) if by_number else names.named(str(each["token"]))
            listed.append((index, each.get("logprob")))
    found = {index: _log(value, names) for index, value in listed if index is not None}
    total = math.fsum(math.exp(value) for value in found.values())
    if total > 1.001:
        raise LimbeckError(
            f"{names.where}: the probabilities of its likeliest tokens add up to {total:.4f}, so they are not those of "
            "a softmax over the vocabulary; serve the model without changes to its logits"
        )
    return found


def _log(value: Any, names: Names) -> float:
    if (
        value is None
        or isinstance(value, bool)
        or not isinstance(value, int | float)
        or math.isnan(value)
        or value > 1e-3
    ):
        raise LimbeckError(f"{names.where}: expected a log-probability, a number up to 0, got {value!r}")
    return -math.inf if value <= LEAST else min(float(value), 0.0)


def _whole(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True
