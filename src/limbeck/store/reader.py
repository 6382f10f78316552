"""Reading a label store: signals by sample and view, whatever the batch, order, process or epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.store.codecs import Columns
from limbeck.store.manifest import FileEntry, Manifest, SignalPlan
from limbeck.store.shards import mapped, verified
from limbeck.types import Target

IN_MEMORY = 1 << 30
"""Bytes up to which a store is held in memory; a larger one is read from its mapped files."""

DECODED = 1 << 28
"""Bytes up to which a dense signal is kept decoded."""

SPARE = 4
"""How much larger than the records a table of ids may be."""

STATISTICS = ("log_sum", "entropy", "label")


class LabelStore:
    """A finished label store.

    A shard is compared with its checksum when it is first touched, so that no number of a corrupt one is used.
    `folder`, `manifest` and `signals` say what it is; `ids`, `views` and `content` (records,) int64 what is in it.

    Raises:
        LimbeckError: see `Manifest.read`; a shard that is missing or corrupt is named, when opening or when it is first
            touched.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._shards = [_Shard(folder, entry) for entry in manifest.files]
        for shard in self._shards:
            shard.look()
        self._in_memory = manifest.bytes <= IN_MEMORY
        self._constants: Columns | None = None
        self._whole: dict[str, Tensor] = {}
        self._decoded_whole: dict[str, Tensor | None] = {}
        records = torch.tensor([entry.records for entry in manifest.files])
        items = torch.tensor([entry.items for entry in manifest.files])
        self._first_record, self._first_item = (_before(counts) for counts in (records, items))
        self._index: _Index | None = None

    @classmethod
    def open(cls, folder: str | Path) -> LabelStore:
        """The store in a folder."""
        return cls(Path(folder), Manifest.read(Path(folder)))

    @property
    def signals(self) -> Mapping[str, SignalPlan]:
        """The signals by name."""
        return self.manifest.plan.signals

    @property
    def ids(self) -> Tensor:
        """The sample of each record, (records,) int64."""
        return self._all("id")

    @property
    def views(self) -> Tensor:
        """The view of each record, (records,) int64."""
        return self._all("view")

    @property
    def content(self) -> Tensor:
        """The hash of what the teacher saw of each record, (records,) int64; see `limbeck.content`."""
        return self._all("content")

    @property
    def lengths(self) -> Tensor:
        """The items of each record, (records,) int64."""
        return self._index_of().ends - self._index_of().starts

    def rows(self, ids: Tensor, views: Tensor | int = 0) -> Tensor:
        """The record of each sample in a view, (batch,) int64, -1 where the store has none."""
        return self._index_of().find(ids, views)

    def read(self, name: str, rows: Tensor) -> Target:
        """A signal that has a row a sample, for records `rows` (batch,)."""
        whole = self._small_whole(name)
        return self._decoded(name, rows, self._first_record) if whole is None else whole.index_select(0, rows)

    def read_items(self, name: str, rows: Tensor, positions: Tensor) -> Target:
        """A signal that has a row a token: of record `rows[i]` the token `positions[i]`, both (items,), in any order.

        Raises:
            LimbeckError: a text is shorter than a position asked for.
        """
        index = self._index_of()
        items = index.starts[rows] + positions
        beyond = items >= index.ends[rows]
        if bool(beyond.any()):
            at = int(beyond.nonzero()[0])
            raise LimbeckError(
                f"{self.folder}: token {int(positions[at])} of text {int(self.ids[rows[at]])} was never labelled: its "
                f"text had {int(self.lengths[rows[at]])} tokens then; label the data again"
            )
        return self._decoded(name, items, self._first_item)

    def statistics(self, name: str, items: Tensor) -> dict[str, Tensor]:
        """What is known of the whole distribution beside its stored part, float32 (items,): `log_sum` (of exponentials
        at temperature 1), `entropy` (at the codec's temperature) and `label` (its log-probability at temperature 1, NaN
        without one). `items` are records, or tokens counted over the whole store. Empty for other codecs."""
        first = self._first_record if self.signals[name].per == "sample" else self._first_item
        columns = self._columns(f"{name}/", items, first)
        return {key: columns[key].float().squeeze(1) for key in STATISTICS if key in columns}

    def verify(self) -> list[str]:
        """What is wrong with the store's files, a line each; empty where nothing is."""
        found = []
        entries = [*self.manifest.files, *([self.manifest.constants] if self.manifest.constants else [])]
        for entry in entries:
            try:
                verified(self.folder, entry)
            except LimbeckError as error:
                found.append(str(error))
        return found

    def _small_whole(self, name: str) -> Tensor | None:
        """All records of a dense signal, decoded once where that is little: a batch then costs one look-up."""
        if name not in self._decoded_whole:
            signal = self.signals[name]
            size = 4 * self.manifest.records * math.prod(signal.shape)
            fits = self._in_memory and signal.codec.kind is Tensor and signal.per == "sample" and size <= DECODED
            every = self._decoded(name, torch.arange(self.manifest.records), self._first_record) if fits else None
            self._decoded_whole[name] = every if isinstance(every, Tensor) else None
        return self._decoded_whole[name]

    def _decoded(self, name: str, at: Tensor, first: Tensor) -> Target:
        signal = self.signals[name]
        return signal.codec.decode(self._columns(f"{name}/", at, first), signal.shape, self.constants)

    def _columns(self, prefix: str, at: Tensor, first: Tensor) -> Columns:
        names = [name for name in self._shards[0].columns if name.startswith(prefix)]
        if self._in_memory:
            return {name.removeprefix(prefix): self._all(name).index_select(0, at) for name in names}
        number = torch.searchsorted(first, at, right=True) - 1
        found: Columns = {}
        for shard in number.unique().tolist():
            here = number == shard
            local = at[here] - first[shard]
            columns = self._shards[shard].columns
            for name in names:
                part = _signed(columns[name])[local]
                short = name.removeprefix(prefix)
                if short not in found:
                    found[short] = torch.empty((len(at), *part.shape[1:]), dtype=part.dtype)
                found[short][here] = part
        kinds = {name.removeprefix(prefix): self._shards[0].columns[name].dtype for name in names}
        return {short: column.view(kinds[short]) for short, column in found.items()}

    def _all(self, name: str) -> Tensor:
        """A column over all shards."""
        if name not in self._whole:
            self._whole[name] = torch.cat([shard.columns[name] for shard in self._shards])
        return self._whole[name]

    def _index_of(self) -> _Index:
        if self._index is None:
            starts = [
                shard.columns["start"] + first for shard, first in zip(self._shards, self._first_item, strict=True)
            ]
            begin, end = (torch.cat([each[side] for each in starts]) for side in (slice(None, -1), slice(1, None)))
            self._index = _Index(self.ids, self.views, begin, end)
        return self._index

    @property
    def constants(self) -> Columns:
        """The tensors that codecs need once, such as a language model's head."""
        if self._constants is None:
            entry = self.manifest.constants
            self._constants = {} if entry is None else mapped(verified(self.folder, entry))
        return self._constants

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker maps the files for itself.
        return {**self.__dict__, "_whole": {}, "_decoded_whole": {}, "_index": None, "_constants": None}


