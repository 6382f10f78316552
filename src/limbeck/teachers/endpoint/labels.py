"""Top-k labels of given texts, asked of an endpoint and written into a label store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from limbeck.alignment import TokenBytes
from limbeck.errors import LimbeckError
from limbeck.files import read_json, write_json
from limbeck.sources import Prepared, as_training_data
from limbeck.store import LabelStore, Plan, SignalPlan, StoreWriter, TopKLogits
from limbeck.store.manifest import MANIFEST, PLAN
from limbeck.teachers.endpoint.asking import answers
from limbeck.teachers.endpoint.client import BudgetSpent, Client
from limbeck.teachers.endpoint.dialects import Entries, Form, Names, asked_token, asked_whole, probed
from limbeck.teachers.endpoint.settings import Budget, Endpoint
from limbeck.teachers.endpoint.shards import Shard, Text
from limbeck.teachers.fingerprint import combined
from limbeck.tokens import LOGITS, Addresses, batch_content, real_tokens

TEXTS = 1024
"""Texts a shard."""
READ = 64
"""Texts that are taken from a data set at a time."""
ABOUT = "endpoint.json"
"""The file in a store that is being written that says in which form its endpoint answers."""


def label_by_endpoint(
    endpoint: Endpoint,
    data: Any,
    path: str | Path,
    *,
    tokenizer: PreTrainedTokenizerFast,
    k: int = 20,
    collate: Callable[[Any], Any] | None = None,
    name: str = "",
    budget: Budget | None = None,
    say: Callable[[str], None] = print,
) -> LabelStore | None:
    """Writes the `k` most likely next tokens after each token of every text of `data` into the label store `path`.

    The store has the codec `top-k` at temperature 1 and serves terms of that temperature. Each answer is on the disk
    before the next is waited for: run again after a kill, or where the budget was spent, nothing is asked twice. Run on
    a finished store, it asks only for files that are missing or corrupt.

    Args:
        endpoint: who is asked; it must have the tokenizer of the data.
        data: a data set of texts with `input_ids` and `attention_mask`, a row each, not packed; or a list of data sets.
        tokenizer: the tokenizer that made the `input_ids`; token by token it is compared with the endpoint's.
        k: how many; as many as it gives where the endpoint gives fewer (vLLM: `--max-logprobs`).
        collate: makes a batch of samples.
        name: what the manifest calls the teacher; the endpoint's name for the model by default.
        budget: what may be spent in this call.
        say: is told what is asked, and what is left.

    Returns:
        The store; None where the budget was spent before all was asked.

    Raises:
        LimbeckError: the folder holds other labels, a text is packed or empty, or the endpoint has no such model,
            another tokenizer or no probabilities, or is out of reach.
    """
    if k < 1:
        raise LimbeckError(f"label_by_endpoint: expected a k of at least 1, got {k}")
    path, client = Path(path), Client(endpoint, budget)
    texts, preparation = _texts(data, collate)
    tokens = TokenBytes(tokenizer, "student")
    work = _Work(client, Names(tokens, endpoint.base), k)
    try:
        kept = min(k, work.known(path) or work.probe(texts[0]))
        weights = combined(endpoint.model, repr(tokens.content))
        signal = SignalPlan("next-token", (len(tokens),), TopKLogits(kept))
        shards = tuple(min(TEXTS, len(texts) - start) for start in range(0, len(texts), TEXTS))
        plan = Plan(
            name or endpoint.model, weights, preparation, None, 0, {LOGITS: signal}, shards, (), _fingerprint(texts)
        )
        writer = StoreWriter(path, plan)
        for wrong in writer.begin():
            say(f"made again: {wrong}")
        if not writer.finished:
            if todo := writer.missing():
                if not work.form:
                    work.probe(texts[0])
                write_json(path / ABOUT, {"form": work.form, "asked": k})
                say(work.outlook(texts))
                work.ask(texts, writer, todo, kept, tokens)
                say(f"labelled {len(texts):,} texts with {client.spent}")
            (path / ABOUT).unlink(missing_ok=True)
            writer.finish()
    except BudgetSpent:
        say(
            f"{path}: the budget is spent ({client.spent}), and not all texts are labelled; what was answered is kept: "
            "run the same command again to go on"
        )
        return None
    return LabelStore.open(path)


class _Work:
    """What is asked of an endpoint, in which form, and how many tokens are named in each answer."""

    def __init__(self, client: Client, names: Names, k: int) -> None:
        self._client, self._names, self._k = client, names, k
        self._first: list[Entries] = []
        self.form: Form | None = None

    def known(self, path: Path) -> int:
        """How many tokens a store names that is there or was begun; 0 where nothing is there."""
        begun = path / ABOUT
        if begun.exists():
            said = read_json(begun)
            if said["asked"] != self._k:
                raise LimbeckError(
                    f"{path} was begun with k={said['asked']}, and now {self._k} is asked for; choose another folder, "
                    "or delete this one"
                )
            self.form = cast("Form", said["form"])
        plans = [path / each for each in (MANIFEST, PLAN) if (path / each).exists()]
        signals = read_json(plans[0]).get("signals", {}) if plans else {}
        return int(signals.get(LOGITS, {}).get("k", 0))

    def probe(self, text: Text) -> int:
        """Finds out the form by asking for a text; gives how many tokens are named."""
        self._client.check_model()
        self.form, entries = probed(self._client, self._names, text.ids.tolist(), self._k)
        self._first = entries if self.form != "token by token" else []
        named = max(map(len, entries))
        if not named:
            raise LimbeckError(f"{self._names.where}: it names no likely tokens; serve it with log-probabilities")
        return min(named, self._k)

    def outlook(self, texts: Sequence[Text]) -> str:
        """What is to be asked, in a line."""
        total = sum(len(text.ids) for text in texts)
        if self.form == "token by token":
            return (
                f"{len(texts):,} texts: this endpoint speaks only of tokens that it writes, so there is a question for "
                f"each of {total - len(texts):,} tokens"
            )
        return f"{len(texts):,} texts of {total:,} tokens, a question each"

    def ask(self, texts: Sequence[Text], writer: StoreWriter, todo: Sequence[int], k: int, tokens: TokenBytes) -> None:
        """Asks what is not known yet of the shards that are to do, and writes each that is whole."""
        single = self.form == "token by token"
        parts = {number: texts[number * TEXTS : (number + 1) * TEXTS] for number in todo}
        total = sum(len(text.ids) - 1 if single else 1 for part in parts.values() for text in part)
        shards: dict[int, Shard] = {}
        bar = tqdm(total=total, desc="asking", unit=" answers", leave=False, disable=None)

        def questions() -> Iterator[tuple[int, Text, int]]:
            for number in todo:
                shard = shards[number] = Shard(writer, number, parts[number], k, tokens, single=single)
                if self._first and not number and not shard.has(texts[0], -1):
                    shard.add(texts[0], -1, self._first)
                bar.update(shard.done)
                if shard.whole:
                    shards.pop(number).close()
                    continue
                for text, place in shard.missing():
                    yield number, text, place

        try:
            for (number, text, place), entries in answers(self._client, questions(), self._asked):
                shards[number].add(text, place, entries)
                bar.update()
                if shards[number].whole:
                    shards.pop(number).close()
        finally:
            bar.close()
            for shard in shards.values():
                shard.leave()

    def _asked(self, question: tuple[int, Text, int]) -> list[Entries]:
        _, text, place = question
        ids = text.ids.tolist()
        assert self.form is not None
        try:
            if place < 0:
                return asked_whole(self._client, self._names, ids, self._k, self.form)
            return [asked_token(self._client, self._names, ids[: place + 1], self._k)]
        except LimbeckError as error:
            raise LimbeckError(f"text {text.name}: {error}") from None


def _texts(data: Any, collate: Callable[[Any], Any] | None) -> tuple[list[Text], Mapping[str, Any] | None]:
    """Every text in its order, and how the first data set prepares them."""
    sets = list(data) if isinstance(data, list) and data and isinstance(data[0], Dataset) else [data]
    found: list[Text] = []
    for given in sets:
        wrapped, own = as_training_data(given, None)
        each: Any = wrapped
        for start in range(0, len(each), READ):
            at = list(range(start, min(start + READ, len(each))))
            batch = (collate or own)(each.__getitems__(at) if hasattr(each, "__getitems__") else [each[i] for i in at])
            if "input_ids" not in batch:
                raise LimbeckError(f"label_by_endpoint: expected texts (`input_ids`), the batch has {', '.join(batch)}")
            if Addresses(batch).packed:
                raise LimbeckError(
                    "label_by_endpoint: several documents are packed into one row, and an endpoint reads a row as one "
                    "text; give the documents unpacked"
                )
            content, real = batch_content(batch), real_tokens(batch)
            called = batch.get("ids", content)
            for row, mask in enumerate(real):
                ids = batch["input_ids"][row][mask].numpy().astype(np.int32)
                found.append(Text(len(found), int(called[row]), int(content[row]), ids))
                if not len(ids):
                    raise LimbeckError(f"label_by_endpoint: text {found[-1].name} has no token; leave it out")
    return found, sets[0].prepared_as() if isinstance(sets[0], Prepared) else None


def _fingerprint(texts: Sequence[Text]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{text.name} {text.content};".encode())
    return digest.hexdigest()
