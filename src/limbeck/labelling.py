"""`limbeck.label`: a teacher run once over the data, its signals written to a label store."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from tqdm import tqdm

from limbeck.content import content_ids
from limbeck.errors import LimbeckError
from limbeck.models.heads import is_causal_lm
from limbeck.processes import processes
from limbeck.sources import HasLengths, Prepared, ViewedSet, as_training_data
from limbeck.store import (
    Codec,
    DenseLogits,
    HeadStates,
    Items,
    LabelStore,
    Plan,
    Records,
    SignalPlan,
    StoreWriter,
    ViewPlan,
)  # fmt: skip
from limbeck.store.codecs import Columns
from limbeck.store.manifest import Per
from limbeck.store.writer import different_keys
from limbeck.teachers import Live, Teacher, TeacherLike, as_teacher
from limbeck.tokens import batch_content, decoder_labels, next_tokens, of_encoder, real_tokens, seeks_spans
from limbeck.types import Batch, LinearHead, Signal

SHARD_BATCHES = 16
"""Batches a shard: what a kill can cost."""
SHARD_BYTES = 64 << 20


def label(
    teacher: TeacherLike,
    data: Any,
    path: str | Path,
    *,
    signals: Mapping[str, Codec] | None = None,
    batch_size: int = 256,
    seed: int = 0,
    name: str = "",
    workers: int = 0,
    collate: Callable[[Any], Any] | None = None,
    classes: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> LabelStore:
    """Writes what `teacher` says of every sample of `data` into the label store `path`, and opens it.

    Run again after a kill, it goes on where it stopped, and the finished store has the same bytes. Run on a finished
    store, it compares every file with its checksum, and makes those again that are missing or corrupt. Under
    `accelerate launch` the processes share the work.

    Args:
        teacher: a module, a Teacher, an .onnx path, or a list of those.
        data: a data set as `limbeck.distill` takes it, or a list of data sets (training split and test split, say).
            A ViewedSet is labelled in each of its views: `images.with_view(view, seed, count=4)`.
        signals: what to keep, and how: `logits` dense by default; names of the teacher's modules with `Features()`.
        batch_size: samples at a time; larger than in training, as nothing is kept for a backward pass.
        seed: of the draws of the codec `sampled`.
        name: what the manifest calls the teacher; its class's name by default.
        collate: makes a batch of samples; texts must be padded, with an `attention_mask`.
        classes: the names of the logits, in their order; a recipe's run refuses data whose classes are others.
        say: is told the size before it starts, and the throughput at the end.

    Raises:
        LimbeckError: the folder holds labels of another plan or other data, the data cannot be counted, several samples
            have one id, the teacher gives NaN, or a codec does not fit its signal.
    """
    if batch_size < 1:
        raise LimbeckError(f"label: expected a batch_size of at least 1, got {batch_size}")
    taught = as_teacher(teacher)
    wanted = dict(signals or {"logits": DenseLogits()})
    taught.require(set(wanted))
    kept = wanted.get("logits")
    taught.give_heads(kept is not None and kept.describes_logits and not isinstance(kept, DenseLogits))
    passes, collate = _passes(data, collate)
    state = processes()
    encoder = _Encoder(taught, wanted, seed, state.device)
    first = encoder.encoded(collate(_samples(passes[0], range(min(batch_size, len(passes[0]))))))
    records_each = _per_shard(first, batch_size)
    shards = [_Shard(at, start, min(start + records_each, len(each)))
              for at, each in enumerate(passes) for start in range(0, len(each), records_each)]  # fmt: skip
    plan = Plan(
        name or _name_of(taught),
        taught.identity(),
        passes[0].prepared_as() if isinstance(passes[0], Prepared) else None,
        _views(passes),
        seed,
        {key: SignalPlan(encoder.per[key], encoder.shapes[key], codec) for key, codec in wanted.items()},
        tuple(shard.stop - shard.start for shard in shards),
        tuple(classes),
        _fingerprint(passes, shards, collate, Path(path)),
    )
    writer = StoreWriter(Path(path), plan)
    if state.is_main_process:
        for wrong in writer.begin():
            say(f"made again: {wrong}")
    state.wait_for_everyone()
    if not writer.finished:
        missing = writer.missing()
        state.wait_for_everyone()  # nobody writes while another still looks what there is
        total = sum(plan.shards)
        if state.is_main_process:
            once = sum(column.nbytes for column in encoder.constants.values())
            say(_estimate(first, total, once, done=total - sum(plan.shards[number] for number in missing)))
            if encoder.constants:
                writer.write_constants(encoder.constants)
        mine = missing[state.process_index :: state.num_processes]
        start = time.perf_counter()
        done = _write(
            writer, encoder, passes, [(number, shards[number]) for number in mine], batch_size, workers, collate
        )
        state.wait_for_everyone()
        if state.is_main_process and done:
            say(f"labelled {done:,} samples at {done / (time.perf_counter() - start):,.0f} a second and process")
    if state.is_main_process:
        writer.finish()
    state.wait_for_everyone()
    return LabelStore.open(path)


@dataclass(frozen=True, slots=True)
class _Shard:
    """Samples `start` to `stop` of one pass over one data set."""

    at: int
    start: int
    stop: int


class _Encoder:
    """From a batch to the columns of a store."""

    def __init__(self, teacher: Teacher, codecs: Mapping[str, Codec], seed: int, device: torch.device) -> None:
        self._teacher, self._codecs, self._seed, self._device = teacher, codecs, seed, device
        self._causal = any(is_causal_lm(module) for module in teacher.modules())
        self.per: dict[str, Per] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.constants: Columns = {}

    def encoded(self, batch: Batch) -> Records:
        """What the teacher says of a batch, encoded."""
        signal = self._teacher({name: tensor.to(self._device) for name, tensor in batch.items()})
        ids, views, content, real = keys_of(batch)
        lengths = torch.ones_like(ids) if real is None else real.sum(1)
        whose = self._items(batch, ids, views, real)
        columns = {}
        for name, codec in self._codecs.items():
            if name in signal.masks:
                raise LimbeckError(
                    f"signal {name!r}: the teacher says nothing of some tokens, which a store cannot keep apart; a "
                    "teacher with another tokenizer teaches beside the student, not from a store"
                )
            per, values = self._rows(name, signal, real, "decoder_input_ids" in batch)
            if codec.describes_logits and name != "logits":
                raise LimbeckError(
                    f"signal {name!r}: the codec {codec.name!r} keeps logits; keep a feature with the codec 'features'"
                )
            if name == "logits" and codec.kind is not Tensor and seeks_spans(batch):
                raise LimbeckError(
                    f"signal 'logits': the codec {codec.name!r} keeps probabilities of classes, and an answer's start "
                    "and end are chosen among a text's tokens; keep them with the codec 'dense'"
                )
            shape = (values.weight.shape[0],) if isinstance(values, LinearHead) else tuple(values.shape[1:])
            if self.shapes.setdefault(name, shape) != shape:
                raise LimbeckError(
                    f"signal {name!r}: is {self.shapes[name]} a {per} in one batch and {shape} in another, and a store "
                    "keeps one shape; give all samples one size, or give the term a live teacher"
                )
            self.per[name] = per
            if isinstance(codec, HeadStates) and isinstance(values, LinearHead) and not self.constants:
                self.constants = codec.constants(values)
            columns[name] = codec.encode(values, whose[per])
        return Records(ids, views, content, lengths, columns)

    def _rows(self, name: str, signal: Signal, real: Tensor | None, decoder: bool) -> tuple[Per, Tensor | LinearHead]:
        """What a signal has a row for, and its rows."""
        value = signal.target(name)
        if not isinstance(value, Tensor | LinearHead):
            raise LimbeckError(
                f"signal {name!r}: the teacher gives it as {type(value).__name__}, of which the whole is lost; label "
                "from a live teacher, or from a store with the codec 'dense'"
            )
        if real is not None and name.startswith("attention."):
            raise LimbeckError(
                f"signal {name!r}: the attention within a text is a map of its tokens, of another size for each text, "
                "which no codec keeps; give a term on it a live teacher"
            )
        rows = value if isinstance(value, Tensor) else value.hidden
        if decoder and rows.dim() > 2 and of_encoder(name):
            raise LimbeckError(
                f"signal {name!r}: has a row for each token of the source, and the store of an encoder-decoder keeps "
                "rows of the target's tokens; give a term on it a live teacher"
            )
        if real is None or rows.dim() < 3 or rows.shape[:2] != real.shape:
            return "sample", value
        at = real.flatten().nonzero().squeeze(1).to(rows.device)
        kept = rows.flatten(0, 1).index_select(0, at)
        per: Per = "decoder-token" if decoder else "next-token" if name == "logits" and self._causal else "token"
        if isinstance(value, Tensor):
            return per, kept
        return per, LinearHead(kept, value.weight, value.bias, value.scale, value.softcap)

    def _items(self, batch: Batch, ids: Tensor, views: Tensor, real: Tensor | None) -> dict[Per, Items]:
        """Whose the rows are, by what there is a row for."""
        none = torch.full_like(ids, -1)
        labels = batch.get("labels", none)
        classes = labels if labels.shape == ids.shape and not labels.is_floating_point() else none
        whose: dict[Per, Items] = {"sample": Items(ids, views, torch.zeros_like(ids), classes, self._seed)}
        if real is not None:
            at = real.flatten().nonzero().squeeze(1)
            each, place = (
                values.expand_as(real).flatten()[at] for values in (ids.unsqueeze(1), real.long().cumsum(1) - 1)
            )
            view = views.unsqueeze(1).expand_as(real).flatten()[at]
            following = torch.full_like(each, -1)
            if self._causal:
                following = next_tokens(batch, batch["input_ids"])[1].flatten()[at]
            whose["next-token"] = Items(each, view, place, following, self._seed)
            whose["token"] = Items(each, view, place, torch.full_like(each, -1), self._seed)
            if "decoder_input_ids" in batch:
                known = decoder_labels(batch)[1]
                following = torch.full_like(each, -1) if known is None else known.flatten()[at]
                whose["decoder-token"] = Items(each, view, place, following, self._seed)
        return whose


def _passes(data: Any, collate: Callable[[Any], Any] | None) -> tuple[list[Any], Callable[[Any], Any]]:
    """Every data set once in each of its views, and how their samples become batches."""
    sets = list(data) if isinstance(data, list) and data and isinstance(data[0], Dataset) else [data]
    passes: list[Any] = []
    own: Callable[[Any], Any] | None = None
    for each in sets:
        each, own = as_training_data(each, None)
        if isinstance(each, IterableDataset):
            raise LimbeckError("data without a length cannot be labelled; give a map-style data set")
        if not isinstance(each, ViewedSet):
            passes.append(each)
            continue
        if each.view_count is None:
            raise LimbeckError(
                f"{each.name}: its augmentation shows another view in every epoch, of which only some can be stored; "
                "say how many: with_view(view, seed, count=4)"
            )
        passes += [each.in_view(number) for number in range(each.view_count)]
    chosen = collate or own
    assert chosen is not None
    return passes, chosen


def _write(
    writer: StoreWriter, encoder: _Encoder, passes: Sequence[Any], shards: Sequence[tuple[int, _Shard]],
    batch_size: int, workers: int, collate: Callable[[Any], Any],
) -> int:  # fmt: skip
    """Makes and writes this process's shards; how many samples that were."""
    total = sum(shard.stop - shard.start for _, shard in shards)
    silent = None if processes().is_main_process else True
    bar = tqdm(total=total, desc="labelling", unit=" samples", disable=silent, leave=False)
    for at, each in enumerate(passes):
        here = [(number, shard) for number, shard in shards if shard.at == at]
        batches = [batch for _, shard in here for batch in _batches(each, shard, batch_size)]
        if not batches:
            continue
        loader = iter(DataLoader(each, batch_sampler=batches, collate_fn=collate, num_workers=workers))
        for number, shard in here:
            parts = []
            for _ in range(shard.start, shard.stop, batch_size):
                parts.append(encoder.encoded(next(loader)))
                bar.update(len(parts[-1].ids))
            writer.write(number, _joined(parts))
    bar.close()
    return total


