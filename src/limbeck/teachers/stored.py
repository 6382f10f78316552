"""A label store as a teacher: what a model said of each sample, read instead of computed."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.content import content_ids
from limbeck.errors import LimbeckError, nearest
from limbeck.losses import Loss
from limbeck.store import Items, LabelStore
from limbeck.teachers.base import Teacher
from limbeck.tokens import LOGITS, Addresses, TokenPlan, seeks_spans
from limbeck.types import Batch, LinearHead, Signal, Target

CHECKED_FIRST, CHECKED_EVERY = 16, 64
"""Batches whose inputs are compared with what the teacher saw: the first ones, then one in so many."""


class Stored(Teacher):
    """The signals of a label store, looked up by sample and view.

    A sample is called by the batch's `ids`, or by its content; `views` says in which augmented view it is (0 without).
    Now and then the inputs themselves are compared with those that the teacher saw, so that another normalisation or
    augmentation is an error and never a wrong label. A batch of texts needs no padding or order in common with the one
    that was labelled; packed documents are looked up one by one.

    Args:
        store: a LabelStore or its folder.
        fallback: a live teacher for samples that the store does not hold; it must have the weights of the store's.

    Raises:
        LimbeckError: there is no whole store in the folder, or the fallback has other weights; when called, a sample is
            not in the store and there is no fallback, or a sample is not what the teacher saw.
    """

    compact = True  # a store holds no rows for padding

    def __init__(self, store: LabelStore | str | Path, fallback: Teacher | None = None) -> None:
        self.store = store if isinstance(store, LabelStore) else LabelStore.open(store)
        self.fallback = fallback
        self._names: tuple[str, ...] = tuple(self.store.signals)
        self._calls = 0
        if fallback is not None:
            same_teacher(self.store, fallback)

    def require(self, names: Collection[str]) -> None:
        for name in names:
            if name not in self.store.signals:
                raise LimbeckError(
                    f"the label store {self.store.folder} has no signal {name!r}{nearest(name, self.store.signals)}; "
                    "label the data with it, or take it out of the terms"
                )
        self._names = tuple(sorted(names)) or self._names
        if self.fallback is not None:
            self.fallback.require(self._names)

    def offers(self, name: str) -> bool:
        return name in self.store.signals

    def refuses(self, name: str, loss: Loss) -> str:
        signal = self.store.signals[name]
        if loss.structured and (signal.per != "sample" or name.startswith("attention.")):
            return (
                f"the loss {loss.name!r} looks at a text's tokens together, of which the label store "
                f"{self.store.folder} keeps each by itself; give it a live teacher"
            )
        return signal.codec.refuses(loss)

    def identity(self) -> str:
        return self.store.manifest.plan.weights

    def modules(self) -> Iterable[nn.Module]:
        return self.fallback.modules() if self.fallback is not None else ()

    def __call__(self, batch: Batch) -> Signal:
        device = next(iter(batch.values())).device
        here = batch if device.type == "cpu" else {name: tensor.cpu() for name, tensor in batch.items()}
        looked_up = _Texts(self, here) if "input_ids" in here else _Samples(self, here)
        self._calls += 1
        found = {name: looked_up.read(name, self.store.signals[name].per) for name in self._names}
        if looked_up.incomplete:
            found = self._completed(found, looked_up, here, batch)
        if isinstance(looked_up, _Texts) and seeks_spans(here) and isinstance(rows := found.get(LOGITS), Tensor):
            found[LOGITS] = looked_up.whole(rows)
        if here is not batch:
            found = {name: _moved(target, device) for name, target in found.items()}
        tensors = {name: target for name, target in found.items() if isinstance(target, Tensor)}
        targets = {name: target for name, target in found.items() if not isinstance(target, Tensor)}
        return Signal(tensors, {}, targets)

    @property
    def checks_now(self) -> bool:
        """Whether this call compares the inputs with what the teacher saw."""
        return self._calls < CHECKED_FIRST or self._calls % CHECKED_EVERY == 0

    def _completed(
        self, found: dict[str, Target], looked_up: _Samples | _Texts, here: Batch, batch: Batch
    ) -> dict[str, Target]:
        """The signals with those of absent samples from the live teacher, in the form in which they would be stored."""
        absent = looked_up.absent
        if self.fallback is None:
            first = int(absent.nonzero()[0])
            raise LimbeckError(
                f"the label store {self.store.folder} does not hold {looked_up.called(first)} ({int(absent.sum())} of "
                f"this batch's {len(absent)} are missing); label the data again, or give a live teacher with the store"
            )
        where = absent.nonzero().squeeze(1)
        self.fallback.give_heads(any(signal.codec.kind is not Tensor for signal in self.store.signals.values()))
        few = {name: tensor[where.to(tensor.device)] for name, tensor in batch.items()}
        live = self.fallback(few)
        completed: dict[str, Target] = {}
        for name, target in found.items():
            signal = self.store.signals[name]
            rows = looked_up.live_rows(name, live, few, signal.per)
            assert isinstance(rows, Tensor | LinearHead)
            context = looked_up.context(name, signal.per, where, self.store.manifest.plan.seed)
            columns = signal.codec.encode(rows, context)
            fresh = signal.codec.decode(columns, signal.shape, self.store.constants)
            completed[name] = _merged(target, fresh, looked_up.items_absent(name, signal.per))
        return completed


class _Samples:
    """A batch with one row a sample."""

    def __init__(self, teacher: Stored, batch: Batch) -> None:
        self._store = teacher.store
        inputs = batch.get("inputs")
        if "ids" not in batch and inputs is None:
            raise LimbeckError(f"a label store needs `ids` or `inputs` in the batch, it has {', '.join(batch)}")
        content = content_ids(inputs) if inputs is not None and ("ids" not in batch or teacher.checks_now) else None
        ids = batch.get("ids", content)
        assert ids is not None
        self._ids = ids
        self._given_views = batch.get("views")
        self.rows = self._store.rows(ids, 0 if self._given_views is None else self._given_views)
        self.incomplete = bool(self.rows.numel()) and int(self.rows.min()) < 0
        if content is not None and teacher.checks_now:
            same_inputs(self._store, self.rows, content)

    def called(self, at: int) -> str:
        return f"sample {int(self._ids[at])} in view {int(self._views[at])}"

    @property
    def absent(self) -> Tensor:
        return self.rows < 0

    @property
    def _views(self) -> Tensor:
        return torch.zeros_like(self._ids) if self._given_views is None else self._given_views

    def read(self, name: str, per: str) -> Target:
        return self._store.read(name, self.rows.clamp(min=0) if self.incomplete else self.rows)

    def items_absent(self, name: str, per: str) -> Tensor:
        return self.absent

    def live_rows(self, name: str, live: Signal, few: Batch, per: str) -> Target:
        return live.target(name)

    def context(self, name: str, per: str, where: Tensor, seed: int) -> Items:
        none = torch.full_like(where, -1)
        return Items(self._ids[where], self._views[where], torch.zeros_like(where), none, seed)


class _Texts:
    """A batch of texts, with rows a text or a token."""

    def __init__(self, teacher: Stored, batch: Batch) -> None:
        self._store = teacher.store
        ids = batch["decoder_input_ids" if "decoder_input_ids" in batch else "input_ids"]
        self._causal = any(signal.per == "next-token" for signal in self._store.signals.values())
        self._plan = TokenPlan(batch, causal=self._causal, spans=False)
        texts = Addresses(batch)
        self._names, self._places = texts.names, texts.places
        if texts.packed:
            self._rows = self._store.rows(self._names.flatten()).view_as(ids)
        else:
            self._rows = self._store.rows(self._names[:, 0].contiguous()).unsqueeze(1).expand_as(ids)
        self._gone = (self._rows < 0) & texts.real
        self.absent = self._gone.any(1)
        self.incomplete = bool(self.absent.any())
        if teacher.checks_now and ("ids" in batch or "document_ids" in batch):
            same_inputs(self._store, self._rows[texts.real], texts.content()[texts.real])

    def called(self, at: int) -> str:
        first = int(self._gone[at].nonzero()[0])
        return f"text {int(self._names[at, first])}"

    def read(self, name: str, per: str) -> Target:
        if per == "sample":
            return self._store.read(name, self._rows[:, 0].clamp(min=0))
        at = self._plan.where(name)
        rows, places = self._rows.flatten()[at], self._places.flatten()[at]
        gone = self.items_absent(name, per)
        return self._store.read_items(name, rows.masked_fill(gone, 0), places.masked_fill(gone, 0))

    def whole(self, rows: Tensor) -> Tensor:
        """(batch, length, …) from a row a token, 0 at padding: an answer is looked for in its text as a whole."""
        places = rows.new_zeros(self._names.numel(), *rows.shape[1:])
        return places.index_copy(0, self._plan.where(LOGITS), rows).view(*self._names.shape, *rows.shape[1:])

    def items_absent(self, name: str, per: str) -> Tensor:
        return self.absent if per == "sample" else self._gone.flatten()[self._plan.where(name)]

    def live_rows(self, name: str, live: Signal, few: Batch, per: str) -> Target:
        if per == "sample":
            return live.target(name)
        plan = TokenPlan(few, causal=self._causal, spans=False)
        # Of a packed row that holds stored documents as well, only the others.
        wanted = self._gone[self.absent].flatten()
        rows = plan.apply(live).target(name)
        kept = wanted[plan.where(name).cpu()]
        if isinstance(rows, LinearHead):
            return replace(rows, hidden=rows.hidden[kept.to(rows.hidden.device)])
        assert isinstance(rows, Tensor)
        return rows[kept.to(rows.device)]

    def context(self, name: str, per: str, where: Tensor, seed: int) -> Items:
        if per == "sample":
            ids, positions = self._names[where, 0], torch.zeros_like(where)
        else:
            at = self._plan.where(name)
            at = at[self._gone.flatten()[at]]
            ids, positions = self._names.flatten()[at], self._places.flatten()[at]
        return Items(ids, torch.zeros_like(ids), positions, torch.full_like(ids, -1), seed)


def same_inputs(store: LabelStore, rows: Tensor, content: Tensor) -> None:
    """Raises LimbeckError where a sample in a batch is not what the teacher saw when it was labelled."""
    wrong = (rows >= 0) & (store.content[rows.clamp(min=0)] != content)
    if not bool(wrong.any()):
        return
    at = int(wrong.nonzero()[0])
    plan = store.manifest.plan
    seen = "as the data set gave it" if plan.preprocessing is None else f"prepared with {dict(plan.preprocessing)}"
    views = (
        "not augmented" if plan.views is None else f"augmented by {plan.views.augmentation} from seed {plan.views.seed}"
    )
    raise LimbeckError(
        f"sample {int(store.ids[rows[at]])} in view {int(store.views[rows[at]])} is not what the teacher of the label "
        f"store {store.folder} saw, {seen} and {views}: the data, its normalisation or its augmentation is another; "
        "restore it, or label the data again"
    )


def same_teacher(store: LabelStore, teacher: Teacher) -> None:
    """Raises LimbeckError where a live teacher has other weights than the one that wrote the store."""
    found, known = teacher.identity(), store.manifest.plan.weights
    if found != known:
        raise LimbeckError(
            f"the label store {store.folder} is of {store.manifest.plan.teacher!r} with weights {known[:12]}…, "
            f"the teacher given has weights {found[:12]}…; label the data again, or give the teacher that wrote it"
        )


def _moved(target: Target, device: torch.device) -> Target:
    if isinstance(target, Tensor):
        return target.to(device)
    tensors = {f.name: getattr(target, f.name) for f in fields(target)}
    moved: Any = {name: value.to(device) for name, value in tensors.items() if isinstance(value, Tensor)}
    return replace(target, **moved)


def _merged(stored: Target, fresh: Target, absent: Tensor) -> Target:
    """`stored` (items, …) with the rows of `fresh` where items are absent."""
    if isinstance(stored, Tensor):
        assert isinstance(fresh, Tensor)
        merged = stored.clone()
        merged[absent] = fresh.to(merged.dtype)
        return merged
    shared = ("weight", "bias") if isinstance(stored, LinearHead) else ()
    rows: dict[str, Any] = {}
    for each in fields(stored):
        mine = getattr(stored, each.name)
        if isinstance(mine, Tensor) and each.name not in shared:
            rows[each.name] = _merged(mine, getattr(fresh, each.name), absent)
    return replace(stored, **rows)
