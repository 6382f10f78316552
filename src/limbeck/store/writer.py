"""Writing a label store, shard by shard, so that a kill costs no more than the shard that was being made."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from limbeck.checks import LimbeckError
from limbeck.files import difference, read_json, write_json
from limbeck.store.codecs import Columns
from limbeck.store.manifest import MANIFEST, PLAN, FileEntry, Manifest, Plan
from limbeck.store.shards import verified, write_shard

CONSTANTS = "constants.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Samples in views, encoded: of each its id, view, content id and number of items, all (records,) int64; and the
    columns of each signal. A sample has one item but in texts, whose tokens are its items."""

    ids: Tensor
    views: Tensor
    content: Tensor
    lengths: Tensor
    signals: Mapping[str, Columns]


class StoreWriter:
    """One process's part in writing a store.

    Finished shards carry a note with their checksum; the manifest is written last, when all are there, and the notes
    and the plan go. A folder with another plan, in which nothing may be overwritten, is an error that names the
    difference.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan

    def begin(self) -> None:
        """Claims the folder for the plan; one process does this.

        Raises:
            LimbeckError: the folder holds another plan, or something that is no label store.
        """
        plan = self.plan.plain()
        known = self.folder / PLAN if (self.folder / PLAN).exists() else self.folder / MANIFEST
        if known.exists():
            old = read_json(known)
            mine = {key: value for key, value in plan.items() if not isinstance(old, dict) or key in old}
            theirs = {key: value for key, value in old.items() if key in plan} if isinstance(old, dict) else old
            found = difference(theirs, mine)
            if found:
                raise LimbeckError(
                    f"{self.folder} holds labels of another plan ({found}); choose another folder, or delete this one"
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise LimbeckError(f"{self.folder} is not empty and holds no label store; choose another folder")
        for left in self.folder.glob(".*.partial"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if not (self.folder / MANIFEST).exists():
            write_json(self.folder / PLAN, plan)

    @property
    def finished(self) -> bool:
        """Whether the manifest is there."""
        return (self.folder / MANIFEST).exists()

    def missing(self) -> list[int]:
        """The numbers of the shards that are not there as they were written."""
        return [number for number in range(len(self.plan.shards)) if self._note(number) is None]

    def write(self, number: int, records: Records) -> None:
        """Writes one shard, then its note."""
        if len(records.ids) != self.plan.shards[number]:
            raise LimbeckError(
                f"{self.folder}: shard {number} was to hold {self.plan.shards[number]} samples, the data now gives "
                f"{len(records.ids)}; the data must not change while it is labelled"
            )
        starts = torch.zeros(len(records.lengths) + 1, dtype=torch.int64)
        torch.cumsum(records.lengths, 0, out=starts[1:])
        columns = {"id": records.ids, "view": records.views, "content": records.content, "start": starts}
        for signal, own in records.signals.items():
            columns |= {f"{signal}/{name}": column for name, column in own.items()}
        entry = write_shard(
            self.folder / _name(number), columns, records=len(records.ids), items=int(records.lengths.sum())
        )
        write_json(self.folder / _note_name(number), asdict(entry))

    def write_constants(self, constants: Columns) -> None:
        """Writes the tensors that the codecs need once; one process does this."""
        entry = write_shard(self.folder / CONSTANTS, constants, records=0, items=0)
        write_json(self.folder / f"{CONSTANTS}.json", asdict(entry))

    def finish(self) -> None:
        """Writes the manifest and clears away what only labelling needed; one process does this, after all shards.

        Raises:
            LimbeckError: a shard is missing.
        """
        if not self.finished:
            notes = [self._note(number) for number in range(len(self.plan.shards))]
            lost = [number for number, note in enumerate(notes) if note is None]
            if lost:
                raise LimbeckError(
                    f"{self.folder}: {len(lost)} of {len(notes)} shards are missing; run the same command again"
                )
            constants = self.folder / f"{CONSTANTS}.json"
            entry = FileEntry(**read_json(constants)) if constants.exists() else None
            Manifest(self.plan, tuple(note for note in notes if note is not None), entry).write(self.folder)
        for number in range(len(self.plan.shards)):
            (self.folder / _note_name(number)).unlink(missing_ok=True)
        (self.folder / f"{CONSTANTS}.json").unlink(missing_ok=True)
        (self.folder / PLAN).unlink(missing_ok=True)

    def _note(self, number: int) -> FileEntry | None:
        path = self.folder / _note_name(number)
        if not path.exists():
            return None
        try:
            entry = FileEntry(**read_json(path))
            verified(self.folder, entry)
        except (LimbeckError, TypeError):
            return None  # it is made again
        return entry


def _name(number: int) -> str:
    return f"labels-{number:05}.safetensors"


def _note_name(number: int) -> str:
    return f"labels-{number:05}.json"