def _batches(each: Any, shard: _Shard, batch_size: int) -> list[list[int]]:
    """The samples of a shard in batches: of those that differ in length (texts), the shortest first, so that little is
    padded. Records are found by their ids, wherever they are."""
    indices = torch.arange(shard.start, shard.stop)
    if isinstance(each, HasLengths):
        indices = indices[each.lengths[indices].argsort(stable=True)]
    return [batch.tolist() for batch in indices.split(batch_size)]


def _joined(parts: Sequence[Records]) -> Records:
    columns = {
        signal: {name: torch.cat([part.signals[signal][name] for part in parts]) for name in own}
        for signal, own in parts[0].signals.items()
    }
    ids, views, content, lengths = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "views", "content", "lengths")
    )
    return Records(ids, views, content, lengths, columns)


def _samples(each: Any, indices: Sequence[int]) -> Any:
    """The samples of a data set at `indices`, as its loader hands them to the collator."""
    at = list(indices)
    return each.__getitems__(at) if hasattr(each, "__getitems__") else [each[index] for index in at]


def keys_of(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Of each sample of a batch its id, view and content id, (batch,) int64; and of texts which tokens are no padding,
    (batch, length): an encoder-decoder's are the target's."""
    texts, real = batch.get("input_ids"), None
    if texts is None:
        if "inputs" not in batch:
            raise LimbeckError(f"labelling needs batches with `inputs` or `input_ids`, got {', '.join(batch)}")
        content = content_ids(batch["inputs"])
    else:
        content, real = batch_content(batch), real_tokens(batch)
    ids = batch.get("ids", content)
    return ids, batch.get("views", torch.zeros_like(ids)), content, real


def _fingerprint(passes: Sequence[Any], shards: Sequence[_Shard], collate: Callable[[Any], Any], folder: Path) -> str:
    """A hash of the samples and their order: of all ids, where a data set has them at hand, and of the ids and contents
    of each shard's first and last sample.

    Raises:
        LimbeckError: two of those have one id, and other contents.
    """
    digest = hashlib.sha256()
    for each in passes:
        known = getattr(each, "ids", None)
        digest.update(f"{len(each)};".encode() + (known.numpy().tobytes() if isinstance(known, Tensor) else b""))
    # Each by itself: a data set may have samples of several sizes, of which only neighbours fit one batch.
    ends = [
        keys_of(collate(_samples(passes[shard.at], [index])))[:3]
        for shard in shards
        for index in (shard.start, shard.stop - 1)
    ]
    ids, views, content = (torch.cat(columns) for columns in zip(*ends, strict=True))
    digest.update(torch.stack([ids, views, content]).numpy().tobytes())
    different_keys(folder, ids, views, content)
    return digest.hexdigest()


def _bytes(records: Records) -> int:
    columns: Iterator[Tensor] = (column for own in records.signals.values() for column in own.values())
    return sum(column.numel() * column.element_size() for column in columns) + 32 * len(records.ids)


def _per_shard(first: Records, batch_size: int) -> int:
    """Records of a shard: whole batches, at most 16 of them or 64 MB."""
    by_size = SHARD_BYTES * len(first.ids) // max(_bytes(first), 1) // batch_size
    return batch_size * max(1, min(SHARD_BATCHES, by_size))


def _estimate(first: Records, records: int, once: int, done: int) -> str:
    size = _bytes(first) / len(first.ids)
    items = int(first.lengths.sum())
    each = f"{size:,.0f} bytes a sample"
    if items > len(first.ids):
        each += f", {_bytes(first) / items:.1f} a token"
    if once:
        each += f", and {once / 1e6:,.1f} MB of the head"
    going_on = f"; {done:,} are there already" if done else ""
    return (
        f"labels: {records:,} samples (views counted), about {(size * records + once) / 1e6:,.1f} MB ({each}){going_on}"
    )


def _name_of(teacher: Teacher) -> str:
    names = [type(module).__name__ for module in teacher.modules()]
    return " + ".join(names) if isinstance(teacher, Live) or len(names) > 1 else type(teacher).__name__


def _views(passes: Sequence[Any]) -> ViewPlan | None:
    """The augmentation of the first data set that has one."""
    for each in passes:
        if isinstance(each, ViewedSet) and (each.view is not None or each.mixing is not None):
            return ViewPlan(
                repr(each.view), repr(each.mixing), each.seed, sum(other.name == each.name for other in passes)
            )
    return None
