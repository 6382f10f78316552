"""What models write: translations, and how texts go on, each token the likeliest (greedy)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.artifact.given import text_of
from limbeck.artifact.opened import Opened
from limbeck.errors import LimbeckError

Rows = list[list[int]]


def translate(artifact: Opened, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    """The translation of each text."""
    tokenizer = artifact.tokenizer
    rows = tokenizer.rows([text_of(given, number) for number, given in enumerate(inputs)])
    written = translated(artifact, tokenizer.padded(rows))
    return [{"text": tokenizer.written(tokens).strip()} for tokens in written]


def translated(artifact: Opened, source: dict[str, NDArray[np.int64]]) -> Rows:
    """The tokens of each translation of `input_ids` and `attention_mask` (batch, length), without the one that ends
    it."""
    encoder, decoder = artifact.graphs["encoder"], artifact.graphs["decoder"]
    known = source | encoder(source)
    count = len(source["input_ids"])
    start, most = artifact.tokens.begin_id, int(artifact.setting("max_new_tokens"))
    forced = {0: artifact.setting("first_id"), most - 1: artifact.setting("last_id")}

    def scores(rows: Rows, places: list[int]) -> NDArray[Any]:
        ids = np.array([[start, *rows[at]] for at in places], np.int64)
        feeds = {name: each[places] for name, each in known.items()}
        step: NDArray[Any] = decoder(feeds | {"decoder_input_ids": ids})["logits"][:, -1]
        token = forced.get(ids.shape[1] - 1)
        if token is not None:
            step = np.full_like(step, -np.inf)
            step[:, token] = 0.0
        return step

    return greedy(artifact, scores, count, most)


def go_on(artifact: Opened, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    """How each text goes on."""
    tokenizer, prompts = artifact.tokenizer, []
    for number, given in enumerate(inputs):
        ids = list(tokenizer.bare(text_of(given, number)).ids)
        prompts.append([*([] if tokenizer.card.begin_id is None else [tokenizer.card.begin_id]), *ids])
        if not prompts[-1]:
            raise LimbeckError(f"input {number}: an empty text, after which nothing is known; give its beginning")
    return [{"text": tokenizer.written(tokens)} for tokens in continued(artifact, prompts)]


def continued(artifact: Opened, prompts: Rows) -> Rows:
    """The tokens that a language model writes behind each prompt, whose end alone is read where it is too long."""
    most, positions = int(artifact.setting("max_new_tokens")), int(artifact.setting("positions"))
    room = max(1, positions - most)
    prompts = [prompt[-room:] for prompt in prompts]

    def scores(rows: Rows, places: list[int]) -> NDArray[Any]:
        texts = [[*prompts[at], *rows[at]] for at in places]
        # Filled on the right: no token sees those behind it.
        ids = np.full((len(texts), max(map(len, texts))), artifact.tokens.pad_id, np.int64)
        for at, text in enumerate(texts):
            ids[at, : len(text)] = text
        logits = artifact.model({"input_ids": ids})["logits"]
        found: NDArray[Any] = logits[np.arange(len(texts)), [len(text) - 1 for text in texts]]
        return found

    return greedy(artifact, scores, len(prompts), min(most, positions - 1))


def greedy(artifact: Opened, scores: Callable[[Rows, list[int]], NDArray[Any]], count: int, most: int) -> Rows:
    """At most so many tokens of each of `count` texts, without the one that ends it; `scores` gives, of what is written
    and of the places of the texts that go on, the logits of their next tokens."""
    ends, never = set(artifact.tokens.end_ids), [int(each) for each in artifact.setting("never")]
    rows: Rows = [[] for _ in range(count)]
    places = list(range(count))
    for _ in range(most):
        if not places:
            break
        step = scores(rows, places)
        step[:, never] = -np.inf
        going = []
        for at, token in zip(places, step.argmax(-1).tolist(), strict=True):
            if token not in ends:
                rows[at].append(token)
                going.append(at)
        places = going
    return rows