class _Shard:
    """A shard's columns, mapped and verified when first asked for."""

    def __init__(self, folder: Path, entry: FileEntry) -> None:
        self._folder, self._entry = folder, entry
        self._columns: Columns | None = None

    def look(self) -> None:
        """Raises LimbeckError where the file is missing or has another size; reads nothing of it."""
        path = self._folder / self._entry.file
        if not path.is_file() or path.stat().st_size != self._entry.bytes:
            verified(self._folder, self._entry)

    @property
    def columns(self) -> Columns:
        """Every column by name."""
        if self._columns is None:
            self._columns = mapped(verified(self._folder, self._entry))
        return self._columns

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_columns": None}


class _Index:
    """Records by (id, view), and where each record's items are.

    Ids that are small numbers, as positions in a data set, are looked up in a table; others by a sorted hash. NumPy
    does it, whose calls cost a fifth of torch's: a batch must not wait for its labels.
    """

    def __init__(self, ids: Tensor, views: Tensor, starts: Tensor, ends: Tensor) -> None:
        self.starts, self.ends = starts, ends
        self._ids, self._views = ids.numpy(), views.numpy()
        self._width = int(self._views.max()) + 1
        self._table: NDArray[np.int64] | None = None
        if self._ids.min() >= 0 and (int(self._ids.max()) + 1) * self._width <= SPARE * len(ids) + SPARE:
            self._table = np.full((int(self._ids.max()) + 1) * self._width, -1)
            self._table[self._ids * self._width + self._views] = np.arange(len(ids))
        else:
            hashes = _hashed(self._ids, self._views)
            self._order = np.argsort(hashes, kind="stable")
            self._hashes = hashes[self._order]

    def find(self, ids: Tensor, views: Tensor | int) -> Tensor:
        wanted, seen = ids.numpy(), views.numpy() if isinstance(views, Tensor) else views
        if self._table is not None:
            rows = self._table.take(wanted * self._width + seen, mode="clip")
        else:
            rows = self._order.take(np.searchsorted(self._hashes, _hashed(wanted, seen)), mode="clip")
        # Whatever was found is the sample only if it is called so; a row of -1 is the last one, which is not.
        right = (self._ids.take(rows) == wanted) & (self._views.take(rows) == seen)
        return torch.from_numpy(rows if right.all() else np.where(right, rows, -1))


def _hashed(ids: NDArray[np.int64], views: NDArray[np.int64] | int) -> NDArray[np.uint64]:
    """A hash of each (id, view): one multiplication each, for ids that are hashes already."""
    words = ids.view(np.uint64) ^ (np.asarray(views).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    hashed: NDArray[np.uint64] = words * np.uint64(0xBF58476D1CE4E5B9)
    return hashed


def _signed(column: Tensor) -> Tensor:
    """The same bits in a type that torch can index."""
    return column.view(torch.int16) if column.dtype is torch.uint16 else column


def _before(counts: Tensor) -> Tensor:
    """How many come before each, (shards,)."""
    return counts.cumsum(0) - counts
