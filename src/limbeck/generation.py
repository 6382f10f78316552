"""Generation: what a model writes of each sample of a data set, by greedy or beam search, resumable and shared."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from limbeck.errors import LimbeckError
from limbeck.models.forward import evaluating
from limbeck.models.writing import Writing
from limbeck.processes import processes
from limbeck.sequences import SCORES, SEQUENCES, Hypothesis, as_hypotheses, read_sequences
from limbeck.store import Features, LabelStore, Plan, Records, Sequences, SignalPlan, StoreWriter
from limbeck.store.codecs import Items
from limbeck.teachers.fingerprint import weights_hash
from limbeck.tokens import batch_content
from limbeck.types import Batch

READ = 512
"""Samples that are looked at together to learn how long they are."""


@overload
def generate(
    model: nn.Module, dataset: Any, *, beams: int = ..., max_new_tokens: int = ..., length_penalty: float = ...,
    batch_tokens: int = ..., return_all_beams: Literal[False] = ..., scores: bool = ...,
    cache: str | Path | None = ..., name: str = ..., say: Callable[[str], None] = ..., label: str = ...,
) -> list[list[int]]: ...  # fmt: skip
@overload
def generate(
    model: nn.Module, dataset: Any, *, beams: int = ..., max_new_tokens: int = ..., length_penalty: float = ...,
    batch_tokens: int = ..., return_all_beams: Literal[True], scores: bool = ...,
    cache: str | Path | None = ..., name: str = ..., say: Callable[[str], None] = ..., label: str = ...,
) -> list[list[Hypothesis]]: ...  # fmt: skip
def generate(
    model: nn.Module,
    dataset: Any,
    *,
    beams: int = 1,
    max_new_tokens: int = 128,
    length_penalty: float = 1.0,
    batch_tokens: int = 4096,
    return_all_beams: bool = False,
    scores: bool = False,
    cache: str | Path | None = None,
    name: str = "",
    say: Callable[[str], None] = print,
    label: str = "generating",
) -> list[list[int]] | list[list[Hypothesis]]:
    """The tokens that a transformers model writes of each sample, in the data set's order, without the one that ends
    them: an encoder-decoder's target, or what a causal language model appends to its prompt.

    Samples are sorted by length and run in batches of equal ones, the longest first, on the device where the model is.
    A sample without a token is written nothing of. How many were cut off at `max_new_tokens` is said.

    With a `cache` every batch is a shard of a label store in that folder as soon as it is done: run again after a kill,
    it goes on where it stopped, and on a finished store it only reads (`limbeck.sequences.sequence_targets` makes a
    student's targets of it). The folder of another model, data set or setting is an error that names the difference.
    Under `accelerate launch` the processes share the work, and each gets the whole.

    Args:
        model: a transformers model that can generate; its own generation settings hold where nothing is said here.
        dataset: gives whole batches, `dataset.__getitems__(indices)` with `input_ids` and `attention_mask` (batch,
            length); padding may be on either side.
        beams: hypotheses that are followed; 1 is greedy.
        max_new_tokens: the most tokens of a hypothesis, the one that ends it included.
        length_penalty: hypotheses are compared by their log-probability over their length to this power.
        batch_tokens: padded input tokens of a batch, at most; with several beams each is followed as often.
        return_all_beams: gives of each sample all of its hypotheses, best first, as `limbeck.sequences.Hypothesis`.
        scores: with all beams, gives each its score, which can take as long as the search did; they are NaN else, and
            `sequence_targets` needs none.
        cache: the folder of a label store.
        name: what its manifest calls the model; its class's name by default.
        say: is told of hypotheses that were cut off, and the throughput.
        label: what the progress bar says.

    Raises:
        LimbeckError: the model cannot generate, does not know where to begin, or has too few positions; an argument is
            out of range; the cache holds something else.
    """
    for what, value in (("beams", beams), ("max_new_tokens", max_new_tokens), ("batch_tokens", batch_tokens)):
        if value < 1:
            raise LimbeckError(f"generate: expected {what} of at least 1, got {value}")
    writing = Writing(
        model,
        beams=beams,
        most=max_new_tokens,
        length_penalty=length_penalty,
        every_beam=return_all_beams,
        scored=return_all_beams and scores,
    )
    samples = _Samples(dataset, batch_tokens)
    writing.check_room(samples.longest)
    state = processes()
    say = say if state.is_main_process else _silent
    if cache is None:
        found = _in_memory(writing, samples, label)
    else:
        stored = read_sequences(_into_store(writing, samples, Path(cache), name, say, label))
        found = [stored[each] for each in samples.ids.tolist()]
    cut_off = sum(len(own[0].tokens) >= max_new_tokens and not own[0].ended for own in found)
    if cut_off:
        say(
            f"{label}: {cut_off:,} of {len(found):,} texts were cut off at {max_new_tokens} tokens before they ended; "
            "raise max_new_tokens, unless the model repeats itself"
        )
    return found if return_all_beams else [own[0].tokens for own in found]


class _Samples:
    """A data set in batches of samples that are equally long, the longest first, whatever device runs them."""

    def __init__(self, dataset: Any, batch_tokens: int) -> None:
        if not hasattr(dataset, "__getitems__") or not len(dataset):
            raise LimbeckError(
                f"generate: expected a data set of at least one sample that gives whole batches, got "
                f"{type(dataset).__name__}; give a set of limbeck.sources.texts, or write its __getitems__(indices)"
            )
        self._dataset = dataset
        lengths, ids, content = [], [], []
        for start in range(0, len(dataset), READ):
            batch = self.batch(range(start, min(start + READ, len(dataset))))
            own = batch_content(batch)
            lengths.append(batch["attention_mask"].bool().sum(1))
            ids.append(batch.get("ids", own))
            content.append(own)
        self.ids, self.content = torch.cat(ids), torch.cat(content)
        every = torch.cat(lengths)
        self.longest = int(every.max())
        self.batches = _by_length(every, batch_tokens)

    def batch(self, at: Sequence[int]) -> Batch:
        """What a model reads of these samples."""
        batch = self._dataset.__getitems__(list(at))
        texts = batch["input_ids"]
        mask = batch.get("attention_mask", torch.ones_like(texts))
        return {"input_ids": texts, "attention_mask": mask} | ({"ids": batch["ids"]} if "ids" in batch else {})

    def fingerprint(self) -> str:
        """A hash of all samples in their order."""
        return hashlib.sha256(torch.stack([self.ids, self.content]).numpy().tobytes()).hexdigest()


def _by_length(lengths: Tensor, batch_tokens: int) -> list[list[int]]:
    """Samples from the longest to the shortest, in batches of at most so many padded tokens."""
    batches: list[list[int]] = []
    room = 0
    for index in torch.argsort(lengths, descending=True, stable=True).tolist():
        if not batches or len(batches[-1]) >= room:
            batches.append([])
            room = max(1, batch_tokens // max(1, int(lengths[index])))
        batches[-1].append(index)
    return batches


def _in_memory(writing: Writing, samples: _Samples, label: str) -> list[list[Hypothesis]]:
    state = processes()
    mine = samples.batches[state.process_index :: state.num_processes]
    written: list[tuple[int, list[Hypothesis]]] = []
    with evaluating(writing.model), _bar(mine, label) as bar:
        for at in mine:
            tokens, scores = writing(samples.batch(at))
            written += zip(at, as_hypotheses(tokens, scores if writing.scored else None, writing.ends), strict=True)
            bar.update(len(at))
    if state.num_processes > 1:
        written = gather_object(written)
    return [own for _, own in sorted(written, key=lambda each: each[0])]


def _into_store(
    writing: Writing, samples: _Samples, folder: Path, name: str, say: Callable[[str], None], label: str
) -> LabelStore:
    """The finished store; a shard is a batch, which is all that a kill can cost."""
    state = processes()
    codec = Sequences(writing.vocabulary, writing.settings)
    signals = {SEQUENCES: SignalPlan("sample", (writing.kept, writing.most), codec)}
    if writing.scored:
        signals[SCORES] = SignalPlan("sample", (writing.kept,), Features())
    plan = Plan(
        name or type(writing.model).__name__, weights_hash([writing.model]), None, None, 0, signals,
        tuple(map(len, samples.batches)), (), samples.fingerprint(),
    )  # fmt: skip
    writer = StoreWriter(folder, plan)
    if state.is_main_process:
        for wrong in writer.begin():
            say(f"made again: {wrong}")
    state.wait_for_everyone()
    if not writer.finished:
        missing = writer.missing()
        state.wait_for_everyone()  # nobody writes while another still looks what there is
        mine = missing[state.process_index :: state.num_processes]
        start, done = time.perf_counter(), sum(len(samples.batches[number]) for number in mine)
        with evaluating(writing.model), _bar([samples.batches[number] for number in mine], label) as bar:
            for number in mine:
                at = samples.batches[number]
                tokens, scores = writing(samples.batch(at))
                rows = torch.tensor(at)
                zeros, ids = torch.zeros_like(rows), samples.ids[rows]
                items = Items(ids, zeros, zeros, zeros - 1, 0)
                columns = {SEQUENCES: codec.encode(tokens, items)}
                if writing.scored:
                    columns[SCORES] = Features().encode(scores, items)
                writer.write(number, Records(ids, zeros, samples.content[rows], zeros + 1, columns))
                bar.update(len(at))
        state.wait_for_everyone()
        if done:
            say(f"{label}: {done:,} samples at {done / (time.perf_counter() - start):,.1f} a second and process")
    if state.is_main_process:
        writer.finish()
    state.wait_for_everyone()
    return LabelStore.open(folder)


def _bar(batches: Sequence[Sequence[int]], label: str) -> Any:
    silent = None if processes().is_main_process else True
    return tqdm(total=sum(map(len, batches)), desc=label, unit=" samples", disable=silent, leave=False)


def _silent(_line: str) -> None:
    """Says nothing."""
